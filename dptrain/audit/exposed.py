"""The list of exposed patients: who they are, with a bound on how many of them are false alarms.

Benjamini & Hochberg 1995 (doi 10.1111/j.2517-6161.1995.tb02031.x) on p-values against the null of
`audit.null`: of the patients listed at a false discovery rate of 5%, on average at most 5% are listed by
chance. A patient who is not listed is not thereby safe: with few models the list is short.
"""

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray


def benjamini_hochberg(p_values_P: npt.ArrayLike, false_discovery_rate: float = 0.05) -> BoolArray:
    """Return (P,) bool: the patients on the list. NaN p-values are never listed and do not count as tests.

    Raises:
        ValueError: p-values outside 0..1 or a rate outside (0, 1).
    """
    return np.asarray(adjusted_p_values(p_values_P) <= _checked_rate(false_discovery_rate))


def adjusted_p_values(p_values_P: npt.ArrayLike) -> FloatArray:
    """Return (P,) the smallest false discovery rate at which each patient is listed; NaN stays NaN.

    Raises:
        ValueError: not a vector, or p-values outside 0..1.
    """
    p_values = np.asarray(p_values_P, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(p_values))
    if p_values.ndim != 1 or np.any((p_values[known] < 0.0) | (p_values[known] > 1.0)):
        raise ValueError(f"p_values.shape={p_values.shape} must be (P,) numbers between 0 and 1.")
    order = known[np.argsort(p_values[known])]
    scaled = p_values[order] * known.size / np.arange(1, known.size + 1)
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def _checked_rate(rate: float) -> float:
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_discovery_rate={rate} must be a fraction between 0 and 1, for example 0.05.")
    return rate
