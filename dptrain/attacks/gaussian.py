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

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray

Variance = Literal["per_record", "pooled", "shrunk"]

_RELATIVE_FLOOR = 1e-12
"""Smallest per-record variance, as a share of the pooled one: below this a variance is rounding error."""

_PRIOR_RECORDS = 20_000
"""About so many records, evenly spaced, give the common variance and its weight."""

_MAX_PRIOR_DF = 1e4


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations from that mean, of the references on one side (IN or OUT)."""

    count_N: IntArray
    mean_N: FloatArray
    squares_N: FloatArray


@dataclass(frozen=True)
class Prior:
    """What all records together say about the spread of one side."""

    pooled: float
    """Variance of the deviations from each record's own mean."""
    variance: float
    """Common variance that a record's own is drawn towards."""
    df: float
    """Weight of `variance`, in degrees of freedom."""


@dataclass(frozen=True)
class Predictive:
    """Location, scale and degrees of freedom (infinite: normal) of the next signal of every record."""

    mean_N: FloatArray
    scale_N: FloatArray
    df_N: FloatArray | None
    known_N: BoolArray
    """Whether at least one reference was on this side; where not, the prediction means nothing."""


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
    sums = SpreadSums.of(side, other)
    return predict_with(side, variance, sums.prior(*prior_sample(side, prior_stride(side.count_N.size)), variance))


def predict_with(side: Moments, variance: Variance, prior: Prior) -> Predictive:
    """As `predict`, for some of the records, with the `prior` of all of them."""
    count = side.count_N
    df: FloatArray | None = None
    if variance == "pooled":
        spread = np.full(count.shape, prior.pooled)
    elif variance == "per_record":
        own = side.squares_N / np.maximum(count, 1)
        spread = np.where(count >= 2, np.maximum(own, _RELATIVE_FLOOR * prior.pooled), prior.pooled)
    elif variance == "shrunk":
        df = np.asarray(prior.df + np.maximum(count - 1, 0), dtype=np.float64)
        spread = (prior.df * prior.variance + side.squares_N) / df
        spread *= 1.0 + 1.0 / np.maximum(count, 1)
    else:
        raise ValueError(f"variance={variance!r} must be per_record, pooled or shrunk.")
    return Predictive(side.mean_N, np.sqrt(spread), df, count > 0)


@dataclass(frozen=True)
class SpreadSums:
    """Sums over records behind the pooled variance, with what replaces it where a side has none; they add up."""

    squares: float
    df: float
    other_squares: float = 0.0
    other_df: float = 0.0
    all_squares: float = 0.0
    """Of both sides together, as if membership did not matter."""
    all_df: float = 0.0

    @classmethod
    def of(cls, side: Moments, other: Moments | None) -> "SpreadSums":
        own = float(side.squares_N.sum()), float(np.maximum(side.count_N - 1, 0).sum())
        if other is None:
            return cls(*own)
        theirs = float(other.squares_N.sum()), float(np.maximum(other.count_N - 1, 0).sum())
        count = side.count_N + other.count_N
        gap = side.mean_N - other.mean_N
        between = float((side.count_N * other.count_N / np.maximum(count, 1)) @ (gap * gap))
        return cls(*own, *theirs, own[0] + theirs[0] + between, float(np.maximum(count - 1, 0).sum()))

    def __add__(self, more: "SpreadSums") -> "SpreadSums":
        return SpreadSums(
            self.squares + more.squares,
            self.df + more.df,
            self.other_squares + more.other_squares,
            self.other_df + more.other_df,
            self.all_squares + more.all_squares,
            self.all_df + more.all_df,
        )

    @property
    def pooled(self) -> float:
        for squares, df in (
            (self.squares, self.df),
            (self.other_squares, self.other_df),
            (self.all_squares, self.all_df),
        ):
            if df > 0.0 and squares > 0.0:
                return squares / df
        return 1.0

    def prior(self, count_S: IntArray, squares_S: FloatArray, variance: Variance) -> Prior:
        """The prior, from these sums and the `prior_sample`, which only the shrunk variance needs."""
        pooled = self.pooled
        return Prior(pooled, *(variance_prior(count_S, squares_S, pooled) if variance == "shrunk" else (pooled, 0.0)))


def prior_stride(num_records: int) -> int:
    """Every how many records one is taken for the common variance."""
    return max(1, num_records // _PRIOR_RECORDS)


def prior_sample(side: Moments, stride: int, start: int = 0) -> tuple[IntArray, FloatArray]:
    """Return count and squares of the records that the common variance is estimated from.

    `start` is the place of the side's first record among all.
    """
    some = slice(-start % stride, None, stride)
    return side.count_N[some], side.squares_N[some]


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


def variance_prior(count_S: IntArray, squares_S: FloatArray, pooled: float) -> tuple[float, float]:
    """Return the common variance and its weight in degrees of freedom (Smyth 2004, section 6.2).

    The spread of the logarithms of the records' variances, beyond what their own sampling error explains,
    says how different the true variances are. With fewer than 10 usable records the pooled variance gets a
    weight of 4.
    """
    df = count_S - 1
    usable = np.flatnonzero((df >= 1) & (squares_S > _RELATIVE_FLOOR * pooled))
    if usable.size < 10:
        return pooled, 4.0
    table = np.arange(1, int(df.max()) + 1) / 2.0
    place = df[usable] - 1
    log_variance = np.log(squares_S[usable] / df[usable])
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
