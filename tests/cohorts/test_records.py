"""Split, subset and group attributes against what is obvious by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.cohorts.records import Records, assemble, majority, num_test_patients, patient_strata, split_patients
from dptrain.errors import DataError


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda s: sum(s) >= 4),
    fraction=st.floats(0.1, 0.9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_split_has_the_exact_size_and_is_stratified(sizes: list[int], fraction: float, seed: int) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.array([f"p{i}" for i in range(len(strata))])
    is_test = split_patients(ids, strata, seed, fraction)
    assert is_test.sum() == num_test_patients(len(ids), fraction)
    for value, size in enumerate(sizes):
        quota = size * is_test.sum() / len(ids)
        assert abs(is_test[strata == value].sum() - quota) <= max(2, len(sizes))


def test_one_patient_more_moves_few_others() -> None:
    ids = np.array([f"p{i}" for i in range(1001)])
    strata = np.arange(1001) % 2
    before, after = (split_patients(ids[:n], strata[:n], 0, 0.3) for n in (1000, 1001))
    assert (before != after[:1000]).sum() <= 2


def test_a_rare_class_is_on_both_sides() -> None:
    strata = np.array([1] * 2 + [0] * 98)
    is_test = split_patients(np.array([f"p{i}" for i in range(100)]), strata, 0, 0.1)
    assert is_test[:2].sum() == 1
    assert is_test.sum() == 10


def test_stratum_is_the_highest_class_of_a_patient() -> None:
    np.testing.assert_array_equal(patient_strata(np.array([0, 2, 1, 0]), np.array([0, 0, 1, 2]), 3), [2, 1, 0])


def test_rare_label_combinations_share_a_stratum() -> None:
    labels = np.zeros((40, 2), dtype=np.float32)
    labels[:20, 0] = 1
    labels[0, 1] = 1
    labels[1, 1] = np.nan
    strata = patient_strata(labels, np.arange(40), 40)
    assert strata[0] == -1
    assert strata[1] == strata[2] != strata[39]


def test_majority_of_known_values_ties_to_the_first() -> None:
    values = np.array(["b", "a", "a", "unknown", "unknown", "c", "d", "unknown", "e"])
    patient = np.array([0, 0, 0, 1, 1, 1, 2, 3, 2])
    result, num_mixed = majority(values, patient, 5)
    assert result.tolist() == ["a", "c", "d", "unknown", "unknown"]
    assert num_mixed == 2


def records(**changed: object) -> Records:
    base: dict[str, object] = {
        "task": "binary", "features": np.zeros((40, 1), np.float32), "labels": np.arange(40) % 2,
        "patient_ids": np.array([f"secret{i // 2}" for i in range(40)]), "label_names": ("n", "y"),
    }  # fmt: skip
    return Records(**{**base, **changed})  # type: ignore[arg-type]


def test_patient_in_train_and_test_is_refused_without_naming_it() -> None:
    is_test = np.zeros(40, dtype=bool)
    is_test[[0, 2, 4, 5, 20, 21]] = True
    with pytest.raises(DataError, match="2 of 20 patients have records in both training and test") as caught:
        assemble("table", records(is_test=is_test), 0, None, 0.3)
    assert "secret" not in str(caught.value)


def test_no_records_left() -> None:
    with pytest.raises(DataError, match="no records are left"):
        assemble("table", records(patient_ids=np.array([], dtype=str)), 0, None, 0.3)


def test_one_class_only() -> None:
    with pytest.raises(DataError, match="of one class only"):
        assemble("table", records(labels=np.zeros(40, dtype=np.int64)), 0, None, 0.3)


def test_max_patients_above_what_there_is_warns() -> None:
    cohort = assemble("table", records(), 0, 500, 0.3)
    assert cohort.warnings == ("data.max_patients=500 is ignored: the data have 20 patients.",)


def test_groups_that_disagree_are_counted() -> None:
    groups = {"sex": np.array(["F", "M"] + ["F"] * 38)}
    cohort = assemble("table", records(groups=groups), 0, None, 0.3)
    assert cohort.groups["sex"].tolist() == ["F"] * 20
    assert "Group 'sex': 1 patients have records that disagree" in cohort.warnings[0]


def test_stratified_split_is_named_in_the_statement() -> None:
    assert "stratified" in assemble("table", records(), 0, None, 0.3).outside_dp[0]
    given_split = np.repeat(np.arange(20) % 4 == 0, 2)
    assert assemble("table", records(is_test=given_split), 0, None, 0.3).outside_dp == ()
