"""What every cohort must hold, whatever reader it comes from."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from dptrain.cohorts.cohort import TASKS, Cohort
from dptrain.cohorts.decode_cache import Undecoded
from dptrain.cohorts.records import assemble
from dptrain.cohorts.registry import READERS, load_cohort, nominal_train_patients
from dptrain.config import DataConfig
from dptrain.errors import ConfigError


def test_types_and_shapes(data_config: DataConfig) -> None:
    cohort = load_cohort(data_config, seed=0)
    assert cohort.name == data_config.name
    assert cohort.task in TASKS
    assert cohort.features.dtype == np.float32
    assert len(cohort.features) == len(cohort.labels) == cohort.num_records
    assert cohort.labels.dtype == (np.float32 if cohort.task == "multilabel" else np.int64)
    assert cohort.patient.dtype == np.int64
    assert cohort.is_test.dtype == bool
    assert cohort.patient_ids.dtype.kind == "U"
    assert len(set(cohort.patient_ids.tolist())) == cohort.num_patients
    assert all(values.dtype.kind == "U" and (values != "").all() for values in cohort.groups.values())
    assert len(cohort.feature_names) == cohort.features.shape[1]
    assert len(set(cohort.feature_names)) == len(cohort.feature_names)
    assert np.isfinite(cohort.features).all()
    assert np.abs(cohort.features).max() < 20, "features are scaled"


def test_split_is_by_patient_and_of_the_right_size(data_config: DataConfig) -> None:
    cohort = load_cohort(data_config, seed=0)
    if READERS[data_config.name](data_config).is_test is None:
        assert cohort.is_test.sum() == int(cohort.num_patients * data_config.test_fraction)
        other = load_cohort(data_config, seed=1)
        assert (other.is_test != cohort.is_test).any(), "another seed, another split"
    train = set(cohort.patient_ids[~cohort.is_test].tolist())
    assert not train & set(cohort.patient_ids[cohort.is_test].tolist())


def test_fingerprint_is_stable_and_sees_every_change(data_config: DataConfig) -> None:
    cohort = load_cohort(data_config, seed=0)
    assert load_cohort(data_config, seed=0).fingerprint() == cohort.fingerprint()
    for changed in changes(cohort):
        assert changed.fingerprint() != cohort.fingerprint()


def changes(cohort: Cohort) -> list[Cohort]:
    """The cohort with one thing different each."""
    features, labels = cohort.features.copy(), cohort.labels.copy()
    test, ids = cohort.is_test.copy(), cohort.patient_ids.copy()
    features[-1, -1] += 1
    labels[:2] = labels[:2][::-1] if (labels[0] != labels[1]).all() else 1 - np.nan_to_num(labels[:2])
    labels = np.abs(labels)
    test[0] = ~test[0]
    ids[0] = "x"
    names = (*cohort.label_names[:-1], "another")
    replaced = [
        dataclasses.replace(cohort, **{name: value})
        for name, value in (("features", features), ("labels", labels), ("is_test", test), ("patient_ids", ids),
                            ("label_names", names), ("name", "another"), ("outside_dp", ("another",)))
    ]  # fmt: skip
    for key in cohort.groups:
        values = cohort.groups[key].copy()
        values[0] = "x"
        replaced.append(dataclasses.replace(cohort, groups={**cohort.groups, key: values}))
    return replaced


def test_no_identifier_leaves_in_text(data_config: DataConfig) -> None:
    cohort = load_cohort(dataclasses.replace(data_config, max_patients=40), seed=0)
    words = set(re.findall(r"\w+", " ".join((*cohort.warnings, *cohort.outside_dp))))
    assert not words & {i for i in cohort.patient_ids.tolist() if len(i) > 3}


def test_order_of_rows_changes_no_split_and_no_subset(data_config: DataConfig) -> None:
    records = READERS[data_config.name](data_config)
    order = np.random.default_rng(0).permutation(len(records.labels))
    shuffled = dataclasses.replace(
        records, features=records.features[order], labels=records.labels[order],
        patient_ids=records.patient_ids[order],
        groups={key: values[order] for key, values in records.groups.items()},
        is_test=None if records.is_test is None else records.is_test[order],
    )
    straight, mixed = (assemble("x", r, 3, 50, 0.3) for r in (records, shuffled))
    np.testing.assert_array_equal(straight.patient_ids, mixed.patient_ids)
    np.testing.assert_array_equal(straight.is_test, mixed.is_test)


def test_subset_keeps_all_records_of_its_patients(data_config: DataConfig) -> None:
    records = READERS[data_config.name](data_config)
    cohort = load_cohort(dataclasses.replace(data_config, max_patients=50), seed=0)
    assert cohort.num_patients == 50
    assert cohort.num_records == np.isin(records.patient_ids, cohort.patient_ids).sum()
    larger = load_cohort(dataclasses.replace(data_config, max_patients=60), seed=0)
    assert set(cohort.patient_ids.tolist()) <= set(larger.patient_ids.tolist()), "subsets of one seed are nested"


def test_inputs_are_not_changed(data_config: DataConfig) -> None:
    records = READERS[data_config.name](data_config)
    if isinstance(records.features, Undecoded):
        records = dataclasses.replace(records, features=records.features.decode().features)
    assert isinstance(records.features, np.ndarray)
    before = records.features.copy(), records.labels.copy(), records.patient_ids.copy()
    assemble("x", records, 0, None, 0.3)
    for now, then in zip((records.features, records.labels, records.patient_ids), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_unknown_option_and_all_problems_at_once(data_config: DataConfig) -> None:
    options = {**data_config.options, "colour": "red", "group_colums": ["sex"]}
    with pytest.raises(ConfigError) as caught:
        load_cohort(dataclasses.replace(data_config, options=options), seed=0)
    assert any(p.startswith("data.colour='red' is not a setting here") for p in caught.value.problems)
    assert len(caught.value.problems) == 2
    if data_config.name == "table":
        assert "did you mean 'group_columns'?" in str(caught.value)


def test_unknown_data_set() -> None:
    with pytest.raises(ConfigError, match=r"is not a data set \(did you mean 'breast_cancer'"):
        load_cohort(DataConfig("breast_canser", 399), seed=0)


@pytest.mark.parametrize("max_patients, nominal, expected", [
    (None, 49000, 49000), (10000, 49000, 7000), (600, 399, 399), (569, 400, 399),
])  # fmt: skip
def test_nominal_patients_follow_max_patients(max_patients: int | None, nominal: int, expected: int) -> None:
    assert nominal_train_patients(DataConfig("x", nominal, max_patients=max_patients)) == expected
