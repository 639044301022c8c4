"""Risk per patient: over the models, how well is training with the patient told from training without?

The attack AUC of a patient is the probability that a model trained with the patient scores higher than one
trained without; 0.5 is chance and values below 0.5 are kept as they are. Three estimators:

- `patient_auc` of `patient_evidence` (the headline): no reference model, unbiased, smallest variance.
- `patient_attack_auc`: the same for an attacker's likelihood ratio, cross-fitted (see `crossfit`).
- `patient_auc_knolle2026`: the binormal AUC of the reference study, maximum over records, for comparison.

Patients who are in every model or in none have no AUC: NaN. A patient on whom all models answer alike gets
0.5.
"""

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from dptrain.attacks.checks import (
    BoolArray,
    FloatArray,
    checked_floats,
    checked_matrix,
    checked_membership,
    checked_patient,
)
from dptrain.attacks.moments import References, slices
from dptrain.attacks.patient import max_over_records

_CHUNK_VALUES = 1 << 21


def patient_evidence(signals_MN: npt.ArrayLike, patient_N: npt.ArrayLike, num_patients: int) -> FloatArray:
    """Return (M, P) the evidence that each patient was in each model, without looking at the memberships.

    Each record's signal is centred on its mean over all models, scaled by the pooled within-record standard
    deviation (one number), and summed over the patient's records. HIGHER MEANS MEMBER.

    Args:
        signals_MN: (M, N) finite signals, M >= 2.
        patient_N: (N,) integers in 0..P-1.
        num_patients: P.

    Raises:
        ValueError: shapes that do not fit, signals that are not finite, or a patient without records.
    """
    signals = checked_floats(signals_MN, "signals")
    patient = checked_patient(patient_N, signals.shape[1], num_patients)
    centre_N = signals.mean(axis=0, dtype=np.float64)
    squares, largest_N = 0.0, np.zeros(signals.shape[1])
    for row in signals:
        centred = row - centre_N
        squares += float(centred @ centred)
        np.maximum(largest_N, np.abs(row), out=largest_N)
    spread = np.sqrt(squares / max(1, (signals.shape[0] - 1) * signals.shape[1]))
    scale = 1.0 / spread if spread > 0.0 else 0.0
    evidence_MP = np.empty((signals.shape[0], num_patients), dtype=np.float64)
    # A record on which all models agree has centred signals of rounding size; they must not decide a rank.
    noise_N = 8.0 * np.finfo(np.float64).eps * largest_N
    for model, row in enumerate(signals):
        centred = row - centre_N
        centred[np.abs(centred) <= noise_N] = 0.0
        evidence_MP[model] = np.bincount(patient, weights=centred * scale, minlength=num_patients)
    return evidence_MP


