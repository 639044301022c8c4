"""MIMIC-CXR-JPG in its official layout: joins, labels, split, groups."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.decode_cache import Undecoded
from dptrain.cohorts.mimic_cxr import read_mimic_cxr
from dptrain.cohorts.mimic_people import race_group
from dptrain.cohorts.records import Records
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import DataError
from tests.cohorts.imaging_sets import write_csv, write_mimic_cxr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_mimic_cxr(tmp_path_factory.mktemp("mimic"))


@pytest.fixture
def copy(config: DataConfig, tmp_path: Path) -> DataConfig:
    """A copy whose files a test may change."""
    assert config.path is not None
    root = tmp_path / "copy"
    shutil.copytree(config.path, root, ignore=shutil.ignore_patterns("files"))
    options = {**config.options, "mimic_iv": str(root / "mimiciv"), "files": f"{config.path}/files"}
    return dataclasses.replace(config, path=str(root), options=options)


def changed(config: DataConfig, **options: object) -> DataConfig:
    return dataclasses.replace(config, options={**config.options, **options})


def group(records: Records, name: str, subject: int) -> set[str]:
    return set(records.groups[name][records.patient_ids == str(subject)].tolist())


def test_only_frontal_images_in_the_order_of_the_metadata(config: DataConfig) -> None:
    assert config.path is not None
    metadata = pd.read_csv(f"{config.path}/mimic-cxr-2.0.0-metadata.csv.gz")
    frontal = metadata[metadata["ViewPosition"] != "LATERAL"]
    records = read_mimic_cxr(config)
    assert records.patient_ids.tolist() == frontal["subject_id"].astype(str).tolist()
    assert set(records.groups["view"]) == {"AP", "PA"}
    every = read_mimic_cxr(changed(config, views=[]))
    assert len(every.labels) == len(metadata)
    assert set(every.groups["view"]) == {"AP", "PA", "LATERAL"}
    with pytest.raises(DataError, match=r"data.views=\['LL'\] leaves no image; .* has AP, LATERAL, PA"):
        read_mimic_cxr(changed(config, views=["LL"]))


def test_labels_belong_to_the_study(config: DataConfig) -> None:
    assert config.path is not None
    metadata = pd.read_csv(f"{config.path}/mimic-cxr-2.0.0-metadata.csv.gz")
    for labeller in ("chexpert", "negbio"):
        studies = pd.read_csv(f"{config.path}/mimic-cxr-2.0.0-{labeller}.csv.gz").set_index("study_id")
        records = read_mimic_cxr(changed(config, labels_from=labeller, uncertain="ignore", views=[]))
        for column, label in enumerate(records.label_names):
            expected = studies.loc[metadata["study_id"], label].fillna(0).replace(-1, np.nan)
            np.testing.assert_array_equal(records.labels[:, column], expected.to_numpy())
    assert records.label_names == ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def test_the_label_is_in_the_image_of_its_study(config: DataConfig) -> None:
    cohort = load_cohort(changed(config, labels=["Cardiomegaly"]), seed=0)
    brightness = np.asarray(cohort.features).mean(axis=(1, 2, 3))
    assert brightness[cohort.labels == 1].min() > brightness[cohort.labels == 0].max()
    assert cohort.label_names == ("no Cardiomegaly", "Cardiomegaly")


def test_official_split_and_own_split(config: DataConfig) -> None:
    cohort = load_cohort(config, seed=0)
    assert cohort.is_test.sum() == 10
    assert min(map(int, cohort.patient_ids[cohort.is_test])) == 10000032 + 7 * 60
    assert cohort.outside_dp == ()
    own = load_cohort(changed(config, split="patient"), seed=0)
    assert own.is_test.sum() == 21
    assert "stratified" in own.outside_dp[0]


def test_people_from_mimic_iv(config: DataConfig) -> None:
    records = read_mimic_cxr(config)
    first, second, third, fourth, fifth = (10000032 + 7 * n for n in range(5))
    assert group(records, "sex", first) == {"male"}
    assert group(records, "sex", second) == {"female"}
    assert group(records, "age", first) == {"<40"}
    assert group(records, "age", second) == {">=80"}
    assert group(records, "age", 10000032 + 7 * 9) == {"<40", "40-59"}, "39 at the first study, 40 a year later"
    assert group(records, "sex", 10000032 + 7 * 5) == group(records, "age", 10000032 + 7 * 5) == {"unknown"}
    races = [group(records, "race", subject) for subject in (first, second, third, fourth, fifth)]
    assert races == [{"White"}, {"Black"}, {"unknown"}, {"Hispanic"}, {"Asian"}]
    assert group(records, "race", 10000032 + 7 * 5) == {"unknown"}, "no stay"
    assert group(records, "insurance", fifth) == {"Medicare"}, "a tie goes to the stay that comes first"
    assert any("1 patients have no row in patients.csv.gz" in w for w in records.warnings)
    assert any("Group 'race': 1 patients have stays that disagree" in w for w in records.warnings)
    strict = read_mimic_cxr(changed(config, conflict="unknown"))
    assert group(strict, "race", first) == group(strict, "insurance", fifth) == {"unknown"}
    assert group(strict, "race", fifth) == {"Asian"}, "ASIAN and ASIAN - CHINESE are the same group"


@pytest.mark.parametrize("text, expected", [
    ("WHITE - BRAZILIAN", "White"), ("PORTUGUESE", "White"), ("BLACK/AFRICAN AMERICAN", "Black"),
    ("HISPANIC OR LATINO", "Hispanic"), ("SOUTH AMERICAN", "Hispanic"), ("ASIAN - KOREAN", "Asian"),
    ("AMERICAN INDIAN/ALASKA NATIVE", "Other"), ("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", "Other"),
    ("MULTIPLE RACE/ETHNICITY", "Other"), ("OTHER", "Other"), ("UNKNOWN", "unknown"),
    ("PATIENT DECLINED TO ANSWER", "unknown"), ("UNABLE TO OBTAIN", "unknown"), ("", "unknown"),
])  # fmt: skip
def test_race_groups(text: str, expected: str) -> None:
    assert race_group(text) == expected


def test_mimic_iv_of_version_1_calls_race_ethnicity(copy: DataConfig) -> None:
    file = Path(str(copy.options["mimic_iv"])) / "hosp" / "admissions.csv.gz"
    stays = pd.read_csv(file, dtype=str, keep_default_na=False)
    write_csv(file, stays.rename(columns={"race": "ethnicity"}))
    assert group(read_mimic_cxr(copy), "race", 10000032) == {"White"}


def test_a_subset_decodes_its_own_images_only(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    records = read_mimic_cxr(config)
    assert isinstance(records.features, Undecoded)
    asked: list[int] = []
    read = Undecoded.decode
    monkeypatch.setattr(Undecoded, "decode", lambda self: (asked.append(len(self)), read(self))[1])
    cohort = load_cohort(dataclasses.replace(changed(config, split="patient"), max_patients=30), seed=0)
    assert asked == [cohort.num_records]
    assert cohort.num_records < len(records.labels)


def test_everything_that_is_missing_is_named_at_once(copy: DataConfig) -> None:
    root = Path(str(copy.path))
    (root / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with pytest.raises(DataError) as caught:
        read_mimic_cxr(copy)
    text = str(caught.value)
    assert len(caught.value.problems) == 2
    assert "expected mimic-cxr-2.0.0-chexpert.csv or mimic-cxr-2.1.0-chexpert.csv (also .gz)" in text
    assert "mimic-cxr-2.0.0-negbio.csv.gz" in text, "what is there"


def test_no_tables_of_mimic_iv(copy: DataConfig) -> None:
    with pytest.raises(DataError) as caught:
        read_mimic_cxr(changed(copy, mimic_iv=None))
    assert len(caught.value.problems) == 2
    assert "take race and insurance out of data.group_columns" in caught.value.problems[1]
    assert set(read_mimic_cxr(changed(copy, mimic_iv=None, group_columns=["view"])).groups) == {"view"}


def test_a_study_without_labels_is_left_out(copy: DataConfig) -> None:
    file = Path(str(copy.path)) / "mimic-cxr-2.0.0-chexpert.csv.gz"
    studies = pd.read_csv(file)
    write_csv(file, studies.drop(index=3))
    records = read_mimic_cxr(copy)
    assert any(w.startswith("1 of ") and "their study has no row" in w for w in records.warnings)
    write_csv(file, pd.concat([studies, studies.iloc[:1].assign(Edema=1.0, Cardiomegaly=0.0)]))
    with pytest.raises(DataError, match="1 rows too many for the same subject_id and study_id"):
        read_mimic_cxr(copy)


def test_split_of_another_release(copy: DataConfig) -> None:
    file = Path(str(copy.path)) / "mimic-cxr-2.0.0-split.csv.gz"
    write_csv(file, pd.read_csv(file).iloc[20:])
    with pytest.raises(DataError, match=r"images have no row in mimic-cxr-2\.0\.0-split\.csv\.gz"):
        read_mimic_cxr(copy)
