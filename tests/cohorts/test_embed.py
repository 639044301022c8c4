"""EMBED in its official layout: findings beside files, sides, exams, densities, pathology."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.embed import read_embed
from dptrain.cohorts.embed_findings import BIRADS
from dptrain.cohorts.records import Records
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from tests.cohorts.imaging_sets import write_csv


@pytest.fixture(scope="module")
def config(imaging_set: Callable[[str], DataConfig]) -> DataConfig:
    return imaging_set("embed")


@pytest.fixture
def copy(config: DataConfig, tmp_path: Path) -> DataConfig:
    shutil.copytree(f"{config.path}/tables", tmp_path / "tables")
    options = {**config.options, "images": f"{config.path}/images"}
    return dataclasses.replace(config, path=str(tmp_path), options=options)


def changed(config: DataConfig, **options: object) -> DataConfig:
    return dataclasses.replace(config, options={**config.options, **options})


def of_patient(records: Records, number: int) -> list[str]:
    """Labels of a patient's images: left CC, right MLO."""
    rows = records.patient_ids == str(60696000 + number)
    return [records.label_names[code] for code in records.labels[rows]]


def test_a_file_is_one_record_however_many_findings(config: DataConfig) -> None:
    files = pd.read_csv(f"{config.path}/tables/EMBED_OpenData_metadata_reduced.csv").drop_duplicates("anon_dicom_path")
    kept = files[(files["FinalImageType"] == "2D") & files["ViewPosition"].isin(["CC", "MLO"])]
    kept = kept[(kept["spot_mag"] != 1) & (kept["acc_anon"] % 10 == 0) & (kept["acc_anon"] > 1)]
    records = read_embed(changed(config, label="pathology"))
    assert records.patient_ids.tolist() == kept["empi_anon"].astype(int).astype(str).tolist()
    assert len(records.labels) == 71 * 2


def test_density_of_the_exam(config: DataConfig) -> None:
    records = read_embed(config)
    assert records.label_names == ("A", "B", "C", "D")
    assert of_patient(records, 2) == ["C", "C"], "also the breast without a finding"
    assert of_patient(records, 6) == of_patient(records, 70) == [], "blank, and a male breast"
    assert any(w.startswith("4 of 142 records are left out: data.label=density") for w in records.warnings)
    assert any(w.startswith("1 of 213 records are left out: their exam has no row") for w in records.warnings)
    assert any("their file is named twice" in w for w in records.warnings)


def test_label_and_image_belong_together(config: DataConfig) -> None:
    cohort = load_cohort(changed(config, positive=["C", "D"]), seed=0)
    brightness = np.asarray(cohort.features).mean(axis=(1, 2, 3))
    assert brightness[cohort.labels == 1].min() > brightness[cohort.labels == 0].max(), "MONOCHROME1 and 2 alike"
    assert cohort.label_names == ("not density C or D", "density C or D")


def test_assessment_of_the_side(config: DataConfig) -> None:
    records = read_embed(changed(config, label="birads"))
    assert records.label_names == BIRADS
    found = [of_patient(records, number) for number in range(5)]
    assert found == [["N", "N"], ["A", "N"], ["S"], ["B", "B"], ["A"]], "worst of the side; none for the other side"
    assert of_patient(records, 8) == [], "X"
    recalled = read_embed(changed(config, label="birads", positive=["A", "S", "M", "K"]))
    assert recalled.labels[recalled.patient_ids == "60696001"].tolist() == [1, 0]


def test_pathology_of_the_side(config: DataConfig) -> None:
    records = read_embed(changed(config, label="pathology"))
    assert records.label_names == ("no cancer", "cancer")
    found = [of_patient(records, number) for number in (0, 2, 4)]
    assert found == [["no cancer"] * 2, ["cancer", "no cancer"], ["no cancer", "cancer"]], "bside before side"
    proven = read_embed(changed(config, label="pathology", no_pathology="drop", positive=["0"]))
    assert proven.label_names == ("no path_severity 0", "path_severity 0")
    assert [of_patient(proven, number) for number in (0, 2, 4)] == [[], ["path_severity 0"], ["no path_severity 0"]]


