"""What `dptrain attack` reads: models that any trainer made, as arrays in one .npz or as a folder of models.

A .npz holds `membership` and either `logits` with `labels`, or `signals`; see docs/attack.md. A folder holds one folder
per model with `train_logits.npy`, `train_labels.npy` and `subset_mask.npy`, as the code of Knolle et al. 2026 writes
them, with `eval_logits.npy` and `eval_labels.npy` as the population if every model has them.

Nothing is guessed silently: whatever does not fit is a problem with the array's name, and all of them are told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dptrain.attack_arrays import GROUP_PREFIX, folder_arrays, npz_arrays
from dptrain.attacks.signals import Task
from dptrain.errors import DataError

AnyTask = Task | Literal["regression"]
TASKS: tuple[AnyTask, ...] = (*get_args(Task), "regression")
"""regression must be asked for: numbers as labels look like classes."""


@dataclass(frozen=True)
class SavedModels:
    """Checked arrays of M models, N records and P patients."""

    membership_MP: NDArray[np.bool_]
    patient_N: NDArray[np.int64]
    patient_ids: NDArray[np.str_]
    """(P,)"""
    task: AnyTask | None
    """None if there are no logits."""
    logits: NDArray[np.floating] | None
    """(M, N, K), or (M, N, V, K) for V queries."""
    labels: NDArray[np.floating] | None
    """(N,) or (N, L)."""
    signals: NDArray[np.floating] | None
    """(M, N) or (M, N, V)."""
    population_logits: NDArray[np.floating] | None = None
    population_labels: NDArray[np.floating] | None = None
    population_signals: NDArray[np.floating] | None = None
    targets: NDArray[np.int64] | None = None
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    """Each (P,)."""
    strata_P: NDArray[np.str_] | None = None
    """Labels of every patient, where they are few enough to compare like with like."""

    @property
    def num_models(self) -> int:
        return int(self.membership_MP.shape[0])


def read_models(path: Path, task: str | None = None) -> SavedModels:
    """Read and check a .npz file or a folder of models.

    Args:
        task: binary, multiclass, multilabel or regression; None: told from labels and outputs.

    Raises:
        DataError: every problem that was found.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected a .npz file or a folder of models (docs/attack.md).")
    arrays = folder_arrays(path) if path.is_dir() else npz_arrays(path)
    return _Reader(path, arrays, task).models()


