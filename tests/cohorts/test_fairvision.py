"""Harvard-FairVision in its official layouts: parts, labels and groups from the table and from the .npz files."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dptrain.cohorts.fairvision import LABEL_NAMES, read_fairvision
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from tests.cohorts.imaging_sets import AMD_CONDITIONS, DR_SUBTYPES


@pytest.fixture(scope="module")
def config(imaging_set: Callable[[str], DataConfig]) -> DataConfig:
    return imaging_set("fairvision")


@pytest.fixture
def copy(config: DataConfig, tmp_path: Path) -> DataConfig:
    shutil.copytree(str(config.path), tmp_path, dirs_exist_ok=True)
    return dataclasses.replace(config, path=str(tmp_path))


def changed(config: DataConfig, **options: object) -> DataConfig:
    return dataclasses.replace(config, options={**config.options, **options})


@pytest.mark.parametrize("image", ["npz", "jpg"])
def test_label_and_image_belong_together(config: DataConfig, image: str) -> None:
    cohort = load_cohort(changed(config, image=image), seed=0)
    brightness = np.asarray(cohort.features).mean(axis=(1, 2, 3))
    assert brightness[cohort.labels == 1].min() > brightness[cohort.labels == 0].max(), "floats and bytes alike"
    assert cohort.num_records == cohort.num_patients == 80
    assert cohort.label_names == ("no glaucoma", "glaucoma")


def test_official_split(config: DataConfig) -> None:
    cohort = load_cohort(config, seed=0)
    assert sorted(cohort.patient_ids[cohort.is_test]) == [f"glaucoma_{n:05d}" for n in range(57, 81)]
    assert cohort.outside_dp == ()
    assert read_fairvision(changed(config, split="patient")).is_test is None


def test_table_and_npz_say_the_same(config: DataConfig) -> None:
    table, npz = (read_fairvision(changed(config, attributes=source)) for source in ("table", "npz"))
    assert table.labels.tolist() == npz.labels.tolist()
    for name in ("race", "gender"):
        assert table.groups[name].tolist() == npz.groups[name].tolist()
    assert npz.groups["race"][:3].tolist() == ["Black", "White", "Asian"], "codes and text"
    assert npz.groups["ethnicity"][:7].tolist()[-2:] == ["non-hispanic", "unknown"]
    assert table.groups["ethnicity"][6] == "unknown"


def test_age_is_in_the_table_alone(config: DataConfig) -> None:
    groups = ["age", "language", "maritalstatus"]
    records = read_fairvision(changed(config, group_columns=groups))
    assert records.groups["age"][[0, 30, 60]].tolist() == ["<40", "40-59", "60-79"]
    assert records.groups["maritalstatus"][:3].tolist() == ["single", "unknown", "married or partnered"]
    npz = read_fairvision(changed(config, group_columns=groups, attributes="npz"))
    assert set(npz.groups["age"]) == {"unknown"}
    assert npz.groups["maritalstatus"][4] == "married or partnered"
    assert npz.groups["language"][1] == "others"


def test_dr_and_amd_by_the_mapping_of_the_authors(config: DataConfig) -> None:
    dr = read_fairvision(changed(config, disease="dr"))
    threatening = {"severe.npdr", "pdr"}
    assert dr.labels.tolist() == [int(DR_SUBTYPES[n % 6] in threatening) for n in range(1, 41)]
    amd = read_fairvision(changed(config, disease="amd"))
    expected = {"not.in.icd.table": 0, "no.amd.diagnosis": 0, "early.dry": 1, "intermediate.dry": 2}
    assert amd.labels.tolist() == [expected.get(AMD_CONDITIONS[n % 6], 3) for n in range(1, 41)]
    assert amd.task == "multiclass"


def test_all_three_sets_with_seven_classes(config: DataConfig) -> None:
    cohort = load_cohort(changed(config, disease="all", group_columns=["disease"]), seed=0)
    assert cohort.num_patients == 160
    assert cohort.label_names == LABEL_NAMES["all"]
    assert set(cohort.labels.tolist()) == set(range(7))
    assert set(cohort.groups["disease"]) == {"glaucoma", "dr", "amd"}
    assert any("number their patients apart" in warning for warning in cohort.warnings)
    healthy = set(cohort.patient_ids[cohort.patient[cohort.labels == 0]].tolist())
    assert {"glaucoma_00001", "dr_00003", "amd_00004"} <= healthy
    assert "dr_00001" not in healthy, "mild DR is not healthy"


@pytest.mark.parametrize("disease", ["glaucoma", "dr"])
def test_the_layout_that_the_authors_scripts_expect(copy: DataConfig, disease: str) -> None:
    root = Path(str(copy.path))
    home = root / {"glaucoma": "Glaucoma", "dr": "DR"}[disease]
    for old, new in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        (home / "Dataset").mkdir(exist_ok=True)
        (home / old).rename(home / "Dataset" / new)
    if disease == "glaucoma":
        (home / "ReadMe" / "data_summary_glaucoma.csv").rename(root / "data_summary_glaucoma.csv")
    before = read_fairvision(changed(copy, disease=disease))
    inside = read_fairvision(changed(dataclasses.replace(copy, path=str(home)), disease=disease))
    assert before.patient_ids.tolist() == inside.patient_ids.tolist()
    assert before.labels.tolist() == inside.labels.tolist()
    assert before.is_test is not None
    assert before.is_test.sum() == len(before.labels) * 0.3


def test_the_folder_of_another_disease(config: DataConfig) -> None:
    with pytest.raises(DataError, match="holds neither a folder Glaucoma nor Training"):
        read_fairvision(dataclasses.replace(config, path=f"{config.path}/DR"))
    with pytest.raises(DataError, match=r"data\.attributes=table: there is no data_summary_dr\.csv"):
        read_fairvision(changed(config, disease="dr", attributes="table"))


def test_broken_and_foreign_files(copy: DataConfig) -> None:
    part = Path(str(copy.path)) / "DR" / "Training"
    (part / "data_00001.npz").write_bytes(b"no zip")
    np.savez(part / "data_00002.npz", slo_fundus=np.zeros((4, 4), np.uint8), dr_subtype=np.array(["pdr"], dtype=object))
    np.savez(part / "data_00003.npz", slo_fundus=np.zeros((4, 4), np.uint8))
    dr = changed(copy, disease="dr")
    with pytest.raises(DataError) as caught:
        read_fairvision(dr)
    text = str(caught.value)
    assert caught.value.problems[0].startswith("3 .npz files cannot be read")
    assert "Python objects, which are not opened" in text
    assert "it has no dr_subtype; its entries: slo_fundus" in text
    skipped = read_fairvision(changed(dr, on_error="skip"))
    assert len(skipped.labels) == 37
    assert any(w.startswith("3 of 40 records are left out") for w in skipped.warnings)


def test_an_empty_fundus_and_files_without_a_row(copy: DataConfig) -> None:
    part = Path(str(copy.path)) / "Glaucoma" / "Training"
    np.savez(part / "data_00001.npz", slo_fundus=np.zeros(0), glaucoma=np.array(0))
    with pytest.raises(DataError, match="1 of 80 images cannot be decoded"):
        load_cohort(copy, seed=0)
    shutil.copy(part / "data_00002.npz", part / "data_00999.npz")
    with pytest.raises(DataError, match=r"1 of 81 \.npz files have no row"):
        read_fairvision(copy)


def test_settings_are_checked_together(config: DataConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        read_fairvision(changed(config, disease="cataract", image="oct", split="own", attributes="csv",
                                group_columns=["sex"]))  # fmt: skip
    assert len(caught.value.problems) == 5
