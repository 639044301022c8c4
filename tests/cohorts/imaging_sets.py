"""Small files in the exact layouts of published imaging data sets: every column, odd values, the traps.

Each `write_*` fills a folder and returns what a test needs to know about it. Images are tiny; those of sick records
are brighter.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dptrain.config import DataConfig

CHEST = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
         "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
         "Support Devices")  # fmt: skip
CHEXPERT_ORDER = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
                  "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
                  "Fracture", "Support Devices")  # fmt: skip
TINY: dict[str, Any] = {"size": 8, "workers": 1}


def save_picture(path: Path, seed: int, sick: bool = False, colour: bool = False) -> None:
    """A picture of 12 x 10 pixels that differs from every other one."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (12, 10, 3) if colour else (12, 10)
    Image.fromarray((rng.integers(0, 120, shape) + 100 * sick).astype(np.uint8)).save(path)


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """As CSV, packed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(index=False)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_mimic_cxr(root: Path) -> DataConfig:
    """70 patients, 61 to 70 in the official test; admissions that disagree; labels as the labeller writes them."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for number in range(70):
        subject = 10000032 + 7 * number
        for study in range(1 + number % 2):
            study_id = 50414267 + 10 * number + study
            sick = (number + study) % 3 == 0
            labels.append({"subject_id": subject, "study_id": study_id, **_chest_row(rng, sick)})
            for view in ("PA", "LATERAL") if study == 0 else ("AP",):
                image = "-".join(f"{rng.integers(16**8):08x}" for _ in range(5))
                rows.append({
                    "dicom_id": image, "subject_id": subject, "study_id": study_id,
                    "PerformedProcedureStepDescription": "CHEST (PA AND LAT)", "ViewPosition": view, "Rows": 3056,
                    "Columns": 2544, "StudyDate": 21800506 + 10000 * study, "StudyTime": 213014.531,
                    "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
                    "ViewCodeSequence_CodeMeaning": "postero-anterior",
                    "PatientOrientationCodeSequence_CodeMeaning": "Erect" if number % 2 else "",
                })  # fmt: skip
                save_picture(root / f"files/p{str(subject)[:2]}/p{subject}/s{study_id}/{image}.jpg", len(rows), sick)
    metadata, studies = pd.DataFrame(rows), pd.DataFrame(labels)
    part = np.where(metadata["subject_id"] > 10000032 + 7 * 59, "test", "train").astype(object)
    part[:2] = "validate"
    split = metadata[["dicom_id", "study_id", "subject_id"]].assign(split=part)
    write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
    write_csv(root / "mimic-cxr-2.0.0-split.csv.gz", split.sample(frac=1, random_state=0))
    write_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", studies)
    negbio = studies.copy()
    negbio.loc[studies["Edema"] == -1, "Edema"] = 0.0
    write_csv(root / "mimic-cxr-2.0.0-negbio.csv.gz", negbio)
    subjects = [10000032 + 7 * number for number in range(70)]
    patients = {
        "subject_id": subjects, "gender": ["F" if n % 2 else "M" for n in range(70)],
        "anchor_age": [91 if n == 1 else 30 + n % 60 for n in range(70)], "anchor_year": 2180,
        "anchor_year_group": "2014 - 2016", "dod": "",
    }  # fmt: skip
    write_csv(root / "mimiciv/hosp/patients.csv.gz", pd.DataFrame(patients).drop(index=5))
    stays = [
        (10000032, "WHITE", "Medicaid"), (10000032, "WHITE - RUSSIAN", "Medicaid"), (10000032, "OTHER", "Medicaid"),
        (10000032, "UNKNOWN", ""), (10000039, "BLACK/CAPE VERDEAN", "Medicare"),
        (10000046, "UNABLE TO OBTAIN", "Other"),
        (10000053, "HISPANIC/LATINO - PUERTO RICAN", "Other"), (10000060, "ASIAN - CHINESE", "Medicare"),
        (10000060, "ASIAN", "Medicaid"), (99999999, "WHITE", "Other"),
        *((subject, "WHITE", "Other") for subject in subjects[6:]),
    ]  # fmt: skip
    admissions = pd.DataFrame(stays, columns=["subject_id", "race", "insurance"])
    admissions.insert(1, "hadm_id", 22595853 + np.arange(len(stays)))
    for index, column in enumerate(("admittime", "dischtime", "deathtime", "admission_type", "admit_provider_id",
                                    "admission_location", "discharge_location")):  # fmt: skip
        admissions.insert(2 + index, column, "2180-05-06 22:23:00")
    for column in ("language", "marital_status", "edregtime", "edouttime", "hospital_expire_flag"):
        admissions[column] = ""
    write_csv(root / "mimiciv/hosp/admissions.csv.gz", admissions)
    return DataConfig("mimic_cxr", 50, path=str(root), options={**TINY, "mimic_iv": str(root / "mimiciv")})


