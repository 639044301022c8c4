"""Estimates as leaves of the report document: rounded, with their n, unit and what their interval is about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dptrain.audit.interval import Interval
from dptrain.report.leaves import Figure
from dptrain.report.results import Estimate
from dptrain.report.tradeoff import DECIMALS

OTHER_PATIENTS = "other patients from the same source"
OTHER_MODELS = "other models on other halves of these patients"
BOTH = "other patients from the same source and other models"
TEST_AND_MODELS = "other test patients and other models"
CHANCE = "central 95% of what chance shows"
TOP_FRACTION = 0.01


def beyond(n: int, fraction: float = TOP_FRACTION) -> int:
    """Patients at or beyond the 99th percentile, or another."""
    return max(1, math.ceil(fraction * n * (1 - 1e-12)))


def figure_of(
    estimate: Estimate | Interval | None,
    n: int,
    *,
    unit: str = "AUC",
    n_unit: str = "patients",
    about: str = "",
    rests_on: float | None = None,
    cell: str | None = None,
) -> Figure:
    """An estimate as a leaf."""
    if estimate is None:
        return Figure(None, n=n, n_unit=n_unit, unit=unit, about=about)
    value, low, high = (number_of(end) for end in (estimate.value, estimate.low, estimate.high))
    return Figure(value, low, high, n, n_unit, unit, about, rests_on, cell)


def number_of(value: float | None) -> float | None:
    """Rounded as in tradeoff.json; None where there is no finite number. Whole numbers stay whole."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else round(float(value), DECIMALS) + 0.0


def rounded(values: NDArray[np.floating] | Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), DECIMALS) + 0.0 for value in values)
