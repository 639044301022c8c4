"""The emergency benchmark on small files in its layout: tasks, features, and the traps in its split and units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError

HOSP = "outcome_hospitalization"
REVISIT = "outcome_ed_revisit_3d"


@pytest.fixture
def folder(hospital_folder: Callable[[str], Path]) -> Path:
    return hospital_folder("mimic_iv_ed")


@pytest.fixture
def master(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "master_dataset.csv", dtype=str, keep_default_na=False)


def config(path: Path | None, **options: Any) -> DataConfig:
    return DataConfig("mimic_iv_ed", 40, path=None if path is None else str(path), options=options)


def column(cohort: Cohort, name: str) -> np.ndarray:
    return cohort.features[:, cohort.feature_names.index(name)]


def test_against_the_rows_one_by_one(folder: Path, master: pd.DataFrame) -> None:
    cohort = load_cohort(config(folder), 0)
    kept = master[(master["age"].astype(int) >= 18) & (master["ed_death"] != "True")].reset_index(drop=True)
    assert cohort.num_records == len(kept) < len(master)
    assert cohort.label_names == ("no hospitalization", "hospitalization")
    columns = dict(zip(cohort.feature_names, cohort.features.T.tolist(), strict=True))
    for row in range(len(kept)):
        raw, who = kept.loc[row], cohort.patient[row]
        assert cohort.patient_ids[who] == raw["subject_id"]
        assert cohort.labels[row] == (raw[HOSP] == "True")
        assert cohort.groups["sex"][who] == {"F": "female", "M": "male"}[raw["gender"]]
        one = {name: values[row] for name, values in columns.items()}
        assert one["age"] == pytest.approx((int(raw["age"]) - 55) / 20)
        assert one["n_ed_30d"] == pytest.approx((np.log(1 + int(raw["n_ed_30d"])) - 0.5) / 0.5, abs=1e-6)
        assert one["chiefcom_chest_pain"] == (raw["chiefcom_chest_pain"] == "True")
        assert one["cci_CHF"] == int(raw["cci_CHF"])
        assert one["gender=F"] == (raw["gender"] == "F")
        if raw["triage_heartrate"]:
            assert one["triage_heartrate"] == pytest.approx((float(raw["triage_heartrate"]) - 80) / 20)
    assert set(cohort.groups["race"]) == {"White", "Black", "Hispanic", "Asian", "unknown"}
    assert set(cohort.groups["insurance"]) == {"Medicare", "Medicaid", "Other", "unknown"}
    assert not any(name.startswith("eci_CHF") for name in cohort.feature_names), "the same as cci_CHF"


def test_nothing_that_comes_later_is_a_feature(folder: Path) -> None:
    triage = load_cohort(config(folder), 0).feature_names
    discharge = load_cohort(config(folder, labels=[REVISIT]), 0).feature_names
    assert not [name for name in triage if name.startswith(("ed_", "n_med", "outcome", "time_to", "next_ed"))]
    assert not [name for name in discharge if name.startswith(("outcome", "time_to", "next_ed"))]
    assert {"ed_sbp_last", "ed_los_hours", "n_med", "n_medrecon"} <= set(discharge) - set(triage)
    assert {"triage_sbp", "triage_temperature"} <= set(triage) - set(discharge)
    assert len(triage) == 64 + 1, "the benchmark's 64, and a slot for other genders"
    assert len(discharge) == len(triage) - 6 + 9


def test_fahrenheit_errors_and_missing_vital_signs(folder: Path, master: pd.DataFrame) -> None:
    cohort = load_cohort(config(folder, min_age=0), 0)
    kept = master[master["ed_death"] != "True"].index.to_list()
    hot = dict(zip(kept, column(cohort, "triage_temperature").tolist(), strict=True))
    assert hot[0] == pytest.approx((98.2 - 32) * 5 / 9 - 36.8, abs=1e-4)
    assert hot[1] == pytest.approx(37 - 36.8, abs=1e-4), "written in degrees Celsius"
    assert hot[2] == hot[9] == 0, "986 degrees is an error, and missing is the middle of the range"
    for name, row in (("o2sat", 4), ("pain", 7), ("heartrate", 9), ("acuity", 9)):
        assert dict(zip(kept, column(cohort, f"triage_{name}").tolist(), strict=True))[row] == 0, name
    pressure = dict(zip(kept, column(cohort, "triage_sbp").tolist(), strict=True))
    assert pressure[6] == pytest.approx((40 - 125) / 20), "0.5 is set to the lowest that the model sees"
    assert np.isfinite(cohort.features).all()


def test_pain_in_words_is_missing_and_other_words_are_an_error(master: pd.DataFrame, tmp_path: Path) -> None:
    master.loc[:1, "triage_pain"] = ["unable", "7-8"]
    master.to_csv(tmp_path / "master_dataset.csv.gz", index=False)
    assert column(load_cohort(config(tmp_path), 0), "triage_pain")[:2].tolist() == [0, 0]
    master.loc[:1, "triage_sbp"] = ["high", "low"]
    master.to_csv(tmp_path / "master_dataset.csv", index=False)
    with pytest.raises(DataError, match=r"column 'triage_sbp' has 2 of .* values that are not finite numbers"):
        load_cohort(config(tmp_path), 0)


def test_revisits_are_for_those_who_went_home(folder: Path, master: pd.DataFrame) -> None:
    cohort = load_cohort(config(folder, labels=[REVISIT]), 0)
    adult = master["age"].astype(int) >= 18
    home = adult & (master[["ed_death", "before_ed_mortality", HOSP]] == "False").all(axis=1)
    assert cohort.num_records == home.sum()
    assert cohort.labels.tolist() == (master[REVISIT][home] == "True").astype(int).tolist()
    assert any("admitted for a revisit" in warning for warning in cohort.warnings)


def test_several_outcomes(folder: Path, master: pd.DataFrame) -> None:
    names = [HOSP, "outcome_critical", "outcome_icu_transfer_12h", "outcome_inhospital_mortality"]
    cohort = load_cohort(config(folder, labels=names), 0)
    assert (cohort.task, cohort.label_names) == ("multilabel", tuple(names))
    kept = (master["age"].astype(int) >= 18) & (master["ed_death"] != "True")
    np.testing.assert_array_equal(cohort.labels, (master[names][kept] == "True").to_numpy())


def test_visits_of_one_patient_are_never_on_both_sides(hospital_folder: Callable[[str], Path]) -> None:
    """The benchmark's own split puts them there."""
    folder = hospital_folder("mimic_iv_ed_split")
    parts = [pd.read_csv(folder / name, dtype=str) for name in ("train.csv", "test.csv")]
    both = set(parts[0]["subject_id"]) & set(parts[1]["subject_id"])
    assert len(both) > 10
    cohort = load_cohort(config(folder), 0)
    alive = pd.concat(parts).query("ed_death == 'False'")
    assert cohort.num_patients == alive["subject_id"].nunique()
    (warning,) = [text for text in cohort.warnings if "in both train.csv and test.csv" in text]
    assert f" {len(both)} of {pd.concat(parts)['subject_id'].nunique()} patients have visits in both" in warning
    assert any("means over the visits of train.csv" in text for text in cohort.outside_dp)
    assert load_cohort(config(folder / "test.csv"), 0).fingerprint() == cohort.fingerprint()