def test_exams_types_and_views(config: DataConfig) -> None:
    assert len(read_embed(changed(config, exams="all")).labels) > len(read_embed(config).labels)
    diagnostic = read_embed(changed(config, exams="diagnostic"))
    assert len(set(diagnostic.patient_ids.tolist())) == 35
    both = read_embed(changed(config, image_types=["2D", "C-view"], views=["CC"]))
    assert set(both.groups["view"]) == {"CC"}
    assert len(both.labels) == len(read_embed(config).labels)
    special = read_embed(changed(config, special_views=True, views=[]))
    assert len(special.labels) == 2 * len(read_embed(config).labels)
    with pytest.raises(DataError, match=r"data\.views=\['MLL'\] leaves no image; .* has CC, ML, MLO"):
        read_embed(changed(config, views=["MLL"]))


def test_groups(config: DataConfig) -> None:
    names = ["race", "ethnicity", "age", "density", "view", "manufacturer"]
    cohort = load_cohort(changed(config, label="pathology", group_columns=names), seed=0)
    of = {name: values[[0, 1, 2, 3, 4, 5, 6, 9]].tolist() for name, values in cohort.groups.items()}
    assert of["race"] == ["White", "Black", "Asian", "Other", "unknown", "unknown", "Other", "Asian"]
    assert of["ethnicity"][:3] == ["Non-Hispanic", "Hispanic or Latino", "unknown"]
    assert of["age"] == ["<40"] * 5 + ["40-49"] * 2 + ["unknown"]
    assert of["density"][:7] == ["A", "B", "C", "D", "A", "B", "unknown"]
    assert set(of["manufacturer"]) == {"HOLOGIC, Inc."}


def test_tables_of_the_full_release(copy: DataConfig) -> None:
    tables = Path(str(copy.path)) / "tables"
    for name in ("clinical", "metadata"):
        table = pd.read_csv(tables / f"EMBED_OpenData_{name}_reduced.csv", dtype=str, keep_default_na=False)
        (tables / f"EMBED_OpenData_{name}_reduced.csv").unlink()
        write_csv(tables / f"EMBED_OpenData_{name}.csv", table.rename(columns={"ETHNIC_GROUP_DESC": "ETHNICITY_DESC"}))
    records = read_embed(dataclasses.replace(copy, path=str(tables)))
    assert "Hispanic or Latino" in set(records.groups["ethnicity"])


def test_converted_images_elsewhere(copy: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.images=png: there is no"):
        read_embed(changed(copy, images="png"))
    (tmp_path / "png").mkdir()
    with pytest.raises(DataError, match=r"None of the 138 images exists, .*/png/cohort_1/60696000/.*\.png"):
        load_cohort(changed(copy, images="png", suffix=".png"), seed=0)


def test_missing_tables_columns_and_wrong_settings(copy: DataConfig) -> None:
    tables = Path(str(copy.path)) / "tables"
    for name, lost in (("clinical", "asses"), ("metadata", "ViewPosition")):
        table = pd.read_csv(tables / f"EMBED_OpenData_{name}_reduced.csv", dtype=str, keep_default_na=False)
        write_csv(tables / f"EMBED_OpenData_{name}_reduced.csv", table.drop(columns=lost))
    with pytest.raises(DataError) as caught:
        read_embed(copy)
    assert len(caught.value.problems) == 2, "of both tables at once"
    (tables / "EMBED_OpenData_clinical_reduced.csv").unlink()
    with pytest.raises(DataError, match=r"expected EMBED_OpenData_clinical\.csv or EMBED_OpenData_clinical_reduced"):
        read_embed(copy)
    with pytest.raises(ConfigError) as wrong:
        read_embed(changed(copy, label="birads", positive=["Z"], exams="screen", no_pathology="ignore"))
    assert len(wrong.value.problems) == 3
