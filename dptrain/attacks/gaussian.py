"""What the references say about one record: a normal or Student-t prediction for the next signal.

Three ways to estimate the spread, because with few references it decides how good the attack is:

- ``per_record``: each record's own variance (divided by the count, as the published code of Carlini et al.
  2022 does).
- ``pooled``: one variance for all records, of the deviations from each record's own mean. (The spread of the
  raw signals
  of all records, the usual mistake, is mostly the difference between easy and hard records.)
- ``shrunk``: each record's variance drawn towards a common value, by as much as the data of all records
  support
  (empirical Bayes: Smyth 2004, doi 10.2202/1544-6115.1027, section 6.2), and the Student-t predictive
  distribution that follows. The same idea as BaVarIA-t (Brannvall 2026, arXiv 2603.11799), with the prior
  estimated rather than fixed.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from dptrain.attacks.checks import FloatArray, IntArray

Variance = Literal["per_record", "pooled", "shrunk"]

_RELATIVE_FLOOR = 1e-12
"""Smallest per-record variance, as a share of the pooled one: below this a variance is rounding error."""

_PRIOR_RECORDS = 20_000
"""Records (evenly spaced) from which the common variance and its weight are estimated."""

_MAX_PRIOR_DF = 1e4


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations from that mean, of the references on one side (IN or OUT)."""

    count_N: IntArray
    mean_N: FloatArray
    squares_N: FloatArray


@dataclass(frozen=True)
class Predictive:
    """Location, scale and degrees of freedom (infinite: normal) of the next signal of every record."""

    mean_N: FloatArray
    scale_N: FloatArray
    df_N: FloatArray | None
    known_N: FloatArray
    """1 where at least one reference was on this side, 0 where the prediction means nothing."""


def predict(side: Moments, variance: Variance, other: Moments | None = None) -> Predictive:
    """Return the prediction for the next signal of every record on `side`.

    A record with fewer than 2 references on this side has no variance of its own and takes the pooled one. If
    no record has 2, the pooled one comes from the other side, then from both sides together as if membership
    did not matter, and is 1 if nothing varies at all.

    Args:
        side: moments of the references on this side.
        variance: how the spread is estimated.
        other: moments of the other side, used only if this side has no variance at all.

    Raises:
        ValueError: unknown `variance`.
    """
    count = side.count_N
    pooled = _pooled_variance(side, other)
    df: FloatArray | None = None
    if variance == "pooled":
        spread = np.full(count.shape, pooled)
    elif variance == "per_record":
        own = side.squares_N / np.maximum(count, 1)
        spread = np.where(count >= 2, np.maximum(own, _RELATIVE_FLOOR * pooled), pooled)
    elif variance == "shrunk":
        prior_variance, prior_df = variance_prior(side, pooled)
        df = np.asarray(prior_df + np.maximum(count - 1, 0), dtype=np.float64)
        spread = (prior_df * prior_variance + side.squares_N) / df
        spread *= 1.0 + 1.0 / np.maximum(count, 1)
    else:
        raise ValueError(f"variance={variance!r} must be per_record, pooled or shrunk.")
    return Predictive(side.mean_N, np.sqrt(spread), df, (count > 0).astype(np.float64))


def log_density(predictive: Predictive, signal_N: FloatArray) -> FloatArray:
    """Return (N,) the log density of the prediction at the signals."""
    scale = predictive.scale_N
    z = (signal_N - predictive.mean_N) / scale
    if predictive.df_N is None:
        return np.asarray(-0.5 * z * z - np.log(scale) - 0.5 * np.log(2.0 * np.pi), dtype=np.float64)
    df = predictive.df_N
    constant = _t_constants(df)
    return np.asarray(constant - np.log(scale) - 0.5 * (df + 1.0) * np.log1p(z * z / df), dtype=np.float64)


def _t_constants(df_N: FloatArray) -> FloatArray:
    """Return log of the normalising constant of Student's t; degrees of freedom differ by whole numbers
    only."""
    smallest = float(df_N.min())
    place = np.rint(df_N - smallest).astype(np.int64)
    values = smallest + np.arange(int(place.max()) + 1)
    table = special.gammaln((values + 1.0) / 2.0) - special.gammaln(values / 2.0) - 0.5 * np.log(np.pi * values)
    return np.asarray(table[place], dtype=np.float64)


def tail_score(predictive: Predictive, signal_N: FloatArray) -> FloatArray:
    """Return (N,) -log Pr[next signal >= observed signal], rising with the signal and without ties at the
    top.

    The order is that of the probability Pr[next <= observed], which in float64 would be 1 for every signal 9
    standard deviations above the mean. The Student-t probability goes through Wallace's normal deviate (1959,
    doi 10.1214/aoms/1177706092), strictly rising and within 0.02 of the exact deviate from 4 degrees of
    freedom on.
    """
    z = (signal_N - predictive.mean_N) / predictive.scale_N
    if predictive.df_N is not None:
        df = predictive.df_N
        z = np.sign(z) * (8.0 * df + 1.0) / (8.0 * df + 3.0) * np.sqrt(df * np.log1p(z * z / df))
    return np.asarray(-special.log_ndtr(-z), dtype=np.float64)


def variance_prior(side: Moments, pooled: float) -> tuple[float, float]:
    """Return the common variance and its weight in degrees of freedom (Smyth 2004, section 6.2).

    The spread of the logarithms of the records' variances, beyond what their own sampling error explains,
    says how different the true variances are. With fewer than 10 usable records the pooled variance gets a
    weight of 4.
    """
    df = side.count_N - 1
    usable = np.flatnonzero((df >= 1) & (side.squares_N > _RELATIVE_FLOOR * pooled))
    if usable.size < 10:
        return pooled, 4.0
    usable = usable[:: max(1, usable.size // _PRIOR_RECORDS)]
    table = np.arange(1, int(df.max()) + 1) / 2.0
    place = df[usable] - 1
    log_variance = np.log(side.squares_N[usable] / df[usable])
    log_variance -= special.digamma(table)[place] - np.log(table)[place]
    excess = float(log_variance.var(ddof=1) - special.polygamma(1, table)[place].mean())
    centre = float(log_variance.mean())
    half_df = _inverse_trigamma(excess) if excess > 0.0 else np.inf
    prior_df = float(min(2.0 * half_df, _MAX_PRIOR_DF))
    return float(np.exp(centre + special.digamma(prior_df / 2.0) - np.log(prior_df / 2.0))), prior_df


def _inverse_trigamma(value: float) -> float:
    """Solve trigamma(x) = value by Newton's method on 1/trigamma (Smyth 2004, appendix)."""
    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1.0 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def _pooled_variance(side: Moments, other: Moments | None) -> float:
    sides = [side] if other is None else [side, other]
    for moments in sides:
        df = np.maximum(moments.count_N - 1, 0).sum()
        if df > 0 and moments.squares_N.sum() > 0.0:
            return float(moments.squares_N.sum() / df)
    if other is not None:
        count = side.count_N + other.count_N
        between = side.count_N * other.count_N / np.maximum(count, 1) * (side.mean_N - other.mean_N) ** 2
        squares = float((side.squares_N + other.squares_N + between).sum())
        df = np.maximum(count - 1, 0).sum()
        if df > 0 and squares > 0.0:
            return squares / float(df)
    return 1.0
