"""CheXpert in its official layouts: patients from paths, demographics, splits, batches."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.chexpert import read_chexpert
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import DataError
from tests.cohorts.imaging_sets import write_chexpert, write_csv


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_chexpert(tmp_path_factory.mktemp("chexpert"))


def changed(config: DataConfig, **options: object) -> DataConfig:
    return dataclasses.replace(config, options={**config.options, **options})


def test_patients_are_the_path_part_by_name(config: DataConfig) -> None:
    records = read_chexpert(config)
    assert records.patient_ids[0] == "patient00001"
    assert len(set(records.patient_ids.tolist())) == 66
    assert records.is_test is None
    official = read_chexpert(changed(config, split="official"))
    assert official.is_test is not None
    assert len(set(official.patient_ids[official.is_test].tolist())) == 20


def test_official_split(config: DataConfig) -> None:
    cohort = load_cohort(changed(config, split="official"), seed=0)
    assert cohort.is_test.sum() == 20
    assert all(name > "patient64540" for name in cohort.patient_ids[cohort.is_test])


def test_frontal_only_or_both(config: DataConfig) -> None:
    table = pd.read_csv(f"{config.path}/train.csv")
    both = read_chexpert(changed(config, views=["frontal", "lateral"]))
    assert len(both.labels) == len(table)
    assert len(read_chexpert(config).labels) == (table["Frontal/Lateral"] == "Frontal").sum()
    assert set(both.groups["view"]) == {"AP", "PA", "lateral"}


def test_groups(config: DataConfig) -> None:
    records = read_chexpert(changed(config, group_columns=["sex", "age", "race", "ethnicity", "view"]))
    of = {name: dict(zip(records.patient_ids.tolist(), values.tolist(), strict=True))
          for name, values in records.groups.items()}  # fmt: skip
    assert of["sex"]["patient00009"] == "unknown"
    assert of["sex"]["patient00011"] == "Female"
    assert of["age"]["patient00010"] == "unknown", "0 is written for ages that are not known"
    assert of["age"]["patient00020"] == "40-59"
    races = ["Black", "Asian", "unknown", "Other", "White", "Other", "unknown", "unknown", "White"]
    assert [of["race"][f"patient{n:05d}"] for n in range(1, 10)] == races
    assert of["race"]["patient00066"] == "unknown"
    assert of["ethnicity"]["patient00003"] == "unknown"
    assert of["ethnicity"]["patient00004"] == "Non-Hispanic/Non-Latino"
    assert "1 patients have no row in CHEXPERT_DEMO.csv: race and ethnicity are unknown." in records.warnings


def test_rows_of_one_patient_that_disagree_are_unknown(config: DataConfig, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(str(config.path), root, ignore=shutil.ignore_patterns("train", "valid"))
    people = pd.read_csv(root / "CHEXPERT_DEMO.csv")
    write_csv(root / "CHEXPERT_DEMO.csv", pd.concat([people, people[:1].assign(PRIMARY_RACE="White, Hispanic")]))
    records = read_chexpert(dataclasses.replace(config, path=str(root)))
    assert records.groups["race"][0] == "unknown"
    assert len(records.labels) == len(read_chexpert(config).labels)


def test_no_demographics(config: DataConfig, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(str(config.path), root, ignore=shutil.ignore_patterns("train", "valid", "*DEMO*"))
    lost = dataclasses.replace(config, path=str(root))
    with pytest.raises(DataError, match=r"expected CHEXPERT_DEMO.csv or CHEXPERT DEMO.csv .*Get it from"):
        read_chexpert(lost)
    (root / "CHEXPERT DEMO.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"Save .*CHEXPERT DEMO.xlsx as CHEXPERT_DEMO.csv"):
        read_chexpert(lost)
    assert set(read_chexpert(changed(lost, group_columns=["sex"])).groups) == {"sex"}


@pytest.mark.parametrize("batches", [False, True])
def test_images_are_found_in_every_release(tmp_path: Path, batches: bool) -> None:
    config = changed(write_chexpert(tmp_path, batches), labels=["Cardiomegaly"], uncertain="ignore")
    cohort = load_cohort(config, seed=0)
    brightness = np.asarray(cohort.features).mean(axis=(1, 2, 3))
    assert brightness[cohort.labels == 1].min() > brightness[cohort.labels == 0].max()
    assert load_cohort(changed(config, split="official"), seed=0).is_test.sum() == 20


def test_small_release_whose_paths_have_another_name(config: DataConfig, tmp_path: Path) -> None:
    small = tmp_path / "renamed by me"
    shutil.copytree(str(config.path), small)
    table = pd.read_csv(small / "train.csv", dtype=str, keep_default_na=False)
    table["Path"] = table["Path"].str.replace("CheXpert-v1.0", "CheXpert-v1.0-small")
    write_csv(small / "train.csv", table)
    here = load_cohort(dataclasses.replace(config, path=str(tmp_path)), seed=0)
    np.testing.assert_array_equal(here.features, load_cohort(config, seed=0).features)


def test_a_path_without_a_patient(config: DataConfig, tmp_path: Path) -> None:
    table = pd.read_csv(f"{config.path}/train.csv", dtype=str, keep_default_na=False)
    table.loc[3, "Path"] = "CheXpert-v1.0/train/00003/view1_frontal.jpg"
    write_csv(tmp_path / "train.csv", table)
    with pytest.raises(DataError, match=r"1 of .* values of column 'Path' have no part patientNNNNN"):
        read_chexpert(changed(dataclasses.replace(config, path=str(tmp_path)), group_columns=["sex"]))


def test_wrong_folder_and_missing_columns(config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds none of train\.csv, train\.csv\.gz"):
        read_chexpert(dataclasses.replace(config, path=str(tmp_path)))
    table = pd.read_csv(f"{config.path}/train.csv").drop(columns=["Edema", "Age"])
    write_csv(tmp_path / "train.csv", table)
    with pytest.raises(DataError) as caught:
        read_chexpert(changed(dataclasses.replace(config, path=str(tmp_path)), group_columns=["sex"]))
    assert [p.split("has no column ")[1].split(".")[0] for p in caught.value.problems] == ["'Age'", "'Edema'"]
