"""How many patients are exposed: counts of patient AUCs above thresholds, beside the count expected without
leakage.

The interval is about the *expected count* if the study were repeated: new patients from the same source, as
many, and new models trained on new random halves. It is the binomial interval of Clopper and Pearson for the
fraction of patients above the threshold. Why this is right although the models are redrawn too: each
patient's halves are drawn on their own, so redrawing the models moves patients over the threshold one by one,
nearly independently, and that is part of the binomial spread already. (What models that leak unevenly do to all
patients at once is added: `common`.) Bootstrapping twin pairs instead adds
fresh noise to AUCs that are noisy already; it moves patients from the crowded middle into the tail and gives
counts that are too high.

The count is of *measured* AUCs. With few models noise lifts more patients above a threshold than it pulls
below, so it is larger than the number of patients whose true AUC is above it; the count expected under the
null is the floor to hold it against.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.audit.null import NullDistribution
from dptrain.audit.roc import clopper_pearson

THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class ExposedCount:
    """Patients with an attack AUC at or above a threshold."""

    threshold: float
    count: int
    null_expected: float
    """Mean count without leakage, for the same models and patients."""
    null_high: float
    """97.5% quantile of the count without leakage."""
    low: float
    high: float
    resolvable: bool
    """False if more than one patient is expected without leakage: this many models cannot resolve the
    threshold, and the
    count must be reported as "not resolvable", not as a number."""
    num_patients: int


def exposed_counts(
    patient_auc_P: npt.ArrayLike,
    null: NullDistribution,
    thresholds: Sequence[float] = THRESHOLDS,
    confidence: float = 0.95,
    common_share: Mapping[float, float] | None = None,
) -> list[ExposedCount]:
    """Return one count per threshold, with its interval (see the module's top) and its null.

    Args:
        patient_auc_P: (P,) AUCs; NaN patients are left out.
        null: of the same patients and models.
        thresholds: AUCs in 0..1.
        confidence: of the intervals.
        common_share: `CommonParts.of_share` of these thresholds; None: models are taken to leak alike.

    Raises:
        ValueError: a threshold outside 0..1, or a number of patients other than the null's.
    """
    auc = np.asarray(patient_auc_P, dtype=np.float64)
    auc = auc[np.isfinite(auc)]
    if auc.size != null.num_patients:
        raise ValueError(
            f"patient_auc has {auc.size} patients but the null has {null.num_patients}; expected the same patients. "
            "Compute both from the same evidence and membership."
        )
    common = common_share or {}
    return [_exposed_count(auc, null, float(t), confidence, common.get(float(t), 0.0)) for t in thresholds]


def _exposed_count(
    auc: npt.NDArray[np.float64], null: NullDistribution, threshold: float, confidence: float, common: float
) -> ExposedCount:
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold} must be an AUC between 0 and 1.")
    count = count_at_least(auc, threshold)
    low, high = count_interval(count, auc.size, common, confidence)
    expected = null.expected_count(threshold)
    return ExposedCount(
        threshold=threshold,
        count=count,
        null_expected=expected,
        null_high=float(np.quantile(null.counts(threshold), 0.975)),
        low=low,
        high=high,
        resolvable=expected <= 1.0,
        num_patients=auc.size,
    )


def count_interval(
    count: int, num_patients: int, common: float = 0.0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return (low, high), numbers of patients: Clopper-Pearson on as many patients as would vary as much on their own.

    Args:
        count: of `num_patients`.
        num_patients: at least 1.
        common: variance of the share that all patients have in common (`CommonParts.of_share`).
        confidence: of the interval.
    """
    # Half a patient more on either side: 0 of many is not certainty.
    share = (count + 0.5) / (num_patients + 1.0)
    effect = 1.0 + common * num_patients / (share * (1.0 - share))
    low, high = clopper_pearson(count / effect, num_patients / effect, confidence)
    return low * num_patients, high * num_patients


def count_at_least(patient_auc_P: npt.NDArray[np.float64], threshold: float) -> int:
    """Return how many AUCs are at or above `threshold`, rounding errors in an AUC aside; NaN never counts."""
    return int((patient_auc_P >= threshold - 1e-9).sum())
