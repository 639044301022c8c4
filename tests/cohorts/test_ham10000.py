"""HAM10000 in its official layouts: lesions as units, images in folders and zips."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.ham10000 import DIAGNOSES, read_ham10000
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def config(imaging_set: Callable[[str], DataConfig]) -> DataConfig:
    return imaging_set("ham10000")


def changed(config: DataConfig, **options: object) -> DataConfig:
    return dataclasses.replace(config, options={**config.options, **options})


def test_the_unit_is_the_lesion_and_the_tool_says_so(config: DataConfig) -> None:
    cohort = load_cohort(config, seed=0)
    assert cohort.num_records == 100
    assert cohort.num_patients == 70, "in quotes or not, 30 lesions have two images"
    assert "the unit of privacy is the lesion" in cohort.warnings[0]


def test_images_in_a_folder_and_in_a_zip(config: DataConfig) -> None:
    cohort = load_cohort(changed(config, positive=["mel"]), seed=0)
    brightness = np.asarray(cohort.features).mean(axis=(1, 2, 3))
    assert brightness[cohort.labels == 1].min() > brightness[cohort.labels == 0].max()
    assert cohort.label_names == ("not mel", "mel")
    assert cohort.feature_names == ("red", "green", "blue")


def test_seven_classes_and_groups(config: DataConfig) -> None:
    groups = ["sex", "age", "localization", "dx_type", "dataset"]
    records = read_ham10000(changed(config, group_columns=groups))
    table = pd.read_csv(f"{config.path}/HAM10000_metadata.csv")
    assert records.label_names == DIAGNOSES
    assert [DIAGNOSES[code] for code in records.labels] == table["dx"].tolist()
    of = {name: values.tolist() for name, values in records.groups.items()}
    assert of["age"][:5] == ["unknown", "<40", "<40", "unknown", "<40"], "0 and blank are not known"
    assert of["age"][8] == "40-59"
    assert of["sex"][:3] == ["male", "female", "unknown"]
    assert set(of["dataset"]) == {"vidir_modern", "rosendahl"}


@pytest.mark.parametrize("name, separator", [("HAM10000_metadata.tab", "\t"), ("HAM10000_metadata.csv.gz", ",")])
def test_other_names_of_the_table(config: DataConfig, tmp_path: Path, name: str, separator: str) -> None:
    table = pd.read_csv(f"{config.path}/HAM10000_metadata.csv", dtype=str, keep_default_na=False)
    table.drop(columns="dataset").to_csv(tmp_path / name, index=False, sep=separator)
    here = dataclasses.replace(config, path=str(tmp_path))
    records = read_ham10000(changed(here, images=config.path))
    assert records.labels.tolist() == read_ham10000(config).labels.tolist()
    with pytest.raises(DataError, match="has no column 'dataset'"):
        read_ham10000(changed(here, images=config.path, group_columns=["dataset"]))
    with pytest.raises(DataError, match="none of the 100 images is in"):
        read_ham10000(here)


def test_a_table_without_an_ending_is_explained(config: DataConfig, tmp_path: Path) -> None:
    shutil.copy(f"{config.path}/HAM10000_metadata.csv", tmp_path / "HAM10000_metadata")
    with pytest.raises(DataError, match=r"Rename HAM10000_metadata to HAM10000_metadata\.csv"):
        read_ham10000(dataclasses.replace(config, path=str(tmp_path)))


def test_lost_images_are_listed_or_skipped(config: DataConfig, tmp_path: Path) -> None:
    shutil.copytree(str(config.path), tmp_path, dirs_exist_ok=True)
    (tmp_path / "HAM10000_images_part_1" / "ISIC_0027419.jpg").unlink()
    lost = dataclasses.replace(config, path=str(tmp_path))
    with pytest.raises(DataError, match="1 of 100 images cannot be decoded") as caught:
        load_cohort(lost, seed=0)
    assert "ISIC_0027419.jpg: " in caught.value.problems[1]
    assert "there is no such file" in caught.value.problems[1]
    assert load_cohort(changed(lost, on_error="skip"), seed=0).num_records == 99


def test_other_values_and_settings(config: DataConfig, tmp_path: Path) -> None:
    table = pd.read_csv(f"{config.path}/HAM10000_metadata.csv", dtype=str, keep_default_na=False)
    table.loc[:2, "dx"] = ["scc", "melanoma", "nv"]
    table.loc[5, "lesion_id"] = ""
    table.loc[9, "image_id"] = table.loc[8, "image_id"]
    table.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    with pytest.raises(DataError) as caught:
        read_ham10000(dataclasses.replace(config, path=str(tmp_path)))
    assert len(caught.value.problems) == 3
    assert "2 values in column 'dx'" in str(caught.value)
    with pytest.raises(ConfigError) as wrong:
        read_ham10000(changed(config, positive=["melanoma"], group_columns=["gender"], age_bands=[60, 40]))
    assert len(wrong.value.problems) == 3
