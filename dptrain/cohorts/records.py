"""From the records that a reader found to a `Cohort`: number the patients, take a subset, split by patient.

Every choice depends on the patient's identifier and the seed alone (a keyed hash), never on the order of rows: a
shuffled file gives the same split, and one patient more moves at most the borderline patients.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Cohort, Task
from dptrain.cohorts.decode_cache import Undecoded
from dptrain.errors import DataError
from dptrain.seeding import stream_seed

UNKNOWN = "unknown"
"""Value of a group attribute that is missing."""
MIN_STRATUM = 10
"""Multilabel: combinations of labels with fewer patients than this share one stratum of the split."""


@dataclass(frozen=True)
class Records:
    """What a reader hands over: N records in the order of the source, patients still by name."""

    task: Task
    """binary, multiclass or multilabel."""
    features: NDArray[np.float32] | Undecoded
    """(N, ...) model input, scaled by public constants; may be a memory map, or files that `assemble` is to decode."""
    labels: NDArray[np.float32] | NDArray[np.int64]
    """As in `Cohort`."""
    patient_ids: NDArray[np.str_]
    """(N,) identifier of each record's patient."""
    label_names: tuple[str, ...]
    """As in `Cohort`."""
    feature_names: tuple[str, ...] = ()
    """As in `Cohort`."""
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    """Named group attributes, each (N,) per record. A patient whose records disagree gets the value of most records
    (`unknown` never outvotes a known value; ties go to the record that comes first)."""
    is_test: NDArray[np.bool_] | None = None
    """(N,) the split that the data come with; None lets `assemble` split."""
    outside_dp: tuple[str, ...] = ()
    """As in `Cohort`."""
    warnings: tuple[str, ...] = ()
    """As in `Cohort`."""
    simulated: bool = False
    """As in `Cohort`."""


def assemble(name: str, records: Records, seed: int, max_patients: int | None, test_fraction: float) -> Cohort:
    """The `Cohort` of these records: patients numbered in the order of their sorted identifiers.

    `max_patients` keeps a random subset of patients with all their records; only theirs are decoded, where records
    are still files. Without a split of its own, exactly floor(P * test_fraction) patients (at least 1) are held out,
    stratified by the patient's label.
    """
    if len(records.patient_ids) == 0:
        raise DataError(f"data.name={name}: no records are left. Check the path and the filters.")
    warnings = list(records.warnings)
    ids, patient = np.unique(records.patient_ids, return_inverse=True)
    patient = patient.astype(np.int64)
    rows: NDArray[np.int64] | None = None
    if max_patients is not None and max_patients < len(ids):
        kept = np.zeros(len(ids), dtype=bool)
        kept[np.argsort(_hashes(ids, seed, "subset"), kind="stable")[:max_patients]] = True
        rows = np.flatnonzero(kept[patient])
        patient = (np.cumsum(kept) - 1)[patient[rows]]
        ids = ids[kept]
    elif max_patients is not None and max_patients > len(ids):
        warnings.append(f"data.max_patients={max_patients} is ignored: the data have {len(ids)} patients.")

    features = records.features if rows is None else records.features[rows]
    if isinstance(features, Undecoded):
        decoded = features.decode()
        features = decoded.features
        warnings += decoded.warnings
        if not decoded.kept.all():
            rows = np.flatnonzero(decoded.kept) if rows is None else rows[decoded.kept]
            present, patient = np.unique(patient[decoded.kept], return_inverse=True)
            if len(present) < len(ids):
                warnings.append(f"{len(ids) - len(present)} patients have no record left and are left out.")
            ids = ids[present]

    def take(array: Any) -> Any:
        return array if rows is None else array[rows]

    labels = take(records.labels)
    outside_dp = list(records.outside_dp)
    if records.is_test is not None:
        is_test = _given_split(name, patient, take(records.is_test), len(ids))
    else:
        is_test = split_patients(ids, patient_strata(labels, patient, len(ids)), seed, test_fraction)
        outside_dp.append(
            "The split into training and test patients was balanced by label (stratified), so who is in training "
            "depends on labels; epsilon protects the training patients given that split."
        )
    groups = {}
    for key, values in records.groups.items():
        groups[key], num_mixed = majority(take(values), patient, len(ids))
        if num_mixed:
            warnings.append(
                f"Group {key!r}: {num_mixed} patients have records that disagree; each counts with the value of most "
                "of its records (ties: the first)."
            )
    return Cohort(
        name=name, task=records.task, features=features, labels=labels, patient=patient,
        patient_ids=ids, is_test=is_test, label_names=records.label_names, feature_names=records.feature_names,
        groups=groups, outside_dp=tuple(outside_dp), warnings=tuple(warnings), simulated=records.simulated,
    )


