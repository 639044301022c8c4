"""`Cohort`: patients, their records, labels, groups and the split; what every other room gets to see of the data.

Patients are numbered 0..P-1 inside dptrain. Their real identifiers stay in `patient_ids`, which only the study's
`restricted/` folder ever stores.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dptrain.errors import DataError

Task = Literal["binary", "multiclass", "multilabel"]
TASKS: tuple[Task, ...] = ("binary", "multiclass", "multilabel")
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Cohort:
    """N records of P patients.

    Raises DataError (all problems at once) when the arrays contradict each other: NaN features, one class only, a
    patient without records, lengths that differ.
    """

    name: str
    """Name of the data set."""
    task: Task
    """binary, multiclass or multilabel."""
    features: NDArray[np.float32]
    """(N, ...) model input per record, already scaled by public constants; may be a memory map."""
    labels: NDArray[np.float32] | NDArray[np.int64]
    """(N,) int64 classes for binary and multiclass; (N, L) float32 0/1 for multilabel, NaN where a label is missing."""
    patient: NDArray[np.int64]
    """(N,) index of the record's patient, 0..P-1."""
    patient_ids: NDArray[np.str_]
    """(P,) identifiers as in the source. RESTRICTED: never logged, never in file names."""
    is_test: NDArray[np.bool_]
    """(P,) patients held out of every model."""
    label_names: tuple[str, ...]
    """Class names (multiclass, binary: negative then positive) or names of the L labels."""
    feature_names: tuple[str, ...] = ()
    """Names of the columns of `features`, where they have names."""
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    """Named group attributes, each (P,) text per patient; 'unknown' where missing."""
    outside_dp: tuple[str, ...] = ()
    """What touched private data before DP-SGD and is not covered by epsilon, one sentence each (privacy statement)."""
    warnings: tuple[str, ...] = ()
    """What the user must know about these data, one sentence each."""
    simulated: bool = False
    """True for simulated data; said wherever the cohort appears."""
    num_canaries: int = 0
    """The last so many patients, one record each and the last records, are planted (`cohorts.canaries`)."""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise DataError(problems)

    @property
    def num_records(self) -> int:
        """N."""
        return int(self.patient.shape[0])

    @property
    def num_patients(self) -> int:
        """P, training and test."""
        return int(self.is_test.shape[0])

    @property
    def num_outputs(self) -> int:
        """K: logits per record (1 for binary, classes for multiclass, labels for multilabel)."""
        if self.task == "binary":
            return 1
        return len(self.label_names)

    @property
    def train_patients(self) -> NDArray[np.int64]:
        """Indices of the patients that models may be trained on, in ascending order; the columns of the membership.
        Canaries, where there are any, come last."""
        return np.flatnonzero(~self.is_test)

    def without_canaries(self) -> Cohort:
        """The patients alone; large arrays are views."""
        if not self.num_canaries:
            return self
        records, patients = slice(0, -self.num_canaries), slice(0, -self.num_canaries)
        return dataclasses.replace(
            self,
            features=self.features[records],
            labels=self.labels[records],
            patient=self.patient[records],
            patient_ids=self.patient_ids[patients],
            is_test=self.is_test[patients],
            groups={name: values[patients] for name, values in self.groups.items()},
            num_canaries=0,
        )

    def fingerprint(self) -> str:
        """SHA-256 over everything that a result could depend on (values, labels, patients, split, groups). Canaries are
        made from their number, which the configuration holds."""
        if self.num_canaries:
            return self.without_canaries().fingerprint()
        digest = hashlib.sha256()
        for text in (self.name, self.task, *self.label_names, "|", *self.feature_names, "|", *self.outside_dp):
            digest.update(text.encode() + b"\0")
        for array in (self.features, self.labels, self.patient, self.is_test):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for rows in _row_chunks(array):
                digest.update(np.ascontiguousarray(array[rows]).tobytes())
        for ids in (self.patient_ids, *(self.groups[key] for key in sorted(self.groups))):
            digest.update("\0".join(ids.tolist()).encode() + b"\1")
        digest.update("\0".join(sorted(self.groups)).encode())
        return digest.hexdigest()


