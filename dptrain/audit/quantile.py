"""Quantiles of the patients' AUCs, and what the same quantile shows without leakage."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import FloatArray
from dptrain.audit.interval import Interval
from dptrain.audit.null import NullDistribution


def quantile_interval(values_P: npt.ArrayLike, probability: float, confidence: float = 0.95) -> Interval:
    """Return a quantile (linear interpolation) with its interval from order statistics; NaN values are left out.

    Distribution-free and without random numbers (David & Nagaraja 2003, "Order Statistics", section 7.1). It is about
    other patients and other models: as for `counts`, redrawing the models moves patients one by one. Coverage is at
    least the nominal one wherever the sample reaches beyond the quantile on both sides; of 1,000 patients the largest
    is the upper end for the 99.9th percentile, and no interval from so few can reach further.

    Raises:
        ValueError: a probability outside (0, 1), or no value.
    """
    values = np.asarray(values_P, dtype=np.float64)
    ordered = np.sort(values[np.isfinite(values)])
    if not 0.0 < probability < 1.0 or ordered.size == 0:
        raise ValueError(f"probability={probability}, {ordered.size} values: expected a fraction, and some values.")
    tail = (1.0 - confidence) / 2.0
    low, high = stats.binom.ppf([tail, 1.0 - tail], ordered.size, probability).astype(int)
    value = float(np.quantile(ordered, probability))
    ends = ordered[max(low - 1, 0)], ordered[min(high, ordered.size - 1)]
    return Interval(value, min(value, float(ends[0])), max(value, float(ends[1])))


def null_quantile(null: NullDistribution, probability: float) -> Interval:
    """Return the same quantile without leakage: expectation and central 95% over permutations."""
    place = (null.num_patients - 1) * probability
    below = int(np.floor(place))
    values = [_order_statistic(null, rank) for rank in (below, min(below + 1, null.num_patients - 1))]
    mixed = values[0] + (place - below) * (values[1] - values[0])
    low, high = np.quantile(mixed, [0.025, 0.975])
    return Interval(float(mixed.mean()), float(low), float(high))


def _order_statistic(null: NullDistribution, rank: int) -> FloatArray:
    """(B,) the AUC of this rank (0 is the smallest), on the null's grid."""
    grid = null.at_least_BT.shape[1] - 1
    return np.asarray(((null.at_least_BT >= null.num_patients - rank).sum(axis=1) - 1) / grid, dtype=np.float64)