def _chest_row(rng: np.random.Generator, sick: bool) -> dict[str, Any]:
    row: dict[str, Any] = {label: rng.choice([1.0, 0.0, -1.0, np.nan], p=[0.2, 0.2, 0.1, 0.5]) for label in CHEST}
    row["Cardiomegaly"] = 1.0 if sick else np.nan
    return row


def write_chexpert(root: Path, batches: bool = False) -> DataConfig:
    """66 training and 20 validation patients; `batches` is the release whose train folder has other names."""
    rng = np.random.default_rng(1)
    tables: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    base = root / ("CheXpert-v1.0 batch 1 (validate & csv)" if batches else "CheXpert-v1.0")
    for part, first, last in (("train", 1, 67), ("valid", 64541, 64561)):
        for number in range(first, last):
            patient = f"patient{number:05d}"
            home = base / part
            if batches and part == "train":
                home = root / f"CheXpert-v1.0 batch {2 + number % 3} (train {1 + number % 3})"
            for study in range(1, 2 + number % 2):
                sick = (number + study) % 3 == 0
                labels = {label: rng.choice([1.0, 0.0, -1.0, np.nan]) for label in CHEXPERT_ORDER}
                if part == "valid":
                    labels = {label: float(rng.random() < 0.5) for label in CHEXPERT_ORDER}
                labels["Cardiomegaly"] = 1.0 if sick else (0.0 if part == "valid" else np.nan)
                for view in ("view1_frontal", "view2_lateral")[: 1 + number % 2]:
                    frontal = view.endswith("frontal")
                    tables[part].append({
                        "Path": f"CheXpert-v1.0/{part}/{patient}/study{study}/{view}.jpg",
                        "Sex": "Unknown" if number == 9 else ("Female" if number % 2 else "Male"),
                        "Age": 0 if number == 10 else 20 + number % 71,
                        "Frontal/Lateral": "Frontal" if frontal else "Lateral",
                        "AP/PA": ("AP" if number % 2 else "PA") if frontal else "", **labels,
                    })  # fmt: skip
                    seed = 1000 * number + 10 * study + frontal
                    save_picture(home / patient / f"study{study}/{view}.jpg", seed, sick)
    for part, rows in tables.items():
        write_csv(base / f"{part}.csv", pd.DataFrame(rows))
    races = ["White, non-Hispanic", "Black, non-Hispanic", "Asian, non-Hispanic", "Race and Ethnicity Unknown",
             "Other, Hispanic", "White, Hispanic", "Pacific Islander, non-Hispanic", "Patient Refused", ""]  # fmt: skip
    numbers = [*range(1, 66), *range(64541, 64561)]
    people = pd.DataFrame({
        "PATIENT": [f"patient{n:05d}" for n in numbers], "GENDER": "Female", "AGE_AT_CXR": 50,
        "PRIMARY_RACE": [races[n % len(races)] for n in numbers],
        "ETHNICITY": ["Non-Hispanic/Non-Latino" if n % 3 else "Unknown" for n in numbers],
    })  # fmt: skip
    write_csv(base / "CHEXPERT_DEMO.csv", people)
    return DataConfig("chexpert", 45, path=str(base), options=dict(TINY))