class _Reader:
    """Checks arrays one after the other and collects what is wrong; a check that needs a broken one is left out."""

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[Any]], task: str | None) -> None:
        self.path, self.arrays, self.asked_task = path, arrays, task
        self.problems: list[str] = []

    def models(self) -> SavedModels:
        logits, signals = self.answers()
        answers = logits if logits is not None else signals
        task, labels = (None, None) if logits is None else self.labels("labels", logits)
        size = None if answers is None else (answers.shape[0], answers.shape[1])
        patient, ids = self.patients(size)
        membership = self.membership(size, patient, len(ids))
        population = self.population(answers, logits, task)
        targets = self.targets(size)
        groups = self.groups(size, patient, len(ids))
        if self.problems:
            raise DataError([f"{self.path}: {problem}" for problem in self.problems])
        assert membership is not None
        assert patient is not None
        strata = None if labels is None else strata_of(labels, patient, len(ids))
        return SavedModels(
            membership, patient, ids, task, logits, labels, signals, *population, targets, groups, strata
        )  # fmt: skip

    def floats(self, key: str, shapes: str, dims: tuple[int, ...]) -> NDArray[np.floating] | None:
        """A float array with one of these numbers of axes, else None; what is wrong is a problem."""
        array = self.arrays[key]
        if array.ndim not in dims or array.size == 0 or array.dtype.kind not in "fiu":
            self.problems.append(f"{key}.shape={array.shape}, dtype={array.dtype} must be {shapes}, of numbers.")
            return None
        values = array if array.dtype.kind == "f" else array.astype(np.float64)
        bad = [model for model, row in enumerate(values) if not np.isfinite(row).all()]
        if bad:
            self.problems.append(
                f"{key}: model {bad[0]}{f' and {len(bad) - 1} more' if bad[1:] else ''} gave NaN or infinite numbers. "
                "A model that diverged cannot be audited: leave it and its twin out, or train them again."
            )
        return values

    def answers(self) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
        both = [key for key in ("logits", "signals") if key in self.arrays]
        if len(both) != 1:
            found = f"both {' and '.join(both)} are there" if both else "neither logits nor signals is there"
            self.problems.append(f"{found}; expected logits (M, N, K) with labels, or signals (M, N).")
            return None, None
        if both == ["signals"]:
            return None, self.floats("signals", "(models, records) or (models, records, queries)", (2, 3))
        shapes = "(models, records, outputs) or (models, records, queries, outputs)"
        return self.floats("logits", shapes, (3, 4)), None

    def labels(self, key: str, logits: NDArray[np.floating]) -> tuple[AnyTask | None, NDArray[np.float64] | None]:
        num_records, num_outputs = logits.shape[1], logits.shape[-1]
        if key not in self.arrays:
            self.problems.append(f"{key} is missing; logits need the true labels ({num_records},) of their records.")
            return None, None
        raw = self.arrays[key]
        if raw.dtype.kind not in "fiub":
            self.problems.append(f"{key}.dtype={raw.dtype} must be numbers: 0 and 1, or class numbers from 0.")
            return None, None
        labels = raw.astype(np.float64)
        one_column = labels.ndim == 2 and labels.shape[1] == 1
        labels = labels[:, 0] if one_column else labels
        if labels.shape not in ((num_records,), (num_records, num_outputs)):
            self.problems.append(
                f"{key}.shape={raw.shape} must be ({num_records},) or ({num_records}, {num_outputs}), as the logits."
            )
            return None, None
        task = self.task(labels, num_outputs)
        if task == "multiclass" and labels.ndim == 2:
            labels = labels.argmax(axis=1).astype(np.float64)
        if task == "regression":
            if np.isinf(labels).any() or labels.size != num_records * num_outputs:
                self.problems.append(f"{key} of task=regression must be finite numbers, one for each output.")
            return task, labels
        allowed = np.arange(num_outputs) if task == "multiclass" else np.array([0.0, 1.0])
        right = np.isin(labels, allowed) | (np.isnan(labels) if task == "multilabel" else False)
        wants_columns = task == "multilabel"
        if not np.all(right) or (labels.ndim == 2) != wants_columns or (task == "binary") != (num_outputs == 1):
            self.problems.append(
                f"{key} do not fit task={task} with {num_outputs} output(s): expected "
                + {
                    "binary": "one output, and 0 or 1 for every record.",
                    "multiclass": f"class numbers 0..{num_outputs - 1}, or one-hot rows.",
                    "multilabel": f"({num_records}, {num_outputs}) of 0, 1 or NaN (missing).",
                }[task]
                + " Give --task if it was told wrongly."
            )
            return None, None
        return task, labels

    def task(self, labels: NDArray[np.float64], num_outputs: int) -> AnyTask:
        """As asked; else one output is binary, one 1 in every row (or a class number) is multiclass."""
        for name in TASKS:
            if name == self.asked_task:
                return name
        if num_outputs == 1:
            return "binary"
        one_hot = labels.ndim == 1 or bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())
        return "multiclass" if one_hot else "multilabel"

    def patients(self, size: tuple[int, int] | None) -> tuple[NDArray[np.int64] | None, NDArray[np.str_]]:
        if size is None:
            return None, np.array([], dtype=str)
        num_records = size[1]
        if "patient" not in self.arrays:
            return np.arange(num_records), np.arange(num_records).astype(str)
        raw = self.arrays["patient"]
        if raw.dtype.kind == "f" and np.all(raw == np.rint(raw)) and np.all(np.abs(raw) < 2**53):
            raw = raw.astype(np.int64)  # some published tables number patients 1.0, 2.0, ...
        if (
            raw.shape != (num_records,)
            or raw.dtype.kind not in "iuUS"
            or (raw.dtype.kind in "US" and (raw == "").any())
        ):
            self.problems.append(
                f"patient.shape={raw.shape}, dtype={raw.dtype} must be ({num_records},) of whole numbers or names: "
                "the patient of every record."
            )
            return None, np.array([], dtype=str)
        ids, index = np.unique(raw, return_inverse=True)
        return index.astype(np.int64), ids.astype(np.str_)

    def membership(
        self, size: tuple[int, int] | None, patient: NDArray[np.int64] | None, num_patients: int
    ) -> NDArray[np.bool_] | None:
        if "membership" not in self.arrays:
            self.problems.append("membership is missing: (models, records) or (models, patients) of true and false.")
            return None
        raw = self.arrays["membership"]
        is_table = raw.ndim == 2 and (raw.dtype == np.bool_ or (raw.dtype.kind in "iuf" and np.isin(raw, (0, 1)).all()))
        if not is_table:
            self.problems.append(f"membership.shape={raw.shape}, dtype={raw.dtype} must be a table of true and false.")
            return None
        if size is None or patient is None:
            return None
        num_models, num_records = size
        table = raw.astype(np.bool_)
        if table.shape == (num_models, num_records):
            first = np.unique(patient, return_index=True)[1]
            by_patient = np.ascontiguousarray(table[:, first])
            mixed = np.flatnonzero((by_patient[:, patient] != table).any(axis=0))
            if mixed.size:
                self.problems.append(
                    f"membership: record {mixed[0]} (and {mixed.size - 1} more) is in other models than the first "
                    "record of its patient. Train on whole patients, or leave `patient` out to audit records."
                )
                return None
        elif table.shape == (num_models, num_patients):
            by_patient = table
        else:
            self.problems.append(
                f"membership.shape={table.shape} must be ({num_models}, {num_records}) for records or "
                f"({num_models}, {num_patients}) for patients in the order of numpy.unique(patient)."
            )
            return None
        if not self.with_both(by_patient):
            return None
        return by_patient

    def with_both(self, membership_MP: NDArray[np.bool_]) -> bool:
        """Whether some patient is IN some models and OUT of others."""
        num_in = membership_MP.sum(axis=0)
        if np.all((num_in == 0) | (num_in == len(membership_MP))):
            self.problems.append(
                "membership: every patient is in all models or in none, so nothing can be compared. Train at least two "
                "models on different patients."
            )
            return False
        return True

    def population(
        self, answers: NDArray[np.floating] | None, logits: NDArray[np.floating] | None, task: AnyTask | None
    ) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
        """(logits, labels, signals) of records that no model was trained on."""
        if "population_signals" in self.arrays and "population_logits" in self.arrays:
            self.problems.append("both population_signals and population_logits are there; expected one of them.")
            return None, None, None
        key = "population_logits" if "population_logits" in self.arrays else "population_signals"
        if key not in self.arrays:
            return None, None, None
        if key == "population_logits" and logits is None and answers is not None:
            self.problems.append("population_logits need logits of the audited records too; give population_signals.")
            return None, None, None
        is_logits = key == "population_logits"
        values = self.floats(key, "(models, Z, ...), with axes as the audited records", (3, 4) if is_logits else (2, 3))
        if values is None or answers is None:
            return None, None, None
        shape = answers.shape if is_logits or logits is None else logits.shape[:-1]
        if values.shape[:1] + values.shape[2:] != shape[:1] + shape[2:]:
            self.problems.append(f"{key}.shape={values.shape} must fit {shape} in all axes but the second.")
            return None, None, None
        if not is_logits:
            return None, None, values
        theirs, labels = self.labels("population_labels", values)
        if task is not None and theirs is not None and theirs != task and labels is not None:
            self.problems.append(f"population_labels are of task {theirs}, labels of {task}. Give --task.")
        return values, labels, None

    def targets(self, size: tuple[int, int] | None) -> NDArray[np.int64] | None:
        if "target" not in self.arrays or size is None:
            return None
        raw = np.atleast_1d(self.arrays["target"])
        chosen = np.flatnonzero(raw) if raw.dtype == np.bool_ and raw.shape == (size[0],) else raw
        return checked_targets(chosen, size[0], "target", self.problems)

    def groups(
        self, size: tuple[int, int] | None, patient: NDArray[np.int64] | None, num_patients: int
    ) -> dict[str, NDArray[np.str_]]:
        columns: dict[str, NDArray[Any]] = {}
        for key, raw in self.arrays.items():
            if key.startswith(GROUP_PREFIX):
                columns[key.removeprefix(GROUP_PREFIX)] = raw
            elif key == "groups" and raw.dtype.names:
                columns |= {name: raw[name] for name in raw.dtype.names}
            elif key == "groups" and raw.ndim == 2:
                columns |= {f"group{column}": raw[:, column] for column in range(raw.shape[1])}
            elif key == "groups":
                columns["group"] = raw
        found: dict[str, NDArray[np.str_]] = {}
        for name, column in columns.items():
            if size is None or patient is None:
                continue
            if column.shape == (size[1],):
                found[name] = _of_patients(column.astype(np.str_), patient, num_patients)
            elif column.shape == (num_patients,):
                found[name] = column.astype(np.str_)
            else:
                self.problems.append(
                    f"groups {name!r}: shape {column.shape} must be ({size[1]},) for records or ({num_patients},) for "
                    "patients in the order of numpy.unique(patient)."
                )
        return found


