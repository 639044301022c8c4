"""The reader of the UCI file, on a small file in its layout and on the real one where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.diabetes130 import EXCLUDED_DISPOSITIONS, FILE_NAME, age_band, icd9_group, specialty_group
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError


def config(path: Path | None, **changed: object) -> DataConfig:
    return DataConfig("diabetes130", 60, path=None if path is None else str(path), **changed)  # type: ignore[arg-type]


def test_file_zip_and_folder_are_the_same_cohort(
    tmp_path: Path, diabetes_frame: pd.DataFrame, diabetes_zip: Path
) -> None:
    diabetes_frame.to_csv(tmp_path / FILE_NAME, index=False)
    paths = (tmp_path / FILE_NAME, tmp_path, diabetes_zip, diabetes_zip.parent)
    assert len({load_cohort(config(path), 0).fingerprint() for path in paths}) == 1


def test_against_the_rows_one_by_one(diabetes_zip: Path, diabetes_frame: pd.DataFrame) -> None:
    cohort = load_cohort(config(diabetes_zip), 0)
    kept = diabetes_frame[~diabetes_frame["discharge_disposition_id"].isin(EXCLUDED_DISPOSITIONS)]
    assert cohort.num_records == len(kept) < len(diabetes_frame)
    column = {name: index for index, name in enumerate(cohort.feature_names)}
    for row, (_, raw) in enumerate(kept.iterrows()):
        one = {name: float(cohort.features[row, index]) for name, index in column.items()}
        assert cohort.patient_ids[cohort.patient[row]] == raw["patient_nbr"]
        assert cohort.labels[row] == (raw["readmitted"] == "<30")
        assert one["time_in_hospital"] == pytest.approx((int(raw["time_in_hospital"]) - 7.5) / 3.75)
        visits = np.log(1 + int(raw["number_inpatient"]))
        assert one["number_inpatient"] == pytest.approx((visits - 0.5) / 0.5, abs=1e-6)
        assert one["race=other/missing"] == (raw["race"] == "?")
        assert one["gender=Female"] == (raw["gender"] == "Female")
        assert one["gender=other/missing"] == (raw["gender"] == "Unknown/Invalid")
        assert one["insulin=Up"] == (raw["insulin"] == "Up")
        assert one["insulin=other/missing"] == 0
        assert one["max_glu_serum=>300"] == (raw["max_glu_serum"] == ">300")
        assert one["diagnosis_1=diabetes"] == (raw["diag_1"] == "250.83")
        assert one["diagnosis_1=other/missing"] == (raw["diag_1"] == "?")
        assert one["specialty=surgery"] == (raw["medical_specialty"] == "Surgery-General")
    assert "insulin=No" not in column
    assert set(cohort.groups) == {"race", "gender", "age"}
    assert set(cohort.groups["gender"]) <= {"Female", "Male", "unknown"}
    assert set(cohort.groups["age"]) == {"0-9", "60-69", "70-79", "90-99"}
    assert cohort.outside_dp == (cohort.outside_dp[0],), "only the split"


@pytest.mark.parametrize("group, codes", [
    ("diabetes", "250 250.83"), ("circulatory", "390 459 459.9 785"), ("respiratory", "460 519 786.05"),
    ("digestive", "520 579 787"), ("injury", "800 999"), ("musculoskeletal", "710 739"),
    ("genitourinary", "580 629 788"), ("neoplasms", "140 239"), ("other", "38 240 251 783 V58 E888"),
])  # fmt: skip
def test_icd9_groups_of_strack_table_2(group: str, codes: str) -> None:
    assert {icd9_group(code) for code in codes.split()} == {group}
    assert icd9_group("") == ""


def test_specialties_and_ages() -> None:
    assert specialty_group("Surgeon") == specialty_group("Surgery-Neuro") == "surgery"
    assert specialty_group("InternalMedicine") == "internal medicine"
    assert (specialty_group(""), specialty_group("Radiologist")) == ("unknown", "other")
    assert (age_band("[90-100)"), age_band("?")) == ("90-99", "unknown")


def test_without_a_path_it_says_where_the_file_is() -> None:
    with pytest.raises(ConfigError, match=r"data\.path=null must name diabetic_data\.csv.*archive\.ics\.uci\.edu"):
        load_cohort(config(None), 0)


def test_missing_file_wrong_folder_and_missing_columns(tmp_path: Path, diabetes_frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_cohort(config(tmp_path / "no.csv"), 0)
    with pytest.raises(DataError, match=r"holds no diabetic_data\.csv"):
        load_cohort(config(tmp_path), 0)
    renamed = diabetes_frame.rename(columns={"patient_nbr": "patient_number", "A1Cresult": "a1cresult"})
    renamed.to_csv(tmp_path / FILE_NAME, index=False)
    with pytest.raises(DataError) as caught:
        load_cohort(config(tmp_path), 0)
    assert len(caught.value.problems) == 2
    assert "no column 'A1Cresult' (did you mean 'a1cresult'?)" in str(caught.value)


@pytest.mark.data
@pytest.mark.slow
def test_real_file(shared_data: Callable[[str], Path]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    cohort = load_cohort(DataConfig("diabetes130", 49000, path=str(shared_data("diabetes130"))), seed=0)
    assert 69_000 < cohort.num_patients < 71_518
    assert 98_000 < cohort.num_records < 101_766
    assert 0.10 < cohort.labels.mean() < 0.12
    assert set(cohort.groups["race"]) == {"AfricanAmerican", "Asian", "Caucasian", "Hispanic", "Other", "unknown"}
    assert abs(len(cohort.train_patients) - 49_000) < 1_000
    test = cohort.is_test[cohort.patient]
    train = np.flatnonzero(~test)[::2]
    model = LogisticRegression(max_iter=60, C=0.1).fit(cohort.features[train], cohort.labels[train])
    assert roc_auc_score(cohort.labels[test], model.decision_function(cohort.features[test])) > 0.64
