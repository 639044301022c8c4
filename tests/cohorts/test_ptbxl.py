"""PTB-XL on small files in its layout, and on the first 500 records where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.ptbxl import statement_labels
from dptrain.cohorts.registry import READERS, load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from tests.cohorts.layouts import ptbxl_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ptbxl_folder(tmp_path_factory.mktemp("ptbxl"))


def config(path: Path | None, max_patients: int | None = None, **options: Any) -> DataConfig:
    common = {"duration_s": 1, "workers": 1}
    return DataConfig(
        "ptbxl", 40, path=None if path is None else str(path), max_patients=max_patients, options={**common, **options}
    )


def database(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "ptbxl_database.csv", dtype=str, keep_default_na=False)


def test_against_the_rows_one_by_one(folder: Path) -> None:
    cohort = load_cohort(config(folder), 0)
    raw = database(folder)
    assert (cohort.task, cohort.label_names) == ("multilabel", ("NORM", "MI", "STTC", "CD", "HYP"))
    assert cohort.feature_names[:4] == ("I", "II", "III", "aVR")
    assert cohort.features.shape == (80, 12, 100)
    superclass = {"NDT": "STTC", "NORM": "NORM", "IMI": "MI", "LVH": "HYP", "LAFB": "CD"}
    for row in range(len(raw)):
        who = cohort.patient[row]
        assert cohort.patient_ids[who] == raw["patient_id"][row].removesuffix(".0")
        expected = {name for code, name in superclass.items() if f"'{code}'" in raw["scp_codes"][row]}
        assert set(np.array(cohort.label_names)[cohort.labels[row] == 1].tolist()) == expected
        assert cohort.is_test[who] == (int(raw["strat_fold"][row]) >= 9)
        assert cohort.groups["sex"][who] == {"0": "male", "1": "female"}[raw["sex"][row]]
        assert cohort.groups["site"][who] == raw["site"][row].removesuffix(".0")
        stored = np.fromfile(folder / f"{raw['filename_lr'][row]}.dat", dtype="<i2").reshape(100, 12).T / 1000
        np.testing.assert_allclose(cohort.features[row], stored, atol=1e-6)
    ages = {"": "unknown", "300.0": ">=80"}
    for row in np.flatnonzero(raw["age"].isin(list(ages))):
        assert cohort.groups["age"][cohort.patient[row]] == ages[raw["age"][row]]
    assert set(cohort.groups["age"]) == {"unknown", "<40", "40-59", "60-79", ">=80"}
    assert cohort.outside_dp == ()


def test_one_label_is_binary_and_rules_are_settings(folder: Path) -> None:
    one = load_cohort(config(folder, labels="MI"), 0)
    assert (one.task, one.label_names) == ("binary", ("not MI", "MI"))
    raw = database(folder)
    assert one.labels.tolist() == raw["scp_codes"].str.contains("'IMI'").astype(int).tolist()
    sure = load_cohort(config(folder, labels="MI", min_likelihood=50), 0)
    assert sure.labels.sum() == raw["scp_codes"].str.contains("'IMI': 80").sum() < one.labels.sum()
    codes = load_cohort(config(folder, labels=["AFIB", "ABQRS"], level="code"), 0)
    counts = [raw["scp_codes"].str.contains(f"'{code}'").sum() for code in codes.label_names]
    assert codes.labels.sum(axis=0).tolist() == counts
    dropped = load_cohort(config(folder, unlabelled="drop"), 0)
    assert dropped.num_records == (raw["scp_codes"] != "{'AFIB': 0.0}").sum() < one.num_records
    own = load_cohort(config(folder, test_folds=[]), 0)
    assert own.is_test.sum() == 18
    assert "stratified" in own.outside_dp[0]


def test_statement_labels() -> None:
    names = {"NORM": "NORM", "IMI": "MI", "AMI": "MI"}
    assert statement_labels("{'IMI': 35.0, 'AMI': 0.0, 'SR': 0.0}", names) == {"MI"}
    assert statement_labels("{'SR': 0.0}", names) == frozenset()
    assert statement_labels("{'IMI': 35.0}", names, 50) == frozenset()
    for text in ("['IMI']", "IMI", "{'IMI': None}", "__import__('os')"):
        with pytest.raises((ValueError, SyntaxError, TypeError)):
            statement_labels(text, names)


def test_a_subset_decodes_only_its_patients(folder: Path, tmp_path: Path) -> None:
    records = READERS["ptbxl"](config(folder))
    cohort = load_cohort(config(folder, max_patients=40, cache_dir=str(tmp_path), labels=["MI"]), 0)
    assert cohort.num_records < len(records.labels)
    (entry,) = tmp_path.rglob("features.npy")
    assert np.load(entry, mmap_mode="r").shape[0] == cohort.num_records


def test_labels_with_one_class_in_a_subset_name_the_way_out(folder: Path, tmp_path: Path) -> None:
    raw = database(folder)
    raw.loc[raw["strat_fold"].astype(int) >= 9, "scp_codes"] = "{'NORM': 100.0}"
    raw.loc[raw["strat_fold"] == "9", "scp_codes"] = "{'IMI': 100.0}"
    other = copied(folder, tmp_path, raw)
    with pytest.raises(DataError) as caught:
        load_cohort(config(other), 0)
    assert len(caught.value.problems) == 4
    assert "the test records have labels of 'HYP' of one class only" in str(caught.value)
    assert caught.value.problems[-1].startswith(
        "Or predict only the labels that have both: data.labels=[NORM,MI] "
    )
    assert load_cohort(config(other, labels=["NORM", "MI"]), 0).num_outputs == 2


def copied(folder: Path, target: Path, raw: pd.DataFrame) -> Path:
    """The same data set with another database."""
    (target / "records100").symlink_to(folder / "records100")
    (target / "scp_statements.csv").symlink_to(folder / "scp_statements.csv")
    raw.to_csv(target / "ptbxl_database.csv", index=False)
    return target


def test_a_patient_in_two_folds_is_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    raw = database(folder)
    raw["strat_fold"] = [str(1 + row % 10) for row in range(len(raw))]
    other = copied(folder, tmp_path, raw)
    with pytest.raises(DataError, match=r"patients have ECGs both in .*data\.test_folds=\[\] lets dptrain split"):
        load_cohort(config(other), 0)
    assert load_cohort(config(other, test_folds=[]), 0).num_patients == 60


@pytest.mark.parametrize("column, value, message", [
    ("patient_id", "", "'patient_id' of ptbxl_database.csv is empty in 80 of 80 rows"),
    ("scp_codes", "NORM 100", r"'scp_codes' of ptbxl_database.csv is no dictionary .* in 80 of 80 rows"),
    ("strat_fold", "", "strat_fold must be 1 to 10 and is not in 80 of 80 rows"),
    ("age", "old", "column 'age' has 80 of 80 values that are not numbers"),
])  # fmt: skip
def test_damaged_columns(folder: Path, tmp_path: Path, column: str, value: str, message: str) -> None:
    other = copied(folder, tmp_path, database(folder).assign(**{column: value}))
    with pytest.raises(DataError, match=message):
        load_cohort(config(other), 0)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=null must name the folder with ptbxl_database.*physionet"):
        load_cohort(config(None), 0)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds none of ptbxl_database\.csv.*Found: notes\.txt"):
        load_cohort(config(tmp_path), 0)
    with pytest.raises(DataError, match=r"no folder records500\. Found: .*records100/.*Set data\.sampling_rate=100"):
        load_cohort(config(folder, sampling_rate=250), 0)
    with pytest.raises(ConfigError, match=r"data\.sampling_rate=250 is more than data\.recordings=100"):
        load_cohort(config(folder, sampling_rate=250, recordings=100), 0)
    assert load_cohort(config(folder / "ptbxl_database.csv"), 0).num_patients == 60


def test_a_download_that_unpacked_a_folder_is_found(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ptb-xl-1.0.3").symlink_to(folder)
    assert load_cohort(config(tmp_path), 0).fingerprint() == load_cohort(config(folder), 0).fingerprint()


def test_settings_with_all_their_problems(folder: Path) -> None:
    wrong = {"level": "klass", "unlabelled": "x", "test_folds": [11], "recordings": 250, "age_bands": [40, 95],
             "min_likelihood": 101}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_cohort(config(folder, **wrong), 0)
    assert len(caught.value.problems) == 6
    assert "PTB-XL writes 300 for older ages" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.labels has 'NROM', which is no superclass .*did you mean 'NORM'"):
        load_cohort(config(folder, labels=["NROM", "MI"]), 0)
    with pytest.raises(ConfigError, match=r"data\.group_columns has 'race', which is no column"):
        load_cohort(config(folder, group_columns=["race"]), 0)


def test_a_part_of_the_data_with_the_public_number_of_all_is_warned_about(folder: Path) -> None:
    many = dataclasses.replace(config(folder), nominal_patients=15000)
    (warning,) = load_cohort(many, 0).warnings
    assert "nominal_patients=15000, but the files have only 60 patients" in warning
    assert load_cohort(config(folder), 0).warnings == ()


@pytest.mark.data
def test_first_500_records(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("ptbxl_first500")
    records = READERS["ptbxl"](DataConfig("ptbxl", 330, path=str(path)))
    assert len(np.unique(records.patient_ids)) == 466
    assert np.asarray(records.labels).sum(axis=0).tolist() == [297, 73, 96, 78, 40]
    assert records.is_test is not None
    assert len(np.unique(records.patient_ids[records.is_test])) == 127
    assert set(records.groups["sex"]) == {"male", "female"}


@pytest.mark.data
@pytest.mark.slow
def test_first_500_records_hold_signal(shared_data: Callable[[str], Path]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    options = {"labels": "NORM", "test_folds": []}
    cohort = load_cohort(DataConfig("ptbxl", 330, path=str(shared_data("ptbxl_first500")), options=options), 0)
    test = cohort.is_test[cohort.patient]
    spectra = np.log(np.abs(np.fft.rfft(cohort.features, axis=2))[:, :, 1:120] + 0.1).reshape(len(test), -1)
    model = LogisticRegression(C=1e-3, max_iter=500).fit(spectra[~test], cohort.labels[~test])
    assert roc_auc_score(cohort.labels[test], model.decision_function(spectra[test])) > 0.75