def checked_targets(chosen: NDArray[Any], num_models: int, name: str, problems: list[str]) -> NDArray[np.int64] | None:
    """Distinct model indices in order, or None and a problem."""
    if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
        problems.append(f"{name}={chosen.tolist()} must be numbers of models, or true for those that are targets.")
        return None
    outside = [int(one) for one in chosen if not 0 <= one < num_models]
    if outside or len(set(chosen.tolist())) < chosen.size:
        what = f"{outside[0]} is not one of the models 0..{num_models - 1}" if outside else "a model is named twice"
        problems.append(f"{name}={chosen.tolist()}: {what}.")
        return None
    return chosen.astype(np.int64)


SEVERAL = "several"
"""Group of a patient whose records are in different groups."""


def _of_patients(value_N: NDArray[np.str_], patient_N: NDArray[np.int64], num_patients: int) -> NDArray[np.str_]:
    first = np.unique(patient_N, return_index=True)[1]
    value_P = value_N[first].astype(object)
    value_P[np.unique(patient_N[value_P[patient_N] != value_N])] = SEVERAL
    assert value_P.size == num_patients
    return value_P.astype(np.str_)


MOST_STRATA = 20


def strata_of(labels: NDArray[np.floating], patient_N: NDArray[np.int64], num_patients: int) -> NDArray[np.str_] | None:
    """(P,) all labels that a patient's records have, as text; None if there are more than `MOST_STRATA` kinds."""
    rows = labels.reshape(len(labels), -1)
    kinds, code_N = np.unique(np.nan_to_num(rows, nan=-1.0), axis=0, return_inverse=True)
    if len(kinds) > MOST_STRATA:
        return None
    has_PC = np.zeros((num_patients, len(kinds)), dtype=np.bool_)
    has_PC[patient_N, code_N.reshape(-1)] = True
    codes, stratum_P = np.unique(has_PC, axis=0, return_inverse=True)
    if len(codes) > MOST_STRATA:
        return None
    names = np.array(["+".join(np.flatnonzero(row).astype(str)) for row in codes], dtype=str)
    return names[stratum_P.reshape(-1)]
