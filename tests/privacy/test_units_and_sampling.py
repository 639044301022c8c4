"""Units, Poisson sampling and the mechanism's domain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.sampling import poisson_batches
from dptrain.privacy.units import UnitIndex


def mechanism(**changes: object) -> Mechanism:
    values: dict = {
        "unit": "patient",
        "sampling_rate": 0.2,
        "noise_multiplier": 1.0,
        "clipping_norm": 1.0,
        "num_steps": 50,
        "expected_batch_size": 10.0,
        "delta": 1e-3,
    }
    return Mechanism(**(values | changes))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.sets(st.integers(0, 6)), st.data())
def test_gather_equals_the_obvious_loop(patient, chosen, data):
    patient = np.array(patient)
    patients = np.array(sorted(chosen), dtype=np.int64)
    index = UnitIndex.build(patient, patients, "patient")
    assert index.num_units == len(patients)
    units = np.array(data.draw(st.lists(st.integers(0, max(len(patients) - 1, 0)), unique=True)), dtype=np.int64)
    units = np.sort(units) if len(patients) else units[:0]
    rows, owner = index.gather(units, None, np.random.default_rng(0))
    expected = [(row, k) for k, unit in enumerate(units) for row in np.flatnonzero(patient == patients[unit])]
    assert list(zip(rows.tolist(), owner.tolist(), strict=True)) == [(int(r), k) for r, k in expected]


def test_record_units_are_single_records_of_the_given_patients():
    index = UnitIndex.build(np.array([2, 0, 1, 0, 2]), np.array([0, 2]), "record")
    assert index.records.tolist() == [0, 1, 3, 4]
    assert index.sizes.tolist() == [1, 1, 1, 1]


def test_capped_choice_is_random_uniform_and_local_to_the_patient():
    patient = np.repeat([0, 1, 2], [6, 2, 1])
    index = UnitIndex.build(patient, np.arange(3), "patient")
    rng = np.random.default_rng(0)
    counts = np.zeros(9)
    for _ in range(3000):
        rows, owner = index.gather(np.arange(3), 3, rng)
        assert np.bincount(owner).tolist() == [3, 2, 1]
        assert (patient[rows] == owner).all()
        assert len(set(rows.tolist())) == len(rows)
        counts[rows] += 1
    assert (counts[6:] == 3000).all()
    assert np.abs(counts[:6] - 1500).max() < 5 * np.sqrt(750)


def test_exactly_t_batches_of_members_only():
    member = np.arange(300) % 3 != 0
    batches = list(poisson_batches(mechanism(), member, np.random.default_rng(0)))
    assert len(batches) == 50
    assert all(member[batch].all() for batch in batches)
    sizes = np.array([len(batch) for batch in batches])
    assert len(set(sizes.tolist())) > 5, "a fixed batch size is not Poisson sampling"
    assert abs(sizes.sum() - 50 * 200 * 0.2) < 5 * np.sqrt(50 * 200 * 0.2 * 0.8)


def test_inclusions_are_independent_between_units_and_steps():
    batches = list(poisson_batches(mechanism(num_steps=4000), np.ones(4, bool), np.random.default_rng(1)))
    inside = np.zeros((4000, 4))
    for row, batch in enumerate(batches):
        inside[row, batch] = 1
    correlations = np.corrcoef(np.column_stack([inside[:-1], inside[1:, :2]]).T)
    assert np.abs(correlations - np.eye(6)).max() < 5 / np.sqrt(4000)


def test_one_units_membership_changes_nobody_elses_coins():
    everyone = np.ones(100, bool)
    fewer = everyone.copy()
    fewer[40] = False
    for a, b in zip(
        poisson_batches(mechanism(), everyone, np.random.default_rng(3)),
        poisson_batches(mechanism(), fewer, np.random.default_rng(3)),
        strict=True,
    ):
        assert set(a.tolist()) - {40} == set(b.tolist())


def test_full_batch_takes_every_member_every_time():
    batches = list(
        poisson_batches(mechanism(sampling_rate=1.0), np.array([True, False, True]), np.random.default_rng(0))
    )
    assert all(batch.tolist() == [0, 2] for batch in batches)


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "visit"},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": float("nan")},
        {"clipping_norm": 0.0},
        {"num_steps": 0},
        {"expected_batch_size": 0.0},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
)
def test_values_outside_the_domain_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=name):
        mechanism(**change)
