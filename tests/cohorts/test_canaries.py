"""Canaries are public constants at the end of the training pool, and gone where patients are looked at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dptrain.cohorts.canaries import AMPLITUDE, plant_canaries
from dptrain.cohorts.cohort import Cohort
from dptrain.config import AuditConfig
from dptrain.errors import ConfigError
from tests.report.fake_study import FakeStudy

NUM = 12


@pytest.fixture(params=["binary", "multiclass", "multilabel"])
def cohort(request) -> Cohort:
    return FakeStudy(task=request.param, records_per_patient=2).cohort()


def test_canaries_come_last_in_the_training_pool(cohort: Cohort) -> None:
    planted = plant_canaries(cohort, NUM)
    assert planted.num_canaries == NUM
    assert planted.num_patients == cohort.num_patients + NUM
    assert planted.num_records == cohort.num_records + NUM
    expected = [*cohort.train_patients, *range(cohort.num_patients, planted.num_patients)]
    assert planted.train_patients.tolist() == expected
    assert not planted.is_test[-NUM:].any()
    assert planted.labels.dtype == cohort.labels.dtype
    assert planted.features.dtype == cohort.features.dtype
    assert set(np.abs(planted.features[-NUM:]).ravel().tolist()) == {AMPLITUDE}


def test_without_them_the_cohort_is_as_it_was(cohort: Cohort) -> None:
    back = plant_canaries(cohort, NUM).without_canaries()
    for name in ("features", "labels", "patient", "patient_ids", "is_test"):
        np.testing.assert_array_equal(getattr(back, name), getattr(cohort, name))
    assert {name: values.tolist() for name, values in back.groups.items()} == {
        name: values.tolist() for name, values in cohort.groups.items()
    }
    assert back.num_canaries == 0
    assert plant_canaries(cohort, NUM).fingerprint() == cohort.fingerprint()
    assert plant_canaries(cohort, 0) is cohort


def test_they_depend_on_no_patient(cohort: Cohort) -> None:
    other = dataclasses.replace(cohort, features=cohort.features + 7, patient_ids=cohort.patient_ids[::-1].copy())
    ours, theirs = plant_canaries(cohort, NUM), plant_canaries(other, NUM)
    np.testing.assert_array_equal(ours.features[-NUM:], theirs.features[-NUM:])
    np.testing.assert_array_equal(ours.labels[-NUM:], theirs.labels[-NUM:])
    more = plant_canaries(cohort, NUM + 5)
    np.testing.assert_array_equal(more.features[-NUM - 5 : -5], ours.features[-NUM:])


def test_too_few_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"audit.canaries=3 must be 0 .* or at least 8"):
        AuditConfig(canaries=3)