def _row_chunks(array: NDArray) -> Iterator[slice]:
    """Slices of rows that hold about `CHUNK_BYTES` each: a memory map is never read in as a whole."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def _problems(cohort: Cohort) -> list[str]:
    problems: list[str] = []
    name = f"data.name={cohort.name}"
    num_records, num_patients = len(cohort.patient), len(cohort.is_test)
    if cohort.task not in TASKS:
        return [f"{name}: task={cohort.task!r} must be one of {', '.join(TASKS)}."]
    if num_records == 0:
        return [f"{name}: no records are left. Check the path and the filters."]
    if len(cohort.features) != num_records or len(cohort.labels) != num_records:
        return [
            f"{name}: {len(cohort.features)} rows of features and {len(cohort.labels)} labels, {num_records} records."
        ]
    if len(cohort.patient_ids) != num_patients or any(len(g) != num_patients for g in cohort.groups.values()):
        problems.append(f"{name}: patient_ids and every group must have one entry for each of {num_patients} patients.")
    present = np.bincount(cohort.patient, minlength=num_patients)
    if len(present) > num_patients or (present == 0).any():
        problems.append(f"{name}: every patient index must be in 0..{num_patients - 1} and have at least one record.")
    bad = 0
    for rows in _row_chunks(cohort.features):
        chunk = np.asarray(cohort.features[rows])
        bad += int((~np.isfinite(chunk.reshape(len(chunk), -1))).any(axis=1).sum())
    if bad:
        problems.append(
            f"{name}: {bad} of {num_records} records have NaN or infinite features. Name how to fill them in (for "
            "data=table: a `fill` per numeric column), or leave those records out of the file."
        )
    problems += _label_problems(cohort, name)
    if not problems:
        one_class: list[str] = []
        for side, mask in (("training", ~cohort.is_test), ("test", cohort.is_test)):
            if not mask.any():
                problems.append(f"{name}: no {side} patients. Change data.test_fraction or the split column.")
            else:
                one_class += _one_class(cohort, name, side, mask[cohort.patient])
        problems += [*one_class, *(_other_labels(cohort) if one_class else [])]
    return problems


def _label_problems(cohort: Cohort, name: str) -> list[str]:
    if cohort.task == "multilabel":
        if cohort.labels.ndim != 2 or cohort.labels.shape[1] != len(cohort.label_names):
            return [f"{name}: labels have shape {cohort.labels.shape}, expected (N, {len(cohort.label_names)})."]
        values = np.unique(cohort.labels[~np.isnan(cohort.labels)])
        if not np.isin(values, (0, 1)).all():
            return [f"{name}: multilabel labels must be 0, 1 or missing, found {values[:6].tolist()}."]
        return []
    if cohort.labels.ndim != 1:
        return [f"{name}: labels have shape {cohort.labels.shape}, expected (N,)."]
    num_classes = 2 if cohort.task == "binary" else len(cohort.label_names)
    if cohort.labels.min() < 0 or cohort.labels.max() >= num_classes:
        return [f"{name}: labels must be in 0..{num_classes - 1}, found {cohort.labels.min()}..{cohort.labels.max()}."]
    return []


def _other_labels(cohort: Cohort) -> list[str]:
    """The way out if some of several labels have one class only on a side: the labels that have both."""
    if cohort.task != "multilabel":
        return []
    test = cohort.is_test[cohort.patient]
    sides = [np.asarray(cohort.labels)[rows] for rows in (test, ~test)]
    usable = [
        name for index, name in enumerate(cohort.label_names)
        if all({0.0, 1.0} <= set(side[:, index].tolist()) for side in sides)
    ]  # fmt: skip
    if not usable:
        return []
    names = ",".join(usable)
    return [f"Or predict only the labels that have both: data.labels=[{names}] (of a table: data.label_columns)."]


def _one_class(cohort: Cohort, name: str, side: str, rows: NDArray[np.bool_]) -> list[str]:
    labels = np.asarray(cohort.labels)[rows]
    columns = labels.T if cohort.task == "multilabel" else labels[None]
    problems = []
    for index, column in enumerate(columns):
        values = np.unique(column[~np.isnan(column)]) if column.dtype.kind == "f" else np.unique(column)
        if len(values) < 2:
            which = f" of {cohort.label_names[index]!r}" if cohort.task == "multilabel" else ""
            problems.append(
                f"{name}: the {side} records have labels{which} of one class only ({values.tolist()}). "
                "Performance and attacks need both; check the label column or take more patients."
            )
    return problems
