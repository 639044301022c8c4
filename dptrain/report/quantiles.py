"""A quantile over patients with its interval, and the same quantile when nothing leaks, as a report's estimates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.audit import quantile
from dptrain.audit.null import NullDistribution
from dptrain.report.results import Estimate


def quantile_interval(values: NDArray[np.float64], probability: float) -> Estimate:
    """`audit.quantile.quantile_interval`."""
    found = quantile.quantile_interval(values, probability)
    return Estimate(found.value, found.low, found.high)


def null_quantile(null: NullDistribution, probability: float) -> Estimate:
    """`audit.quantile.null_quantile`."""
    found = quantile.null_quantile(null, probability)
    return Estimate(found.value, found.low, found.high)
