"""Fitzpatrick17k in its official layout: images as units, skin types, three levels of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.fitzpatrick17k import read_fitzpatrick17k
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def config(imaging_set: Callable[[str], DataConfig]) -> DataConfig:
    return imaging_set("fitzpatrick17k")


@pytest.fixture
def table(config: DataConfig) -> pd.DataFrame:
    return pd.read_csv(f"{config.path}/fitzpatrick17k.csv")


def changed(config: DataConfig, **options: object) -> DataConfig:
    return dataclasses.replace(config, options={**config.options, **options})


def test_the_unit_is_the_image_and_the_tool_says_so(config: DataConfig) -> None:
    cohort = load_cohort(config, seed=0)
    assert cohort.num_records == cohort.num_patients == 90
    assert "no patient identifiers: the unit of privacy is the image" in cohort.warnings[0]


@pytest.mark.parametrize("label", ["three_partition_label", "nine_partition_label", "label"])
def test_labels(config: DataConfig, table: pd.DataFrame, label: str) -> None:
    records = read_fitzpatrick17k(changed(config, label=label))
    assert records.task == "multiclass"
    assert [records.label_names[code] for code in records.labels] == table[label].tolist()
    assert bool(records.outside_dp) == (label == "label"), "the 114 conditions are read from the table"


def test_malignant_against_the_rest(config: DataConfig) -> None:
    cohort = load_cohort(changed(config, positive=["malignant"]), seed=0)
    brightness = np.asarray(cohort.features).mean(axis=(1, 2, 3))
    assert brightness[cohort.labels == 1].min() > brightness[cohort.labels == 0].max()
    assert cohort.label_names == ("not malignant", "malignant")
    condition = read_fitzpatrick17k(changed(config, label="label", positive=["melanoma"]))
    assert condition.labels.sum() == cohort.labels.sum()
    assert condition.outside_dp == ()


def test_skin_types(config: DataConfig) -> None:
    records = read_fitzpatrick17k(changed(config, group_columns=["skin_type", "skin_type_pair", "skin_type_centaur"]))
    assert records.groups["skin_type"][:7].tolist() == ["I", "II", "III", "IV", "V", "VI", "unknown"]
    assert records.groups["skin_type_pair"][:7].tolist() == ["I-II", "I-II", "III-IV", "III-IV", "V-VI", "V-VI",
                                                            "unknown"]  # fmt: skip
    assert records.groups["skin_type_centaur"][:3].tolist() == ["unknown", "I", "II"]


def test_excluded_by_quality_control(config: DataConfig) -> None:
    records = read_fitzpatrick17k(changed(config, exclude_qc=["3 Wrongly labelled"]))
    assert len(records.labels) == 89
    assert any(w.startswith("1 of 90 records are left out: data.exclude_qc=") for w in records.warnings)
    with pytest.raises(DataError, match=r"data.exclude_qc='3 Wrongly labeled' does not occur .*did you mean"):
        read_fitzpatrick17k(changed(config, exclude_qc=["3 Wrongly labeled"]))


def test_lost_images(config: DataConfig, table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "fitzpatrick17k.csv", index=False)
    here = dataclasses.replace(config, path=str(tmp_path))
    with pytest.raises(DataError, match="none of the 90 images is in"):
        read_fitzpatrick17k(here)
    with pytest.raises(DataError, match=r"data\.images=pictures: there is no"):
        read_fitzpatrick17k(changed(here, images="pictures"))
    assert len(read_fitzpatrick17k(changed(here, images=f"{config.path}/data/finalfitz17k")).labels) == 90


def test_other_values_and_settings(config: DataConfig, table: pd.DataFrame, tmp_path: Path) -> None:
    table.loc[0, "three_partition_label"] = "neoplastic"
    table.loc[1, "md5hash"] = ""
    table.to_csv(tmp_path / "fitzpatrick17k.csv", index=False)
    with pytest.raises(DataError) as caught:
        read_fitzpatrick17k(dataclasses.replace(config, path=str(tmp_path)))
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError) as wrong:
        read_fitzpatrick17k(changed(config, label="three", positive=["malign"], group_columns=["skin"]))
    assert len(wrong.value.problems) == 2, "values of an unknown label cannot be checked"
    with pytest.raises(ConfigError, match="did you mean 'malignant'"):
        read_fitzpatrick17k(changed(config, positive=["malign"]))
