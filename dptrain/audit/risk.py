"""The risk of every patient in one fleet, with all that belongs beside it: errors, null, counts, list, resolution."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, Floats, IntArray, checked_membership
from dptrain.attacks.twins import model_units
from dptrain.audit.common import common_parts, mean_interval
from dptrain.audit.counts import THRESHOLDS, ExposedCount, exposed_counts
from dptrain.audit.crossfit import patient_attack_auc
from dptrain.audit.exposed import adjusted_p_values
from dptrain.audit.interval import Interval
from dptrain.audit.null import NullDistribution, null_of_ranks
from dptrain.audit.patients import (
    auc_from_ranks,
    patient_auc_interval,
    patient_auc_knolle2026,
    patient_auc_standard_error,
    patient_evidence,
    patient_ranks,
)
from dptrain.audit.quantile import null_quantile, quantile_interval
from dptrain.audit.resolution import Resolution, resolution

FALSE_DISCOVERY_RATE = 0.05


@dataclass(frozen=True)
class PatientRisk:
    """Figures over all patients, and (RESTRICTED) the arrays with one value per patient, NaN where there is none."""

    patient_auc: FloatArray
    standard_error: FloatArray
    low: FloatArray
    """Lower end of the 95% interval of each patient's AUC."""
    high: FloatArray
    p_value: FloatArray
    p_adjusted: FloatArray
    """Smallest false discovery rate at which the patient is listed."""
    attack_auc: FloatArray | None
    """Cross-fitted; None with fewer than 2 pairs of twins (or 2 models without one)."""
    knolle2026: FloatArray
    """Unclipped."""
    mean: Interval
    """Mean patient AUC; the interval is about other patients and other models."""
    median: float
    p99: Interval
    null_p99: Interval
    max: float
    at_least: tuple[ExposedCount, ...]
    num_listed: int
    """Patients on the list at `FALSE_DISCOVERY_RATE`."""
    resolution: Resolution
    null: NullDistribution


def patient_risk(
    signals_MN: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    patient_N: IntArray,
    rng: np.random.Generator,
    num_permutations: int = 200,
) -> PatientRisk:
    """Return the risk of P patients.

    Args:
        signals_MN: (M, N) finite signals, one per record. HIGHER MEANS MEMBER.
        membership_MP: (M, P) bool.
        patient_N: (N,) integers in 0..P-1.
        rng: draws the null, and the half-samples behind the interval of the mean.
        num_permutations: of the null.

    Raises:
        ValueError: shapes that do not fit, signals that are not finite, or no patient with both IN and OUT models.
    """
    signals: Floats = np.asanyarray(signals_MN)
    num_patients = np.shape(membership_MP)[-1]
    membership = checked_membership(membership_MP, (signals.shape[0], num_patients))
    evidence = patient_evidence(signals, patient_N, num_patients)
    null_rng, half_rng = rng.spawn(2)
    common = common_parts(evidence, membership, half_rng, THRESHOLDS)
    ranks = patient_ranks(evidence)
    del evidence
    area = auc_from_ranks(ranks, membership)
    null = null_of_ranks(ranks, membership, num_permutations, null_rng)
    del ranks
    num_in = membership.sum(axis=0)
    p_value = null.p_values(area)
    p_adjusted = adjusted_p_values(p_value)
    known = area[np.isfinite(area)]
    low, high = patient_auc_interval(area, num_in, len(membership) - num_in)
    enough = int(model_units(membership).max()) >= 1
    return PatientRisk(
        patient_auc=area,
        standard_error=patient_auc_standard_error(area, num_in, len(membership) - num_in),
        low=low,
        high=high,
        p_value=p_value,
        p_adjusted=p_adjusted,
        attack_auc=patient_attack_auc(signals, membership, patient_N) if enough else None,
        knolle2026=patient_auc_knolle2026(signals, membership, patient_N),
        mean=mean_interval(known, common),
        median=float(np.median(known)),
        p99=quantile_interval(known, 0.99),
        null_p99=null_quantile(null, 0.99),
        max=float(known.max()),
        at_least=tuple(exposed_counts(area, null, THRESHOLDS, common_share=common.of_share)),
        num_listed=int((p_adjusted <= FALSE_DISCOVERY_RATE).sum()),
        resolution=resolution(null),
        null=null,
    )
