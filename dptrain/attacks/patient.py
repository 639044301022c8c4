"""From records to patients: memberships spread over records, scores gathered over records.

The sum is the attacker's best use of independent evidence: log-likelihood ratios add up. The maximum is given
because the reference study uses it; it grows with a patient's number of records even without any leakage, so
patients with different numbers of records cannot be compared by it.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray, checked_matrix, checked_patient


def expand_membership(membership_MP: npt.ArrayLike, patient_N: npt.ArrayLike) -> BoolArray:
    """Return (M, N) bool: whether the patient of each record was in the training set of each model.

    Args:
        membership_MP: (M, P) bool.
        patient_N: (N,) integers in 0..P-1, the patient of every record.

    Raises:
        ValueError: `membership_MP` is not a bool matrix, or an index is out of range.
    """
    membership = np.asarray(membership_MP)
    index = np.asarray(patient_N)
    if membership.ndim != 2 or membership.dtype != np.bool_:
        raise ValueError(f"membership.shape={membership.shape}, dtype={membership.dtype} must be (M, P) bool.")
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"patient.shape={index.shape}, dtype={index.dtype} must be (N,) integers.")
    if index.size and (index.min() < 0 or index.max() >= membership.shape[1]):
        raise ValueError(
            f"patient ranges over {index.min()}..{index.max()} but must lie in 0..{membership.shape[1] - 1}. "
            "Keep only the records of the patients that the membership matrix knows."
        )
    return np.asarray(np.take(membership, index, axis=1), dtype=np.bool_)


def sum_over_records(scores_MN: npt.ArrayLike, patient_N: npt.ArrayLike, num_patients: int) -> FloatArray:
    """Return (M, P) the sum of each patient's record scores. HIGHER MEANS MEMBER.

    Args:
        scores_MN: (M, N) finite scores.
        patient_N: (N,) integers in 0..P-1.
        num_patients: P.

    Raises:
        ValueError: shapes that do not fit, an index out of range, or a patient without records.
    """
    scores = checked_matrix(scores_MN, "scores")
    index = checked_patient(patient_N, scores.shape[1], num_patients)
    totals_MP = np.empty((scores.shape[0], num_patients), dtype=np.float64)
    for model, row in enumerate(scores):
        totals_MP[model] = np.bincount(index, weights=row, minlength=num_patients)
    return totals_MP


def add_pieces(
    pieces: Iterable[tuple[int, slice | IntArray, FloatArray]],
    patient_N: npt.ArrayLike,
    num_targets: int,
    num_patients: int,
) -> FloatArray:
    """Return (T, P) the sum of each patient's record scores, from an attack's `pieces`. HIGHER MEANS MEMBER.

    Equal to `sum_over_records` of the attack's scores, which never exist as a whole. Fastest if the records of a
    patient stand together.

    Args:
        pieces: (place of the target, records, their scores).
        patient_N: (N,) integers in 0..P-1.
        num_targets, num_patients: T and P.

    Raises:
        ValueError: an index out of range, or a patient without records.
    """
    raw = np.asarray(patient_N)
    index = checked_patient(raw, raw.size, num_patients)
    total_TP = np.zeros((num_targets, num_patients))
    for place, records, scores in pieces:
        some = index[records]
        first, last = int(some.min()), int(some.max())
        total_TP[place, first : last + 1] += np.bincount(some - first, weights=scores, minlength=last - first + 1)
    return total_TP


def max_of_pieces(
    pieces: Iterable[tuple[int, slice | IntArray, FloatArray]],
    patient_N: npt.ArrayLike,
    num_targets: int,
    num_patients: int,
) -> FloatArray:
    """Return (T, P) the largest of each patient's record scores, from an attack's `pieces`; else as `add_pieces`."""
    raw = np.asarray(patient_N)
    index = checked_patient(raw, raw.size, num_patients)
    largest_TP = np.full((num_targets, num_patients), -np.inf)
    for place, records, scores in pieces:
        some = index[records]
        order = np.argsort(some, kind="stable")
        starts = np.flatnonzero(np.diff(some[order], prepend=-1))
        patients = some[order][starts]
        found = np.maximum.reduceat(scores[order], starts)
        largest_TP[place, patients] = np.maximum(largest_TP[place, patients], found)
    return largest_TP


def max_over_records(scores_MN: npt.ArrayLike, patient_N: npt.ArrayLike, num_patients: int) -> FloatArray:
    """Return (M, P) the largest of each patient's record scores; arguments and errors as
    `sum_over_records`."""
    scores = checked_matrix(scores_MN, "scores")
    index = checked_patient(patient_N, scores.shape[1], num_patients)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(num_patients))
    largest_MP = np.empty((scores.shape[0], num_patients), dtype=np.float64)
    for model, row in enumerate(scores):
        largest_MP[model] = np.maximum.reduceat(row[order], starts)
    return largest_MP
