"""Small data in the layouts that the readers know, and where the real ones lie."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.diabetes130 import FILE_NAME
from dptrain.config import DataConfig
from tests.cohorts.imaging_sets import SETS
from tests.cohorts.layouts import LAYOUTS

MEDICATIONS = (
    "metformin", "repaglinide", "nateglinide", "chlorpropamide", "glimepiride", "acetohexamide", "glipizide",
    "glyburide", "tolbutamide", "pioglitazone", "rosiglitazone", "acarbose", "miglitol", "troglitazone", "tolazamide",
    "examide", "citoglipton", "insulin", "glyburide-metformin", "glipizide-metformin", "glimepiride-pioglitazone",
    "metformin-rosiglitazone", "metformin-pioglitazone",
)  # fmt: skip


@pytest.fixture(scope="session")
def shared_data(repo_root: Path) -> Callable[[str], Path]:
    """Folder of a real data set; skips the test where it is not on this machine."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("DPTRAIN_SHARED_DATA", repo_root.parent / "shared" / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"{name} is not in {root} (set DPTRAIN_SHARED_DATA)")
        return root / name

    return find


@pytest.fixture(scope="session")
def diabetes_frame() -> pd.DataFrame:
    """150 encounters of 90 patients in the official columns, with the file's odd values."""
    rng = np.random.default_rng(0)
    rows = 150
    patient = np.concatenate([np.arange(90), rng.integers(0, 40, rows - 90)])
    frame: dict[str, Any] = {
        "encounter_id": [str(10_000_000 + 7 * row) for row in rng.permutation(rows)],
        "patient_nbr": [str(87_000_000 + 13 * p) for p in patient],
        "race": rng.choice(["Caucasian", "AfricanAmerican", "Asian", "?"], rows),
        "gender": rng.choice(["Female", "Male", "Unknown/Invalid"], rows, p=[0.5, 0.45, 0.05]),
        "age": rng.choice(["[0-10)", "[60-70)", "[70-80)", "[90-100)"], rows),
        "weight": "?",
        "admission_type_id": rng.choice(["1", "2", "3", "8"], rows),
        "discharge_disposition_id": rng.choice(["1", "3", "6", "11", "13"], rows),
        "admission_source_id": rng.choice(["1", "7", "17"], rows),
        "time_in_hospital": rng.integers(1, 15, rows).astype(str),
        "payer_code": "?",
        "medical_specialty": rng.choice(["?", "Cardiology-Pediatric", "Surgery-General", "Nephrology"], rows),
    }
    for name in ("num_lab_procedures", "num_procedures", "num_medications", "number_outpatient", "number_emergency",
                 "number_inpatient", "number_diagnoses"):  # fmt: skip
        frame[name] = rng.integers(0, 9, rows).astype(str)
    for name in ("diag_1", "diag_2", "diag_3"):
        frame[name] = rng.choice(["250.83", "?", "428", "V58", "E909", "786"], rows)
    frame["max_glu_serum"] = rng.choice(["None", ">300"], rows)
    frame["A1Cresult"] = rng.choice(["None", "Norm", ">8"], rows)
    for name in MEDICATIONS:
        frame[name] = rng.choice(["No", "Steady", "Up", "Down"], rows)
    frame["change"] = rng.choice(["No", "Ch"], rows)
    frame["diabetesMed"] = rng.choice(["No", "Yes"], rows)
    frame["readmitted"] = rng.choice(["NO", "<30", ">30"], rows)
    return pd.DataFrame(frame)


@pytest.fixture(scope="session")
def diabetes_zip(tmp_path_factory: pytest.TempPathFactory, diabetes_frame: pd.DataFrame) -> Path:
    """The small file inside a zip, in a folder as UCI once packed it."""
    path = tmp_path_factory.mktemp("diabetes") / "dataset_diabetes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"dataset_diabetes/{FILE_NAME}", diabetes_frame.to_csv(index=False))
    return path


@pytest.fixture(scope="session")
def visits() -> pd.DataFrame:
    """200 visits of 80 patients: numbers, categories, groups, labels of every kind, a split by patient."""
    rng = np.random.default_rng(1)
    rows = 200
    patient = np.concatenate([np.arange(80), rng.integers(0, 80, rows - 80)])
    sex = rng.choice(["F", "M", ""], 80, p=[0.5, 0.4, 0.1])
    return pd.DataFrame(
        {
            "mrn": [f"MRN{p:05d}" for p in patient],
            "visit": np.arange(rows) + 5000,
            "age": rng.integers(18, 95, rows),
            "lactate": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(0.5, 0.4, rows).round(2)),
            "unit": rng.choice(["icu", "ward", "ed", ""], rows),
            "sex": sex[patient],
            "died": rng.integers(0, 2, rows),
            "triage": rng.choice(["low", "mid", "high"], rows),
            "sepsis": rng.choice(["0", "1", ""], rows),
            "fold": np.where(patient < 60, "train", "test"),
        }
    )


