"""Folders of images that a user brings, read with configuration alone; and the real MRI slices."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig, parse_data
from dptrain.errors import ConfigError, DataError


def from_command_line(repo_root: Path, name: str, overrides: list[str]) -> DataConfig:
    """What `dptrain data=NAME data.x=y` makes of the files in conf/."""
    with initialize_config_dir(str(repo_root / "conf"), version_base=None):
        raw = OmegaConf.to_container(compose("config", [f"data={name}", *overrides]), resolve=False)
    assert isinstance(raw, dict)
    return parse_data(raw)


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """60 patients of a clinic: 16-bit TIFFs of 5 channels in two zips, a list by semicolons, and a register."""
    rng = np.random.default_rng(5)
    rows = []
    for part in ("north", "south"):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for index in range(30):
                for eye in ("L", "R"):
                    ill = bool(rng.random() < 0.5)
                    pixels = rng.integers(0, 20000, (5, 12, 12)).astype(np.uint16)
                    pixels[3] += np.uint16(30000 * ill)
                    buffer = io.BytesIO()
                    tifffile.imwrite(buffer, pixels, photometric="minisblack")
                    archive.writestr(f"scans/{index}_{eye}.tif", buffer.getvalue())
                    rows.append((f"{part}-{index:02d}", part, index, eye, "ill" if ill else "well", "ok"))
    rows.append(("north-00", "north", 0, "X", "well", "blurred"))
    columns = ["Case No", "Site", "Nr", "Eye", "Diagnosis", "Quality"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "liste.csv", sep=";", index=False, encoding="utf-8-sig")
    register = {"case": sorted({row[0] for row in rows}), "born": rng.integers(1930, 2000, 60)}
    pd.DataFrame(register).to_parquet(tmp_path / "register.parquet")
    return tmp_path


CLINIC = ["data.patient_column='Case No'", "data.label_columns=[Diagnosis]", "data.positive=ill",
          "data.group_columns=[Site,born]", "data.group_bands={born:[1950,1970]}", "data.keep={Quality:ok}",
          "data.join=[{file:register.parquet,on:'Case No',key:case}]", "data.size=6", "data.channels=2",
          "data.select_channels=[3,0]", "data.nominal_patients=40", "data.delta=1e-3"]  # fmt: skip
PATTERN = "data.path_pattern='{Site}.zip/scans/{Nr}_{Eye}.tif'"


def test_a_folder_that_nobody_here_made(repo_root: Path, clinic: Path) -> None:
    data = from_command_line(repo_root, "images", [*CLINIC, PATTERN, f"data.path={clinic}/liste.csv"])
    cohort = load_cohort(data, 0)
    assert cohort.features.shape == (120, 2, 6, 6)
    assert (cohort.num_patients, cohort.label_names) == (60, ("not ill", "ill"))
    assert cohort.feature_names == ("channel 0", "channel 1")
    assert set(cohort.groups["Site"].tolist()) == {"north", "south"}
    assert set(cohort.groups["born"].tolist()) == {"<1950", "1950-1969", ">=1970"}
    means = cohort.features[:, 0].mean(axis=(1, 2))
    assert means[cohort.labels == 1].min() > means[cohort.labels == 0].max(), "the fourth channel tells"
    assert cohort.warnings == ()


def test_against_the_files_one_by_one(image_folder: Path) -> None:
    options = {"patient_column": "mrn", "path_column": "picture", "label_columns": "sick", "size": [20, 24],
               "mean": 0.3, "std": 0.1}  # fmt: skip
    cohort = load_cohort(DataConfig("images", 50, path=str(image_folder / "images.csv"), options=options), 0)
    for row, raw in pd.read_csv(image_folder / "images.csv").iterrows():
        expected = (np.asarray(Image.open(image_folder / raw["picture"])) / 255 - 0.3) / 0.1
        np.testing.assert_allclose(cohort.features[row, 0], expected, atol=1e-5)
        assert cohort.patient_ids[cohort.patient[row]] == raw["mrn"]
        assert cohort.labels[row] == raw["sick"]


def test_only_wanted_patients_are_decoded(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"patient_column": "mrn", "path_column": "picture", "label_columns": "sick", "size": 5}
    data = DataConfig("images", 50, path=str(image_folder / "images.csv"), max_patients=20, options=options)
    caplog.set_level("INFO")
    cohort = load_cohort(data, 0)
    assert f"images: {cohort.num_records} decoded into" in caplog.text
    everybody = load_cohort(dataclasses.replace(data, max_patients=None), 0)
    place = {name: index for index, name in enumerate(everybody.patient_ids.tolist())}
    for index, name in enumerate(cohort.patient_ids.tolist()):
        np.testing.assert_array_equal(
            cohort.features[cohort.patient == index], everybody.features[everybody.patient == place[name]]
        )


def test_skipped_images_take_their_records_and_patients_along(image_folder: Path, tmp_path: Path) -> None:
    table = pd.read_csv(image_folder / "images.csv")
    lonely = table["mrn"].value_counts().loc[lambda count: count == 1].index[0]
    table.loc[table["mrn"] == lonely, "picture"] = "none.png"
    busy = table["mrn"].value_counts().index[0]
    table.loc[table.index[table["mrn"] == busy][0], "picture"] = "none either.png"
    table.to_csv(tmp_path / "images.csv", index=False)
    options = {"patient_column": "mrn", "path_column": "picture", "label_columns": "sick", "size": 5,
               "root": str(image_folder), "group_columns": ["set"]}  # fmt: skip
    data = DataConfig("images", 50, path=str(tmp_path / "images.csv"), options=options)
    with pytest.raises(DataError, match="2 of 90 images cannot be decoded") as caught:
        load_cohort(data, 0)
    assert [problem.endswith("none.png: there is no such file") for problem in caught.value.problems].count(True) == 1
    cohort = load_cohort(dataclasses.replace(data, options={**options, "on_error": "skip"}), 0)
    assert (cohort.num_records, cohort.num_patients) == (88, 69)
    assert isinstance(cohort.features, np.memmap), "nothing is read into memory as a whole"
    assert lonely not in cohort.patient_ids
    assert busy in cohort.patient_ids
    kept = table[~table["picture"].str.startswith("none")].reset_index(drop=True)
    assert [str(cohort.patient_ids[p]) for p in cohort.patient] == kept["mrn"].tolist()
    assert cohort.labels.tolist() == kept["sick"].tolist()
    assert "data.on_error=skip: 2 of 90 images could not be decoded" in cohort.warnings[0]
    assert cohort.warnings[1] == "1 patients have no record left and are left out."


def test_all_settings_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_cohort(DataConfig("images", 50, options={"fit": "x", "on_error": "x", "colour": 1}), 0)
    text = "\n".join(caught.value.problems)
    for part in ("data.colour=1 is not a setting here", "data.patient_column=null", "data.label_columns=[]",
                 "set exactly one of them", "data.fit='x'", "data.on_error='x'"):  # fmt: skip
        assert part in text, part


def auroc(cohort: Cohort) -> float:
    test = cohort.is_test[cohort.patient]
    flat = np.asarray(cohort.features).reshape(cohort.num_records, -1)
    model = LogisticRegression(C=1e-3, max_iter=300).fit(flat[~test], cohort.labels[~test])
    return float(roc_auc_score(cohort.labels[test], model.decision_function(flat[test])))


@pytest.mark.data
def test_mri_slices_joined_with_their_patients(repo_root: Path, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("dev_lgg")
    overrides: list[Any] = [
        f"data.path={folder}/slices.csv", "data.root=images.zip", "data.path_column=file",
        "data.patient_column=patient", "data.label_columns=[tumor]",
        "data.join=[{file:patients.csv,on:patient,key:Patient}]",
        "data.group_columns=[gender,age_at_initial_pathologic]", "data.size=32",
        "data.group_bands={age_at_initial_pathologic:[40,60]}", "data.nominal_patients=41",
    ]  # fmt: skip
    cohort = load_cohort(from_command_line(repo_root, "images", overrides), 0)
    assert (cohort.num_records, cohort.num_patients, cohort.is_test.sum()) == (2518, 59, 17)
    assert cohort.labels.sum() == 842
    sizes = np.bincount(cohort.patient)
    assert (sizes.min(), sizes.max()) == (23, 73)
    assert sorted(np.unique(cohort.groups["gender"], return_counts=True)[1].tolist()) == [24, 35]
    assert cohort.warnings == ()
    assert np.mean([auroc(load_cohort(from_command_line(repo_root, "images", overrides), s)) for s in range(3)]) > 0.7