def test_both_forms_of_the_data_are_the_same_patients(folder: Path, hospital_folder: Callable[[str], Path]) -> None:
    whole = load_cohort(config(folder), 0)
    parts = load_cohort(config(hospital_folder("mimic_iv_ed_split")), 0)
    assert whole.patient_ids.tolist() == parts.patient_ids.tolist()
    assert not any("train.csv" in text for text in whole.outside_dp)
    assert any("splits by visit" in warning for warning in whole.warnings)
    assert np.abs(column(parts, "triage_temperature")).max() < 3, "Celsius is not converted again"


def test_master_dataset_is_preferred_unless_a_part_is_named(
    folder: Path, hospital_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    for source in (folder, hospital_folder("mimic_iv_ed_split")):
        for file in source.iterdir():
            (tmp_path / file.name).symlink_to(file)
    assert load_cohort(config(tmp_path), 0).fingerprint() == load_cohort(config(folder), 0).fingerprint()
    named = load_cohort(config(tmp_path / "train.csv"), 0)
    assert named.fingerprint() == load_cohort(config(hospital_folder("mimic_iv_ed_split")), 0).fingerprint()


def test_the_names_of_mimic_iv_2(folder: Path, master: pd.DataFrame, tmp_path: Path) -> None:
    """edstays has gender and race of its own there, so that merging makes gender_x and gender_y."""
    newer = master.rename(columns={"gender": "gender_x", "ethnicity": "race"}).assign(gender_y=master["gender"])
    newer.to_csv(tmp_path / "master_dataset.csv", index=False)
    assert load_cohort(config(tmp_path), 0).fingerprint() == load_cohort(config(folder), 0).fingerprint()
    newer.drop(columns=["race", "insurance"]).to_csv(tmp_path / "master_dataset.csv", index=False)
    with pytest.raises(DataError) as caught:
        load_cohort(config(tmp_path), 0)
    assert len(caught.value.problems) == 2
    assert "no column race or ethnicity or race_x or race_y. Take race out of data.group_columns" in str(caught.value)
    assert set(load_cohort(config(tmp_path, group_columns=["sex"]), 0).groups) == {"sex"}


def test_what_is_missing_or_twice_is_named(folder: Path, master: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=null must name the folder with the benchmark's master_dataset"):
        load_cohort(config(None), 0)
    master.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(DataError, match=r"has no test\.csv"):
        load_cohort(config(tmp_path), 0)
    master.to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(DataError, match=r"140 visits \(stay_id\) are there more than once"):
        load_cohort(config(tmp_path), 0)
    master.drop(columns=["triage_sbp", "cci_MI"]).to_csv(tmp_path / "master_dataset.csv", index=False)
    with pytest.raises(DataError) as caught:
        load_cohort(config(tmp_path, labels=["outcome_hospitalisation"]), 0)
    assert len(caught.value.problems) == 3
    assert "(did you mean 'outcome_hospitalization'?)" in str(caught.value)
    master.assign(outcome_hospitalization="maybe").to_csv(tmp_path / "master_dataset.csv", index=False)
    with pytest.raises(DataError, match="must hold True and False, found 'maybe'"):
        load_cohort(config(tmp_path), 0)
    with pytest.raises(DataError, match="no visits are left of 140"):
        load_cohort(config(folder, min_age=300), 0)


def test_settings_with_all_their_problems(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cohort(config(folder, labels=[HOSP, HOSP], group_columns=["site"], age_bands=[60, 40]), 0)
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="mixes outcomes of triage and of discharge"):
        load_cohort(config(folder, labels=[HOSP, REVISIT]), 0)
    with pytest.raises(ConfigError, match="is decided by then"):
        load_cohort(config(folder, moment="discharge"), 0)
    both = load_cohort(config(folder, labels=[HOSP, REVISIT], moment="triage"), 0)
    assert np.isnan(both.labels[:, 1]).any()
    assert not np.isnan(both.labels[:, 0]).any()