def num_test_patients(num_patients: int, test_fraction: float) -> int:
    """floor(P * test_fraction), at least 1: 170 of 569 at 0.3."""
    return max(1, math.floor(num_patients * test_fraction + 1e-9))


def split_patients(
    patient_ids: NDArray[np.str_], strata: NDArray[np.int64], seed: int, test_fraction: float
) -> NDArray[np.bool_]:
    """(P,) True for test patients: exactly `num_test_patients`, each stratum in proportion (largest remainder).

    A stratum of two or more patients has at least one on either side where the total allows it, so that a rare class
    is not lost from the test.
    """
    num_test = num_test_patients(len(patient_ids), test_fraction)
    values, sizes = np.unique(strata, return_counts=True)
    quota = sizes * (num_test / len(patient_ids))
    take = np.floor(quota).astype(int)
    for index in np.argsort(take - quota, kind="stable")[: num_test - int(take.sum())]:
        take[index] += 1
    for index in np.flatnonzero((take == 0) & (sizes >= 2)):
        donor = int(np.argmax(take))
        if take[donor] >= 2:
            take[donor], take[index] = take[donor] - 1, 1
    for index in np.flatnonzero((take == sizes) & (sizes >= 2)):
        receiver = int(np.argmax(sizes - take))
        if (sizes - take)[receiver] >= 2:
            take[receiver], take[index] = take[receiver] + 1, take[index] - 1
    order = np.argsort(_hashes(patient_ids, seed, "split"), kind="stable")
    is_test = np.zeros(len(patient_ids), dtype=bool)
    for value, count in zip(values, take, strict=True):
        is_test[order[strata[order] == value][:count]] = True
    return is_test


def patient_strata(
    labels: NDArray[np.float32] | NDArray[np.int64], patient: NDArray[np.int64], num_patients: int
) -> NDArray[np.int64]:
    """(P,) stratum of each patient: its highest class, or (multilabel) which labels it has ever had."""
    if labels.ndim == 1:
        strata = np.full(num_patients, -1, dtype=np.int64)
        np.maximum.at(strata, patient, labels.astype(np.int64))
        return strata
    ever = np.zeros((num_patients, labels.shape[1]), dtype=bool)
    np.logical_or.at(ever, patient, np.nan_to_num(np.asarray(labels, dtype=np.float32)) > 0.5)
    _, strata, counts = np.unique(ever, axis=0, return_inverse=True, return_counts=True)
    return np.where(counts[strata] < MIN_STRATUM, -1, strata).astype(np.int64)


def majority(
    values: NDArray[np.str_], patient: NDArray[np.int64], num_patients: int
) -> tuple[NDArray[np.str_], int]:
    """((P,) most frequent known value of each patient's records, number of patients with more than one known value).

    Ties go to the value whose first record comes first; a patient without a known value is `unknown`.
    """
    names, codes = np.unique(np.asarray(values, dtype=np.str_), return_inverse=True)
    known = np.flatnonzero(names[codes] != UNKNOWN)
    pairs, first, counts = np.unique(
        patient[known] * len(names) + codes[known], return_index=True, return_counts=True
    )
    who = pairs // len(names)
    order = np.lexsort((known[first], -counts, who))
    best = order[np.unique(who[order], return_index=True)[1]]
    result = np.full(num_patients, UNKNOWN, dtype=np.asarray([*names.tolist(), UNKNOWN]).dtype)
    result[who[best]] = names[pairs[best] % len(names)]
    return result, int((np.bincount(who, minlength=1) > 1).sum())


def unique_id_warning(patient_ids: NDArray[np.str_], setting: str) -> tuple[str, ...]:
    """A warning if every record has its own identifier; `setting` is how the user named the column."""
    if len(patient_ids) < 2 or len(np.unique(patient_ids)) < len(patient_ids):
        return ()
    return (
        f"{setting} is different in every row, so patients and records are the same thing here and epsilon protects "
        "one row. If patients can have several rows, name the column that identifies the patient.",
    )


def _hashes(patient_ids: NDArray[np.str_], seed: int, purpose: str) -> NDArray[np.uint64]:
    key = stream_seed(seed, purpose).to_bytes(8, "big")
    digests = (hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in patient_ids.tolist())
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _given_split(
    name: str, patient: NDArray[np.int64], is_test: NDArray[np.bool_], num_patients: int
) -> NDArray[np.bool_]:
    in_test = np.bincount(patient[is_test], minlength=num_patients) > 0
    in_train = np.bincount(patient[~is_test], minlength=num_patients) > 0
    num_both = int((in_test & in_train).sum())
    if num_both:
        raise DataError(
            f"data.name={name}: {num_both} of {num_patients} patients have records in both training and test. The "
            "test would know its patients. Split by patient, or leave the split column out and let dptrain split."
        )
    return in_test
