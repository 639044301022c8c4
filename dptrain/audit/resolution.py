"""What M models can resolve: how sure one patient's AUC is, and from which AUC on a patient can stand out.

Three answers, each from the null of the very models and patients at hand (`audit.null`):

- `standard_error`: of a patient's AUC near 0.5 and near 0.8. Two patients closer than about three of them cannot be
  told apart.
- `count_from`: the lowest threshold at which chance alone is expected to show at most one patient. Counts above lower
  thresholds are "not resolvable with M models".
- `list_from`: the lowest AUC at which a single patient could be listed at a false discovery rate, if nobody else were.
  With many listed patients the list reaches lower.
"""

from dataclasses import dataclass

import numpy as np

from dptrain.audit.null import NullDistribution
from dptrain.audit.patients import patient_auc_standard_error


@dataclass(frozen=True)
class Resolution:
    """What the design can resolve. NaN: not even an AUC of 1."""

    num_models: int
    num_patients: int
    standard_error: dict[float, float]
    """Of one patient's AUC, by AUC, with half of the models IN."""
    count_from: float
    list_from: float
    false_discovery_rate: float


def resolution(null: NullDistribution, false_discovery_rate: float = 0.05) -> Resolution:
    """Return what these models and patients can resolve.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    if not 0.0 < false_discovery_rate < 1.0:
        raise ValueError(f"false_discovery_rate={false_discovery_rate} must be a fraction between 0 and 1.")
    grid_T = np.linspace(0.0, 1.0, null.at_least_BT.shape[1])
    expected_T = null.at_least_BT.mean(axis=0)
    half = null.num_models / 2.0
    return Resolution(
        num_models=null.num_models,
        num_patients=null.num_patients,
        standard_error={area: float(patient_auc_standard_error(area, half, half)) for area in (0.5, 0.8)},
        count_from=_lowest(grid_T, expected_T <= 1.0),
        list_from=_lowest(grid_T, null.p_values(grid_T) * null.num_patients <= false_discovery_rate),
        false_discovery_rate=false_discovery_rate,
    )


def _lowest(grid_T: np.ndarray, holds_T: np.ndarray) -> float:
    return float(grid_T[int(np.argmax(holds_T))]) if holds_T.any() else float("nan")
