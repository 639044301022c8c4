"""Curves thinned to what the eye sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 240


def survival_points(
    auc_P: NDArray[np.float64], max_points: int = MAX_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y): y patients have an AUC of at least x; x rising. Patients without an AUC are left out.

    Every step of the distribution if there are few, else those nearest to a grid of counts that is even on a log axis:
    no point is moved, so each one is exact, and the step curve through them errs by less than a line's width.
    """
    values, first = np.unique(-auc_P[np.isfinite(auc_P)], return_index=False, return_counts=True)
    counts = np.cumsum(first)
    if len(values) > max_points:
        kept = np.unique(np.searchsorted(counts, np.geomspace(counts[0], counts[-1], max_points)))
        values, counts = values[kept], counts[kept]
    return -values[::-1], counts[::-1].astype(np.float64)