@pytest.fixture(scope="session")
def visits_csv(tmp_path_factory: pytest.TempPathFactory, visits: pd.DataFrame) -> Path:
    """The visits as a CSV."""
    path = tmp_path_factory.mktemp("table") / "visits.csv"
    visits.to_csv(path, index=False)
    return path


TABLE_OPTIONS: dict[str, Any] = {
    "patient_column": "mrn",
    "label_columns": ["died"],
    "group_columns": ["sex"],
    "numeric": {
        "age": {"center": 60, "scale": 20},
        "lactate": {"center": 0.5, "scale": 0.5, "fill": 1.5, "log_offset": 0.1},
    },
    "categorical": {"unit": ["icu", "ward"]},
}


@pytest.fixture
def table_config(visits_csv: Path) -> Callable[..., DataConfig]:
    """`DataConfig` of data=table with some options changed; `path` and other common fields too."""

    def make(path: Path | None = None, max_patients: int | None = None, **changed: Any) -> DataConfig:
        return DataConfig(
            name="table", nominal_patients=56, path=str(path or visits_csv), max_patients=max_patients,
            options={**TABLE_OPTIONS, **changed},
        )

    return make


@pytest.fixture(scope="session", autouse=True)
def decode_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing is decoded into the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own folder: 90 images of 70 patients as PNG, and `images.csv`. Sick images have a bright square."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(2)
    patient = np.concatenate([np.arange(70), rng.integers(0, 70, 20)])
    sick = rng.random(90) < 0.4
    for row in range(90):
        pixels = rng.integers(0, 120, (20, 24)).astype(np.uint8)
        pixels[5:12, 6:15] += np.uint8(100 * sick[row])
        Image.fromarray(pixels).save(folder / f"{row:03d}.png")
    table = {
        "picture": [f"{row:03d}.png" for row in range(90)], "mrn": [f"MRN{p:05d}" for p in patient],
        "sick": sick.astype(int), "age": rng.integers(20, 90, 90), "set": np.where(patient < 50, "train", "test"),
    }  # fmt: skip
    pd.DataFrame(table).to_csv(folder / "images.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def ecg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own folder: 80 ECGs of 60 patients as .npy with two leads at 50 Hz, and `ecgs.tsv`."""
    folder = tmp_path_factory.mktemp("ecgs")
    rng = np.random.default_rng(3)
    patient = np.concatenate([np.arange(60), rng.integers(0, 60, 20)])
    fast = rng.random(80) < 0.4
    for row in range(80):
        time = np.arange(100) / 50
        beat = np.sin(2 * np.pi * (2.0 if fast[row] else 1.0) * time)
        np.save(folder / f"{row:03d}.npy", np.stack([beat, -beat / 2]) + rng.normal(0, 0.05, (2, 100)))
    table = {"file": [f"{row:03d}.npy" for row in range(80)], "pid": [f"ECGP{p:05d}" for p in patient],
             "fast": fast.astype(int), "sex": rng.choice(["F", "M"], 60)[patient]}  # fmt: skip
    pd.DataFrame(table).to_csv(folder / "ecgs.tsv", index=False, sep="\t")
    return folder


@pytest.fixture(scope="session")
def npz_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images in the layout of breastmnist: uint8, labels (N, 1)."""
    rng = np.random.default_rng(4)
    arrays = {}
    for part, count in (("train", 70), ("val", 10), ("test", 40)):
        labels = rng.integers(0, 2, (count, 1)).astype(np.uint8)
        arrays[f"{part}_labels"] = labels
        arrays[f"{part}_images"] = (rng.integers(0, 100, (count, 8, 8)) + 100 * labels[:, :, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("npz") / "breastmnist.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def hospital_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small copy of a published ECG or EHR data set in its layout, written when it is first asked for."""
    root = tmp_path_factory.mktemp("hospital")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            LAYOUTS[name](folder)
        return folder

    return make


@pytest.fixture(scope="session")
def imaging_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DataConfig]:
    """The configuration of a small published imaging data set, written when it is first asked for."""
    written: dict[str, DataConfig] = {}

    def make(name: str) -> DataConfig:
        if name not in written:
            written[name] = SETS[name](tmp_path_factory.mktemp(name))
        return written[name]

    return make


