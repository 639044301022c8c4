"""Who the simulated patients are: independent of each other, known where planted, marked as simulated everywhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dptrain.cohorts.records import Records
from dptrain.cohorts.registry import READERS, load_cohort
from dptrain.cohorts.sim_patients import Draws, SimulatedOptions, simulate_patients
from dptrain.config import DataConfig
from dptrain.errors import ConfigError

SIMULATED = sorted(name for name in READERS if name.startswith("sim_"))
SMALL: dict[str, dict[str, Any]] = {"sim_imaging": {"image_size": 32}}


def config(name: str, num_patients: int, mean_records: float = 2.0, **options: Any) -> DataConfig:
    return DataConfig(
        name, round(0.7 * num_patients), records_per_patient=mean_records,
        options={**SMALL.get(name, {}), "num_patients": num_patients, **options},
    )


def read(name: str, num_patients: int, **options: Any) -> Records:
    data = config(name, num_patients, **options)
    return READERS[data.name](data)


def same_patients(small: Records, large: Records, keep: np.ndarray | None = None) -> None:
    """Every record of `small` (or of its patients `keep`) is in `large`, unchanged and in the same order."""
    ids = np.unique(small.patient_ids) if keep is None else keep
    one, two = (np.isin(records.patient_ids, ids) for records in (small, large))
    np.testing.assert_array_equal(small.features[one], large.features[two])
    np.testing.assert_array_equal(small.labels[one], large.labels[two])
    for key, values in small.groups.items():
        np.testing.assert_array_equal(values[one], large.groups[key][two])


@pytest.mark.parametrize("name", SIMULATED)
def test_the_same_settings_give_the_same_patients_and_another_seed_others(name: str) -> None:
    first = read(name, 40)
    same_patients(first, read(name, 40))
    other = read(name, 40, seed=1)
    assert len(other.labels) != len(first.labels) or not np.array_equal(other.features, first.features)


@pytest.mark.parametrize("name", SIMULATED)
def test_a_larger_population_begins_with_the_smaller_one(name: str) -> None:
    small, large = read(name, 40), read(name, 90)
    assert len(np.unique(large.patient_ids)) == 90
    same_patients(small, large)


@pytest.mark.parametrize("name", SIMULATED)
def test_planting_changes_no_other_patient(name: str) -> None:
    plain, planted = read(name, 60, rare_share=0, outlier_share=0), read(name, 60, rare_share=0.1, outlier_share=0.1)
    assert set(plain.groups["planted"]) == {"none"}
    ids = planted.patient_ids[planted.groups["planted"] == "none"]
    assert 40 <= len(np.unique(ids)) <= 52
    one, two = np.isin(plain.patient_ids, ids), np.isin(planted.patient_ids, ids)
    np.testing.assert_array_equal(plain.features[one], planted.features[two])
    np.testing.assert_array_equal(plain.labels[one], planted.labels[two])
    for kind in ("rare_group", "outlier"):
        moved = np.isin(plain.patient_ids, planted.patient_ids[planted.groups["planted"] == kind])
        assert (plain.features[moved] != planted.features[moved]).any()


@pytest.mark.parametrize("name", SIMULATED)
def test_without_strength_and_rules_of_their_own_planted_patients_are_like_all_others(name: str) -> None:
    planted = {"rare_share": 0.2, "outlier_share": 0.2}
    weak = {"rare_strength": 0, "rare_label_rule": "same", "outlier_strength": 0, "outlier_labels": "same"}
    plain, alike = read(name, 40, rare_share=0, outlier_share=0), read(name, 40, **planted, **weak)
    np.testing.assert_allclose(plain.features, alike.features, atol=1e-6)
    np.testing.assert_array_equal(plain.labels, alike.labels)


@pytest.mark.parametrize("name", SIMULATED)
def test_marked_as_simulated(name: str) -> None:
    cohort = load_cohort(config(name, 60), seed=0)
    assert cohort.simulated
    assert "SIMULATED" in cohort.warnings[0]
    assert set(cohort.groups) == {"sex", "age", "ethnicity", "site", "planted"}
    assert set(np.unique(cohort.groups["planted"])) <= {"none", "rare_group", "outlier"}


@pytest.mark.parametrize("name", SIMULATED)
def test_outliers_have_one_label_in_all_their_records(name: str) -> None:
    records = read(name, 80, mean_records=3.0, outlier_share=0.3)
    is_outlier = records.groups["planted"] == "outlier"
    for patient in np.unique(records.patient_ids[is_outlier]):
        assert len(np.unique(records.labels[records.patient_ids == patient], axis=0)) == 1


@pytest.mark.parametrize("name", SIMULATED)
def test_all_wrong_settings_at_once(name: str) -> None:
    wrong = {"rare_share": 0.7, "outlier_share": 0.6, "rare_label_rule": "mine", "records_distribution": "zipf"}
    with pytest.raises(ConfigError) as caught:
        read(name, 5, **wrong)
    text = str(caught.value)
    for words in ("data.num_patients=5 must be >= 20", "add up to more than 1", "data.rare_label_rule='mine'",
                  "one of geometric, poisson, fixed"):  # fmt: skip
        assert words in text


def population(num_patients: int = 20000, mean: float = 2.5, **options: Any) -> Any:
    return simulate_patients(SimulatedOptions(num_patients=num_patients, **options), Draws("test", 0), mean)


@pytest.mark.parametrize("distribution, expected, spread", [("geometric", 2.5, 1.94), ("poisson", 2.5, 1.22)])
def test_records_per_patient(distribution: str, expected: float, spread: float) -> None:
    counts = np.bincount(population(records_distribution=distribution, max_records=30).patient)
    assert counts.min() == 1
    assert counts.mean() == pytest.approx(expected, abs=0.05)
    assert counts.std() == pytest.approx(spread, abs=0.08), "as the distribution's formula says"


def test_number_of_records_fixed_and_capped() -> None:
    assert set(np.bincount(population(500, 3.0, records_distribution="fixed").patient)) == {3}
    assert np.bincount(population(2000, 3.0, max_records=4).patient).max() == 4
    with pytest.raises(ConfigError, match=r"data.records_per_patient=9 must be between 1 and data.max_records=8"):
        population(100, 9.0)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1, 0.37])
def test_every_first_n_patients_have_their_share_of_planted_ones(share: float) -> None:
    people = population(5000, rare_share=share, outlier_share=share)
    for number in (50, 333, 1000, 5000):
        assert abs(people.is_rare[:number].sum() - number * share) <= 2
        assert abs(people.is_outlier[:number].sum() - number * share) <= 2


def test_shares_of_groups_and_independence_of_planting() -> None:
    people = population()
    assert np.mean(people.sex == "female") == pytest.approx(0.5, abs=0.02)
    assert np.mean(people.site == "site_3") == pytest.approx(0.2, abs=0.02)
    assert np.mean(people.ethnicity == "D") == pytest.approx(0.05, abs=0.01)
    assert 18 <= people.age.min() < 25
    assert 90 < people.age.max() <= 97
    planted = people.planted != "none"
    assert np.mean(people.sex[planted] == "female") == pytest.approx(0.5, abs=0.06)
    assert people.age[planted].mean() == pytest.approx(people.age.mean(), abs=2)


def test_draws_of_a_record_depend_on_its_patient_and_number_alone() -> None:
    draws = Draws("test", 0)
    people = population(50)
    last = dataclasses.replace(people, patient=people.patient[-5:], visit=people.visit[-5:])
    for kind in (draws.normal, draws.uniform):
        np.testing.assert_array_equal(kind("noise", people, 7)[-5:], kind("noise", last, 7))
        assert (kind("noise", people, 7) != kind("other", people, 7)).all()
    values = draws.normal("noise", population(4000), 3)
    assert len(np.unique(values)) > 0.99 * values.size
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)


def test_public_size_that_does_not_fit_is_said() -> None:
    wrong = dataclasses.replace(config("sim_ehr", 200), nominal_patients=2800)
    assert any("Set data.nominal_patients=140" in warning for warning in load_cohort(wrong, 0).warnings)
    assert not any("nominal" in warning for warning in load_cohort(config("sim_ehr", 200), 0).warnings)
    smaller = dataclasses.replace(config("sim_ehr", 4000), max_patients=100)
    assert not any("nominal" in warning for warning in load_cohort(smaller, 0).warnings)