def write_ham10000(root: Path) -> DataConfig:
    """70 lesions of 100 images in quotes as Dataverse serves them; part 1 unpacked, part 2 still a zip."""
    rng = np.random.default_rng(2)
    rows = []
    dx = ["nv", "mel", "bkl", "bcc", "akiec", "vasc", "df"]
    for number in range(100):
        lesion = number % 70
        rows.append({
            "lesion_id": f"HAM_{118 + lesion:07d}", "image_id": f"ISIC_{27419 + number:07d}", "dx": dx[lesion % 7],
            "dx_type": ["histo", "follow_up", "consensus", "confocal"][lesion % 4],
            "age": "" if lesion == 3 else f"{5.0 * (lesion % 18):.1f}",
            "sex": ["male", "female", "unknown"][lesion % 3],
            "localization": ["scalp", "back", "unknown", "lower extremity"][lesion % 4],
            "dataset": ["vidir_modern", "rosendahl"][lesion % 2],
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "HAM10000_metadata.csv", index=False, quoting=csv.QUOTE_ALL)
    with zipfile.ZipFile(root / "HAM10000_images_part_2.zip", "w") as archive:
        for number in rng.permutation(100):
            name, sick = f"ISIC_{27419 + number:07d}.jpg", dx[number % 70 % 7] == "mel"
            save_picture(root / "HAM10000_images_part_1" / name, 5000 + int(number), sick, colour=True)
            if number >= 50:
                archive.write(root / "HAM10000_images_part_1" / name, name)
                (root / "HAM10000_images_part_1" / name).unlink()
    return DataConfig("ham10000", 50, path=str(root), options={**TINY, "channels": 3})


def write_fitzpatrick17k(root: Path) -> DataConfig:
    """90 photos of three partitions in data/finalfitz17k, a column without values, skin types with -1."""
    kinds = [("psoriasis", "inflammatory", "non-neoplastic"), ("melanoma", "malignant melanoma", "malignant"),
             ("dermatofibroma", "benign dermal", "benign"), ("vitiligo", "inflammatory", "non-neoplastic")]  # fmt: skip
    rows = []
    for number in range(90):
        label, nine, three = kinds[number % 4]
        name = hashlib.md5(str(number).encode()).hexdigest()
        rows.append({
            "md5hash": name, "fitzpatrick_scale": [1, 2, 3, 4, 5, 6, -1][number % 7],
            "fitzpatrick_centaur": [-1, 1, 2][number % 3], "label": label, "nine_partition_label": nine,
            "three_partition_label": three, "qc": {7: "3 Wrongly labelled", 11: "1 Diagnostic"}.get(number, ""),
            "url": "" if number == 5 else f"https://www.dermaamin.com/site/images/clinical-pic/a/{number}.jpg",
            "url_alphanum": f"httpwwwdermaamincomsiteimagesclinicalpica{number}jpg.jpg",
        })  # fmt: skip
        save_picture(root / "data" / "finalfitz17k" / f"{name}.jpg", 7000 + number, three == "malignant", colour=True)
    write_csv(root / "fitzpatrick17k.csv", pd.DataFrame(rows))
    return DataConfig("fitzpatrick17k", 60, path=str(root), options={**TINY, "channels": 3})


SETS: dict[str, Callable[[Path], DataConfig]] = {
    "chexpert": write_chexpert,
    "fitzpatrick17k": write_fitzpatrick17k,
    "ham10000": write_ham10000,
    "mimic_cxr": write_mimic_cxr,
}
"""Data sets by name: each fills a folder and returns the configuration that reads it."""
