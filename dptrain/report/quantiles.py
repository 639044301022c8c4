"""A quantile over patients with its interval, and the same quantile when nothing leaks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from dptrain.audit.null import NullDistribution
from dptrain.report.results import Estimate


def quantile_interval(values: NDArray[np.float64], probability: float) -> Estimate:
    """Quantile (linear interpolation) and its 95% interval from order statistics: no assumption, no random numbers."""
    ordered = np.sort(values)
    low, high = binom.ppf([0.025, 0.975], len(ordered), probability).astype(int)
    value = float(np.quantile(ordered, probability))
    return Estimate(
        value, min(value, float(ordered[max(low - 1, 0)])), max(value, float(ordered[min(high, len(ordered) - 1)]))
    )


def null_quantile(null: NullDistribution, probability: float) -> Estimate:
    """The same quantile (linear interpolation) in every permutation: expectation and central 95%."""
    place = (null.num_patients - 1) * probability
    below = int(np.floor(place))
    grid = null.at_least_BT.shape[1] - 1
    smallest = [
        ((null.at_least_BT >= null.num_patients - rank).sum(axis=1) - 1) / grid
        for rank in (below, min(below + 1, null.num_patients - 1))
    ]
    values = smallest[0] + (place - below) * (smallest[1] - smallest[0])
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))
