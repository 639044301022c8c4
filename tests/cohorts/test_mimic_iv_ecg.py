"""MIMIC-IV-ECG on small files in its layout, and labels from a machine's report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.registry import READERS, load_cohort
from dptrain.cohorts.report_labels import ReportLabelOptions, report_labels
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError


@pytest.fixture
def folder(hospital_folder: Callable[[str], Path]) -> Path:
    return hospital_folder("mimic_iv_ecg")


def config(path: Path, max_patients: int | None = None, **options: Any) -> DataConfig:
    common = {"duration_s": 1, "missing": "interpolate", "workers": 1}
    return DataConfig("mimic_iv_ecg", 40, path=str(path), max_patients=max_patients, options={**common, **options})


def linked(folder: Path, target: Path, *without: str) -> Path:
    """The same data set without some of its files."""
    for entry in folder.iterdir():
        if entry.name not in without:
            (target / entry.name).symlink_to(entry)
    return target


def test_against_the_rows_one_by_one(folder: Path) -> None:
    cohort = load_cohort(config(folder), 0)
    listed = pd.read_csv(folder / "record_list.csv", dtype=str)
    reports = pd.read_csv(folder / "machine_measurements.csv", dtype=str, keep_default_na=False).set_index("study_id")
    people = pd.read_csv(folder / "hosp/patients.csv.gz", dtype=str).set_index("subject_id")
    listed = listed[listed["study_id"] != listed["study_id"][5]].reset_index(drop=True)
    assert cohort.num_records == len(listed) == 69
    assert cohort.label_names == ("not abnormal ECG", "abnormal ECG")
    for row in range(len(listed)):
        who = cohort.patient[row]
        subject = listed["subject_id"][row]
        assert cohort.patient_ids[who] == subject
        assert cohort.labels[row] == ("Abnormal ECG" in reports.loc[listed["study_id"][row]].tolist())
        if subject not in people.index:
            assert cohort.groups["sex"][who] == cohort.groups["age"][who] == "unknown"
            continue
        person = people.loc[subject]
        assert cohort.groups["sex"][who] == {"F": "female", "M": "male"}[person["gender"]]
        age = int(person["anchor_age"]) + int(listed["ecg_time"][row][:4]) - int(person["anchor_year"])
        assert cohort.groups["age"][who] == next(
            name for name, end in (("<40", 40), ("40-59", 60), ("60-79", 80), (">=80", 999)) if age < end
        )
    assert set(cohort.groups["race"]) == {"White", "Black", "Hispanic", "Asian", "unknown"}
    assert set(cohort.groups["insurance"]) == {"Medicare", "Medicaid", "Other", "unknown"}
    text = " ".join(cohort.warnings)
    assert "1 of 70 records are left out: they have no machine report" in text
    assert "Group 'race': 1 patients have stays that disagree" in text
    assert "1 patients have no row in patients.csv.gz" in text


def test_leads_are_found_by_name_and_missing_samples_are_filled(folder: Path) -> None:
    cohort = load_cohort(config(folder, leads=["aVL", "aVF"], sampling_rate=500), 0)
    listed = pd.read_csv(folder / "record_list.csv")
    stored = np.fromfile(folder / f"{listed['path'][0]}.dat", dtype="<i2").reshape(500, 12).T / 1000
    np.testing.assert_allclose(cohort.features[0], stored[[5, 4]], atol=1e-6)
    stored = np.fromfile(folder / f"{listed['path'][1]}.dat", dtype="<i2").reshape(500, 12).T / 1000
    np.testing.assert_allclose(cohort.features[1][0], [*[stored[5, 20]] * 20, *stored[5, 20:]], atol=1e-6)
    with pytest.raises(DataError, match=r"1 of 69 ECGs cannot be decoded"):
        load_cohort(config(folder, missing="error"), 0)


def test_several_patterns_and_hedged_findings(folder: Path) -> None:
    names = ["infarct", "left bundle branch block", "atrial fibrillation"]
    sums = {}
    for uncertain in ("positive", "negative", "missing"):
        cohort = load_cohort(config(folder, labels=names, uncertain=uncertain), 0)
        sums[uncertain] = np.nansum(cohort.labels, axis=0).tolist()
        assert np.isnan(cohort.labels[:, 0]).any() == (uncertain == "missing")
    assert sums["positive"][1:] == sums["negative"][1:] == sums["missing"][1:]
    assert sums["negative"][0] == sums["missing"][0] == 10
    assert sums["positive"][0] == 22


def test_report_lines() -> None:
    lines = pd.DataFrame([
        ["Normal ECG", ""], ["Abnormal ECG", ""], ["Normal ECG except for rate", ""], ["Otherwise normal ECG", ""],
        ["Possible infarct", "ANTERIOR INFARCT"], ["Possibly paced", "no infarction"], ["", ""],
    ])  # fmt: skip
    names = ("normal ECG", "abnormal ECG", "infarct")
    normal = report_labels(lines, ReportLabelOptions(labels=names, uncertain="negative"))
    np.testing.assert_array_equal(normal[:6], [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])
    assert np.isnan(normal[6]).all()
    own = ReportLabelOptions(labels=("scar",), patterns={"scar": r"(?<!no )infarct"}, uncertain_words=())
    assert report_labels(lines, own)[:6, 0].tolist() == [0, 0, 0, 0, 1, 0]
    across = pd.DataFrame([["sinus", "rhythm"]])
    assert report_labels(across, ReportLabelOptions(labels=("sinus rhythm",)))[0, 0] == 0


def test_labels_from_a_table(folder: Path, tmp_path: Path) -> None:
    listed = pd.read_csv(folder / "record_list.csv", dtype=str)
    died = [str(row % 2) for row in range(len(listed))]
    fold = np.where(listed["subject_id"].str[-1].isin(["0", "1", "2"]), "test", "train")
    table = pd.DataFrame({"study_id": listed["study_id"], "died": died, "fold": fold})
    table.loc[:3, "died"] = ""
    table[:-2].to_csv(tmp_path / "labels.csv", index=False)
    options = {"labels": "died", "label_file": str(tmp_path / "labels.csv"), "split_column": "fold"}
    other = linked(folder, tmp_path, "machine_measurements.csv")
    cohort = load_cohort(config(other, **options), 0)
    assert cohort.num_records == len(listed) - 6
    assert cohort.labels.tolist() == [row % 2 for row in range(4, len(listed) - 2)]
    assert {i[-1] for i in cohort.patient_ids[cohort.is_test].tolist()} <= {"0", "1", "2"}
    assert any("6 of 70 records are left out: data.label_file has no label for them" in w for w in cohort.warnings)
    table.assign(died="yes").to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(DataError, match=r"column 'died' has values other than 0 and 1: 'yes'"):
        load_cohort(config(other, **options), 0)
    table.assign(study_id="7").drop_duplicates("study_id").to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(DataError, match=r"has no row for any ECG"):
        load_cohort(config(other, **options), 0)


def test_other_names_of_files_and_only_those_with_a_note(folder: Path, tmp_path: Path) -> None:
    whole = READERS["mimic_iv_ecg"](config(folder))
    other = linked(folder, tmp_path, "record_list.csv")
    listed = pd.read_csv(folder / "record_list.csv", dtype=str)
    listed["path"] = listed["path"].str.removeprefix("files/")
    listed.to_csv(other / "record-list.csv.gz", index=False)
    assert load_cohort(config(other), 0).fingerprint() == load_cohort(config(folder), 0).fingerprint()
    noted = READERS["mimic_iv_ecg"](config(other, only_with_note=True))
    assert len(noted.labels) == 34 < len(whole.labels)


def test_a_subset_decodes_only_its_patients(folder: Path, tmp_path: Path) -> None:
    cohort = load_cohort(config(folder, max_patients=30, cache_dir=str(tmp_path)), 0)
    (entry,) = tmp_path.rglob("features.npy")
    assert np.load(entry, mmap_mode="r").shape[0] == cohort.num_records < 60


def test_what_is_missing_is_named_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds none of record_list\.csv.*record-list\.csv"):
        load_cohort(config(tmp_path), 0)
    other = linked(folder, tmp_path, "hosp", "machine_measurements.csv")
    with pytest.raises(DataError, match=r"expected machine_measurements\.csv.*or set data\.label_file=YOUR_TABLE"):
        load_cohort(config(other), 0)
    (other / "machine_measurements.csv").symlink_to(folder / "machine_measurements.csv")
    with pytest.raises(DataError) as caught:
        load_cohort(config(other), 0)
    assert len(caught.value.problems) == 2
    assert "set data.mimic_iv=FOLDER, or take race and insurance out of data.group_columns" in str(caught.value)
    assert load_cohort(config(other, group_columns=[]), 0).groups == {}
    assert set(load_cohort(config(other, mimic_iv=str(folder), group_columns=["sex"]), 0).groups) == {"sex"}


def test_settings_with_all_their_problems(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cohort(config(folder, labels=["infarkt"], uncertain="x", group_columns=["site"], label_key="hadm_id"), 0)
    assert len(caught.value.problems) == 4
    assert "did you mean 'infarct'?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.patterns\.a='\(' is not a regular expression"):
        load_cohort(config(folder, labels=["a"], patterns={"a": "("}), 0)
    with pytest.raises(ConfigError, match=r"data\.split_column=fold is a column of data\.label_file"):
        load_cohort(config(folder, split_column="fold"), 0)