MEDS_FEATURES: dict[str, Any] = {"counts": ["ICD10CM/I50", "DIAGNOSIS//*"],
                                 "values": {"LAB//50912//mg/dL": {"center": 1, "scale": 0.5, "fill": 1}}}  # fmt: skip
MEDS_MORTALITY = {"label_files": ["task_labels/mortality/in_icu/first_24h"]}
MEDS_PLACE = {"label_files": ["task_labels/place"], "classes": ["home", "ward", "icu"]}

COHORTS = ("breast_cancer", "diabetes130", "table", "table_multiclass", "table_multilabel", "table_with_split",
           "sim_ehr", "sim_ecg", "sim_imaging", "images", "images_with_split", "ecg", "npz", "medmnist",
           "ptbxl", "ptbxl_own_split", "mimic_iv_ecg", "mimic_iv_ed", "mimic_iv_ed_split", "meds",
           "meds_multiclass", *SETS)  # fmt: skip


@pytest.fixture(params=COHORTS)
def data_config(
    request: pytest.FixtureRequest, diabetes_zip: Path, table_config: Callable[..., DataConfig], image_folder: Path,
    ecg_folder: Path, npz_file: Path, hospital_folder: Callable[[str], Path],
    imaging_set: Callable[[str], DataConfig],
) -> DataConfig:
    """One configuration of every reader; add yours here and it inherits the contract."""
    pictures = {"patient_column": "mrn", "path_column": "picture", "label_columns": "sick", "size": 8}
    signals = {"patient_column": "pid", "path_column": "file", "label_columns": "fast", "group_columns": "sex",
               "leads": ["II", "I"], "file_leads": ["I", "II"], "file_sampling_rate": 50, "unit": "mV",
               "sampling_rate": 25, "duration_s": 2}  # fmt: skip
    bands = {"group_columns": "age", "group_bands": {"age": [40, 60]}}
    if request.param in SETS:
        return imaging_set(request.param)
    if request.param.startswith("ptbxl"):
        more = {"test_folds": []} if request.param == "ptbxl_own_split" else {"labels": "MI"}
        return DataConfig("ptbxl", 40, path=str(hospital_folder("ptbxl")), options={"duration_s": 1, **more})
    if request.param == "mimic_iv_ecg":
        return DataConfig("mimic_iv_ecg", 40, path=str(hospital_folder("mimic_iv_ecg")),
                          options={"duration_s": 1, "missing": "interpolate"})  # fmt: skip
    if request.param.startswith("meds"):
        more = {"test_splits": []} | MEDS_PLACE if request.param == "meds_multiclass" else MEDS_MORTALITY
        return DataConfig("meds", 40, path=str(hospital_folder("meds")), options={**MEDS_FEATURES, **more})
    if request.param.startswith("mimic_iv_ed"):
        return DataConfig("mimic_iv_ed", 40, path=str(hospital_folder(request.param)))
    return {
        "images": DataConfig("images", 50, path=str(image_folder / "images.csv"), options={**pictures, **bands}),
        "images_with_split": DataConfig("images", 50, path=str(image_folder / "images.csv"),
                                        options={**pictures, "split_column": "set", "channels": 3}),
        "ecg": DataConfig("ecg", 42, path=str(ecg_folder / "ecgs.tsv"), options=signals),
        "npz": DataConfig("npz", 80, path=str(npz_file), options={"size": None, "channels": None}),
        "medmnist": DataConfig("medmnist", 546, path=str(npz_file), options={"flag": "breastmnist", "size": 4}),
        "breast_cancer": DataConfig("breast_cancer", 399),
        "diabetes130": DataConfig("diabetes130", 60, path=str(diabetes_zip)),
        "table": table_config(),
        "table_multiclass": table_config(label_columns="triage", classes=["low", "mid", "high"]),
        "table_multilabel": table_config(label_columns=["died", "sepsis"]),
        "table_with_split": table_config(split_column="fold"),
        "sim_ecg": DataConfig("sim_ecg", 70, options={"num_patients": 100, "duration_s": 1, "labels": "binary"}),
        "sim_imaging": DataConfig("sim_imaging", 70, options={"num_patients": 100, "image_size": 32}),
        "sim_ehr": DataConfig("sim_ehr", 70, records_per_patient=2.0, options={"num_patients": 100}),
    }[request.param]
