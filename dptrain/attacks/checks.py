"""Checked arrays: what every attack asks of its inputs before it computes anything.

Shape suffixes used in `attacks` and `audit`: M models, N records, P patients, K outputs, L labels, T targets.
Every function here returns an array that shares memory with the caller's where no conversion is needed;
callers in this package never write into it.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float64] | npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def checked_matrix(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return `values` as a finite float64 matrix with at least one row and one column.

    Raises:
        ValueError: not two-dimensional, empty, or with NaN or infinite entries (the first bad row is named).
    """
    return checked_floats(np.asarray(values, dtype=np.float64), name).astype(np.float64, copy=False)


def checked_floats(values: npt.ArrayLike, name: str) -> Floats:
    """As `checked_matrix`, but float32 stays float32: large arrays are converted piece by piece by their reader."""
    raw = np.asanyarray(values)
    matrix = raw if raw.dtype == np.float32 else np.asarray(raw, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name}.shape={matrix.shape} must be (models, columns) with at least one of each.")
    for row, row_values in enumerate(matrix):
        if not np.isfinite(row_values).all():
            raise ValueError(
                f"{name}: row {row} holds NaN or infinite values; expected finite numbers. "
                "A model that diverged cannot be audited: leave it and its twin out, or train them again."
            )
    return matrix


def checked_membership(membership: npt.ArrayLike, shape: tuple[int, int], name: str = "membership") -> BoolArray:
    """Return `membership` as a bool matrix of exactly `shape`.

    Raises:
        ValueError: wrong shape, or values other than False/True (0/1).
    """
    matrix = np.asarray(membership)
    if matrix.shape != shape:
        raise ValueError(
            f"{name}.shape={matrix.shape} must be {shape}, one row per model and one column per scored unit. "
            "For a membership of patients use expand_membership(membership, patient) to get one of records."
        )
    if matrix.dtype != np.bool_:
        if not np.isin(matrix, (0, 1)).all():
            raise ValueError(f"{name}.dtype={matrix.dtype} must be bool, or hold only 0 and 1.")
        matrix = matrix.astype(np.bool_)
    return matrix


def checked_targets(targets: npt.ArrayLike | None, num_models: int) -> IntArray:
    """Return the indices of the attacked models; None means all of them.

    Raises:
        ValueError: empty, not integers, or outside 0..num_models-1.
    """
    if targets is None:
        return np.arange(num_models, dtype=np.int64)
    chosen = np.atleast_1d(np.asarray(targets))
    if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"targets={targets!r} must be a list of model indices, for example [0, 1].")
    if chosen.min() < 0 or chosen.max() >= num_models:
        raise ValueError(f"targets={targets!r} must lie in 0..{num_models - 1}; there are {num_models} models.")
    return chosen.astype(np.int64)


def checked_patient(patient: npt.ArrayLike, num_records: int, num_patients: int) -> IntArray:
    """Return the patient index of every record, each of the `num_patients` patients having at least one
    record.

    Raises:
        ValueError: wrong length, not integers, an index outside 0..num_patients-1, or a patient without
        records.
    """
    index = np.asarray(patient)
    if index.shape != (num_records,) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"patient.shape={index.shape}, dtype={index.dtype} must be ({num_records},) integers: "
            "the patient index of every record."
        )
    if index.min() < 0 or index.max() >= num_patients:
        raise ValueError(
            f"patient ranges over {index.min()}..{index.max()} but must lie in 0..{num_patients - 1}. "
            "Keep only the records of the audited patients and number these patients from 0."
        )
    missing = np.flatnonzero(np.bincount(index, minlength=num_patients) == 0)
    if missing.size:
        raise ValueError(
            f"patient {missing[0]} (and {missing.size - 1} more) of num_patients={num_patients} has no record; "
            "every audited patient needs one. Leave these patients out and number the others from 0."
        )
    return index.astype(np.int64, copy=False)