def patient_ranks(evidence_MP: npt.ArrayLike) -> FloatArray:
    """Return (M, P) float64 the midrank (1..M) of each model among all models, patient by patient.

    Raises:
        ValueError: not a finite matrix.
    """
    evidence = checked_matrix(evidence_MP, "evidence")
    ranks_MP = np.empty_like(evidence)
    step = max(1, _CHUNK_VALUES // evidence.shape[0])
    for start in range(0, evidence.shape[1], step):
        chunk = slice(start, start + step)
        ranks_MP[:, chunk] = stats.rankdata(np.ascontiguousarray(evidence[:, chunk].T), axis=1).T
    return ranks_MP


def patient_auc(evidence_MP: npt.ArrayLike, membership_MP: npt.ArrayLike) -> FloatArray:
    """Return (P,) the midrank AUC of the evidence in IN models against OUT models; NaN without both kinds.

    Args:
        evidence_MP: (M, P) finite; only its order within a patient matters.
        membership_MP: (M, P) bool.

    Raises:
        ValueError: shapes that do not fit, or evidence that is not finite.
    """
    ranks = patient_ranks(evidence_MP)
    return auc_from_ranks(ranks, checked_membership(membership_MP, (ranks.shape[0], ranks.shape[1])))


def auc_from_ranks(ranks_MP: FloatArray, membership_MP: BoolArray) -> FloatArray:
    """Return (P,) AUCs from `patient_ranks`: (rank sum of IN - n_in (n_in + 1) / 2) / (n_in n_out)."""
    num_in = membership_MP.sum(axis=0)
    num_out = membership_MP.shape[0] - num_in
    rank_sum = np.einsum("mp,mp->p", ranks_MP, membership_MP)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = (rank_sum - num_in * (num_in + 1) / 2.0) / (num_in * num_out)
    return np.asarray(result, dtype=np.float64)


def patient_auc_standard_error(auc_P: npt.ArrayLike, num_in: npt.ArrayLike, num_out: npt.ArrayLike) -> FloatArray:
    """Return the standard error of an AUC from n_in and n_out models (Hanley & McNeil 1982,
    doi 10.1148/radiology.143.1.7063747).

    AUCs below 0.5 get the standard error of their mirror image. At an AUC of exactly 1 (or 0) the formula
    gives 0: the data then bound the AUC from one side only.

    Raises:
        ValueError: AUCs outside 0..1.
    """
    area = np.asarray(auc_P, dtype=np.float64)
    if np.any((area < 0.0) | (area > 1.0)):
        raise ValueError(f"auc ranges over {np.nanmin(area)}..{np.nanmax(area)} but must lie in 0..1.")
    n_in, n_out = np.asarray(num_in, dtype=np.float64), np.asarray(num_out, dtype=np.float64)
    area = np.maximum(area, 1.0 - area)
    one_in_two_out = area / (2.0 - area)
    two_in_one_out = 2.0 * area**2 / (1.0 + area)
    pairs = (n_in - 1.0) * (one_in_two_out - area**2) + (n_out - 1.0) * (two_in_one_out - area**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt((area * (1.0 - area) + pairs) / (n_in * n_out)), dtype=np.float64)


def patient_auc_interval(
    auc_P: npt.ArrayLike, num_in: npt.ArrayLike, num_out: npt.ArrayLike, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Return (P,) low and high ends of the interval of each patient's AUC (Newcombe 2006, method 5, doi
    10.1002/sim.2324).

    The AUCs that are within 1.96 of *their own* standard errors of the one that was measured. So it stays within 0
    and 1 and means something at an AUC of exactly 1, where the AUC +- 1.96 standard errors is a point. (That one covers
    72 to 90% with 16 models.) NaN stays NaN.

    Raises:
        ValueError: AUCs outside 0..1, or a confidence outside (0, 1).
    """
    area = np.asarray(auc_P, dtype=np.float64)
    if np.any((area < 0.0) | (area > 1.0)) or not 0.0 < confidence < 1.0:
        raise ValueError(f"auc must lie in 0..1 and confidence={confidence} between 0 and 1.")
    n_in, n_out = np.asarray(num_in, dtype=np.float64), np.asarray(num_out, dtype=np.float64)
    deviate = float(stats.norm.ppf(0.5 + confidence / 2.0))
    extra = (n_in + n_out) / 2.0 - 1.0
    ends = []
    for end in (0.0, 1.0):
        far, near = np.full(area.shape, end), area.copy()
        for _ in range(40):
            middle = (far + near) / 2.0
            spread = middle * (1.0 - middle)
            spread *= 1.0 + extra * (1.0 - middle) / (2.0 - middle) + extra * middle / (1.0 + middle)
            with np.errstate(invalid="ignore", divide="ignore"):
                within = np.abs(middle - area) <= deviate * np.sqrt(spread / (n_in * n_out))
            far, near = np.where(within, far, middle), np.where(within, middle, near)
        ends.append(np.where(np.isnan(area), np.nan, (far + near) / 2.0))
    return ends[0], ends[1]


def patient_auc_knolle2026(
    signals_MN: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    *,
    clip: bool = False,
) -> FloatArray:
    """Return (P,) the reference study's risk: the largest binormal AUC of a patient's records.

    Per record Phi((m_in - m_out) / sqrt(v_in + v_out)) from the signals of all models (Knolle et al. 2026,
    Nature 656, 192-198). It assumes normal signals, and the maximum grows with the number of records without
    any leakage. The paper clips at 0.5 from below: `clip=True` reproduces its tables, and then the median
    without leakage is above 0.5.

    Args:
        signals_MN: (M, N) finite signals.
        membership_MP: (M, P) bool.
        patient_N: (N,) integers in 0..P-1.
        clip: whether AUCs below 0.5 become 0.5.

    Raises:
        ValueError: shapes that do not fit, signals that are not finite, or a patient without records.
    """
    num_records = np.asarray(patient_N).size
    num_patients = np.asarray(membership_MP).shape[-1]
    patient = checked_patient(patient_N, num_records, num_patients)
    references = References.of(signals_MN, np.asarray(membership_MP)[:, patient])
    auc_N = np.empty(num_records)
    for records in slices(num_records):
        inside, outside = references.without((), records)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt(inside.squares_N / (inside.count_N - 1) + outside.squares_N / (outside.count_N - 1))
            gap = inside.mean_N - outside.mean_N
            deviate = np.where(gap == 0.0, 0.0, gap / spread)
        known = (inside.count_N >= 2) & (outside.count_N >= 2)
        auc_N[records] = np.where(known, special.ndtr(deviate), -1.0)
    largest_P = max_over_records(auc_N[None, :], patient, num_patients)[0]
    largest_P[largest_P < 0.0] = np.nan
    return np.asarray(np.maximum(largest_P, 0.5) if clip else largest_P, dtype=np.float64)
