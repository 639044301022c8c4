"""A figure with its interval, and the intervals that several modules share."""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats


@dataclass(frozen=True)
class Interval:
    """A figure, and the ends of its interval; NaN where it could not be estimated."""

    value: float
    low: float
    high: float

    @property
    def estimable(self) -> bool:
        """Whether there is a figure."""
        return bool(np.isfinite(self.value))


NOT_ESTIMABLE = Interval(float("nan"), float("nan"), float("nan"))


def normal_interval(value: float, error: float, confidence: float = 0.95, df: float = np.inf) -> Interval:
    """Return value +- t_df * error (standard error); normal if `df` is infinite."""
    reach = float(stats.t.ppf(0.5 + confidence / 2.0, df)) * error
    return Interval(value, value - reach, value + reach)


def area_interval(value: float, error: float, confidence: float = 0.95, df: float = np.inf) -> Interval:
    """Return the interval of an AUC, symmetric on the logit scale so that it stays within 0 and 1.

    At an AUC of exactly 0 or 1 no variance can be seen: the interval is that point and means nothing.
    """
    if not 0.0 < value < 1.0:
        return Interval(value, value, value)
    reach = float(stats.t.ppf(0.5 + confidence / 2.0, df)) * error / (value * (1.0 - value))
    low, high = special.expit(special.logit(value) + np.array([-reach, reach]))
    return Interval(value, float(low), float(high))


def jeffreys_interval(count: float, total: float, confidence: float = 0.95) -> Interval:
    """Return the fraction count / total with Jeffreys' interval.

    Brown, Cai & DasGupta 2001, doi 10.1214/ss/1009213286.
    Its mean coverage is the nominal one also for a handful of cases. Numbers that are not whole (effective sample
    sizes) are allowed. Without cases it begins at 0, with nothing but cases it ends at 1.

    Raises:
        ValueError: a count outside 0..total.
    """
    if not 0.0 <= count <= total or total <= 0.0:
        raise ValueError(f"count={count} must lie in 0..total={total}, with total above 0.")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0.0 else float(special.betaincinv(count + 0.5, total - count + 0.5, tail))
    high = 1.0 if count == total else float(special.betaincinv(count + 0.5, total - count + 0.5, 1.0 - tail))
    value = count / total
    return Interval(value, min(low, value), max(high, value))


def clopper_pearson(count: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval for a fraction (Clopper & Pearson 1934, doi
    10.1093/biomet/26.4.404).

    Non-integer counts are allowed (effective sample sizes).

    Raises:
        ValueError: a count outside 0..total, or a confidence outside (0, 1).
    """
    check_fraction("confidence", confidence)
    if not 0 <= count <= total or total <= 0:
        raise ValueError(f"count={count} must lie in 0..total={total}, with total above 0.")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(special.betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(special.betaincinv(count + 1, total - count, 1.0 - tail))
    return low, high


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError unless 0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value} must be a fraction between 0 and 1, for example 0.01 for one percent.")
