"""Folders of ECGs that a user brings, read with configuration alone; and the real PTB-XL records."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig, parse_data

pytestmark = pytest.mark.filterwarnings("ignore::Warning:wfdb.*")


def test_a_folder_that_nobody_here_made(repo_root: Path, ecg_folder: Path) -> None:
    overrides = [
        "data=ecg", f"data.path={ecg_folder}/ecgs.tsv", "data.patient_column=pid", "data.path_column=file",
        "data.label_columns=[fast]", "data.group_columns=[sex]", "data.leads=[ii,I]", "data.file_leads=[I,II]",
        "data.file_sampling_rate=50", "data.unit=mV", "data.duration_s=2", "data.sampling_rate=50",
        "data.nominal_patients=42", "data.delta=1e-3",
    ]  # fmt: skip
    with initialize_config_dir(str(repo_root / "conf"), version_base=None):
        raw = OmegaConf.to_container(compose("config", overrides), resolve=False)
    assert isinstance(raw, dict)
    cohort = load_cohort(parse_data(raw), 0)
    assert cohort.features.shape == (80, 2, 100)
    assert cohort.feature_names == ("ii", "I")
    np.testing.assert_allclose(cohort.features[3], np.load(ecg_folder / "003.npy")[::-1], rtol=1e-5)
    assert set(cohort.groups) == {"sex"}


@pytest.fixture
def ptbxl_manifest(shared_data: Callable[[str], Path], tmp_path: Path) -> Path:
    """What a user would make of PTB-XL by hand: file, patient, sex, age, whether the ECG is normal."""
    folder = shared_data("ptbxl_first500")
    table = pd.read_csv(folder / "ptbxl_database.csv")
    superclass = pd.read_csv(folder / "scp_statements.csv", index_col=0).query("diagnostic == 1")["diagnostic_class"]
    codes = [ast.literal_eval(text) for text in table["scp_codes"]]
    classes = [{superclass[code] for code in found if code in superclass} for found in codes]
    manifest = pd.DataFrame(
        {"file": table["filename_lr"], "patient": table["patient_id"], "age": table["age"],
         "sex": table["sex"].map({0: "male", 1: "female"}), "normal": [int("NORM" in found) for found in classes],
         "strat_fold": table["strat_fold"]}
    )  # fmt: skip
    manifest.to_parquet(tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


@pytest.mark.data
def test_ptbxl_by_a_manifest(ptbxl_manifest: Path, shared_data: Callable[[str], Path]) -> None:
    options = {
        "patient_column": "patient", "path_column": "file", "root": str(shared_data("ptbxl_first500")),
        "label_columns": "normal", "group_columns": ["sex", "age"], "group_bands": {"age": [40, 60, 80]},
    }  # fmt: skip
    cohort = load_cohort(DataConfig("ecg", 326, path=str(ptbxl_manifest), options=options), 0)
    assert cohort.features.shape == (500, 12, 1000)
    assert (cohort.num_patients, int(cohort.labels.sum())) == (466, 297)
    assert set(cohort.groups["sex"].tolist()) == {"male", "female"}
    assert 0.1 < np.std(cohort.features) < 0.5, "millivolts"
    lead = {name: cohort.features[:, index] for index, name in enumerate(cohort.feature_names)}
    np.testing.assert_allclose(lead["I"] + lead["III"], lead["II"], atol=0.01)  # Einthoven's law
    raw = np.fromfile(shared_data("ptbxl_first500") / "records100/00000/00001_lr.dat", dtype="<i2").reshape(-1, 12)
    np.testing.assert_allclose(cohort.features[0], raw.T / 1000, atol=1e-6)
