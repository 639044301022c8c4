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
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

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


GLAUCOMA_TABLE = ("filename", "age", "gender", "race", "ethnicity", "language", "maritalstatus", "md", "glaucoma",
                  "use")  # fmt: skip
DR_SUBTYPES = ("no.dr.diagnosis", "mild.npdr", "severe.npdr", "not.in.icd.table", "pdr", "moderate.npdr")
AMD_CONDITIONS = ("not.in.icd.table", "early.dry", "intermediate.dry", "wet.amd.inactive.scar", "no.amd.diagnosis",
                  "advanced.atrophic.dry.with.subfoveal.involvement")  # fmt: skip


def write_fairvision(root: Path) -> DataConfig:
    """80 glaucoma patients with a table, 40 of DR and of AMD without one; -1 where an attribute is not known."""
    for disease, home, count in (("glaucoma", "Glaucoma", 80), ("dr", "DR", 40), ("amd", "AMD", 40)):
        rng = np.random.default_rng(len(disease))
        rows = []
        for number in range(1, count + 1):
            part = "Training" if number <= 0.6 * count else "Validation" if number <= 0.7 * count else "Test"
            folder = root / home / part
            folder.mkdir(parents=True, exist_ok=True)
            sick = number % 3 == 0
            label = {"glaucoma": {"glaucoma": np.array(float(sick)), "md": np.array(-3.63)},
                     "dr": {"dr_subtype": np.array(DR_SUBTYPES[number % 6])},
                     "amd": {"amd_condition": np.array(AMD_CONDITIONS[number % 6])}}[disease]  # fmt: skip
            fundus = rng.integers(0, 120, (20, 20)) + 100 * sick
            race = np.array(number % 3) if number % 2 else np.array(["Asian", "Black or African American",
                                                                     "White or Caucasian"][number % 3])  # fmt: skip
            np.savez_compressed(
                folder / f"data_{number:05d}.npz",
                slo_fundus=fundus.astype(np.float64 if number % 2 else np.uint8),
                oct_bscans=np.zeros((4, 5, 5), np.uint8), race=race, male=np.array(number % 2),
                hispanic=np.array(-1 if number == 7 else number % 2), maritalstatus=np.array(number % 5),
                language=np.array(number % 3), **label,
            )  # fmt: skip
            save_picture(folder / f"slo_fundus_{number:05d}.jpg", 9000 + number, sick)
            rows.append((
                f"data_{number:05d}.npz", f"{20 + number * 0.83:.2f}", ["female", "male"][number % 2],
                ["asian", "black", "white"][number % 3], "unknown" if number == 7 else "non-hispanic", "english",
                ["married or partnered", "single", "unknown"][number % 3], "-3.63", ["no", "yes"][sick],
                part.lower(),
            ))  # fmt: skip
        if disease == "glaucoma":
            write_csv(root / home / "ReadMe" / "data_summary_glaucoma.csv", pd.DataFrame(rows, columns=GLAUCOMA_TABLE))
    return DataConfig("fairvision", 56, path=str(root), options=dict(TINY))


EMBED_RACES = ("Caucasian or White", "African American  or Black", "Asian", "Multiple", "Not Recorded",
               "Unknown, Unavailable or Unreported", "Native Hawaiian or Other Pacific Islander")  # fmt: skip


def save_mammogram(path: Path, seed: int, bright: bool) -> None:
    """DICOM of 12 x 10 pixels with 12 of 16 bits, MONOCHROME1 (bright tissue has small numbers) for even seeds."""
    stored = np.random.default_rng(seed).integers(0, 1500, (12, 10)).astype(np.uint16) + 2000 * bright
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = path.stem
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, path.stem
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PixelRepresentation = 12, 10, 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME2" if seed % 2 else "MONOCHROME1"
    dataset.PixelData = (stored if seed % 2 else 4095 - stored).astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_embed(root: Path) -> DataConfig:
    """70 women (and one man): screening exams with findings of one side, of both, of none; diagnostic exams.

    Exam by number modulo 5: 0 negative, one row with blank side; 1 additional evaluation left, negative right; 2 two
    findings left, one of them cancer, nothing for the right; 3 bilateral benign; 4 cancer right (bside), called left.
    """
    findings: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    kinds = {
        0: [("", "N", "", "")], 1: [("L", "A", "", ""), ("R", "N", "", "")],
        2: [("L", "B", "", ""), ("L", "S", "L", 0.0)], 3: [("B", "B", "", "")], 4: [("L", "A", "R", 1.0)],
    }  # fmt: skip
    for number in range(71):
        for exam in range(1 + number % 2):
            patient, accession = 60696000 + number, 8093000 + 10 * number + exam
            density = 5.0 if number == 70 else "" if number == 6 else float(1 + number % 4)
            screening = exam == 0
            for index, (side, asses, bside, severity) in enumerate(kinds[number % 5]):
                findings.append({
                    "empi_anon": patient, "acc_anon": accession, "study_date_anon": "2013-05-21",
                    "desc": "MG Screening Bilateral w/CAD" if screening else "MG Diagnostic Bilateral w/ CAD",
                    "numfind": index + 1, "side": side, "asses": "X" if number == 8 else asses, "tissueden": density,
                    "bside": bside, "path_severity": severity, "GENDER_DESC": "Male" if number == 70 else "Female",
                    "RACE_DESC": EMBED_RACES[number % len(EMBED_RACES)],
                    "ETHNIC_GROUP_DESC": "Hispanic or Latino" if number % 5 == 1 else
                                         "Unreported, Unknown, Unavailable" if number % 5 == 2 else "Non-Hispanic",
                    "MARITAL_STATUS_DESC": "Married", "age_at_study": "" if number == 9 else 35.2 + number % 50,
                    "total_L_find": 1, "total_R_find": 1, "cohort_num": 1 + number % 2, "first_3_zip": 303,
                })  # fmt: skip
            for kind, view, side, spot in (("2D", "CC", "L", ""), ("2D", "MLO", "R", 0.0), ("C-view", "CC", "L", ""),
                                           ("2D", "ML", "R", ""), ("2D", "CC", "R", 1.0)):  # fmt: skip
                uid = f"1.2.840.{number}.{exam}.{len(files)}"
                path = f"cohort_{1 + number % 2}/{patient}/1.2.{accession}/{uid}.dcm"
                dense = isinstance(density, float) and density in (3.0, 4.0)
                if (kind, view, spot) in (("2D", "CC", ""), ("2D", "MLO", 0.0)):
                    save_mammogram(root / "images" / path, len(files), dense)
                files.append({
                    "empi_anon": float(patient), "acc_anon": float(accession), "cohort_num": 1 + number % 2,
                    "study_date_anon": "2013-05-20", "StudyDescription": "MG Screening",
                    "SeriesDescription": f"{side} {view}",
                    "FinalImageType": kind, "ImageLateralityFinal": side, "ViewPosition": view, "spot_mag": spot,
                    "anon_dicom_path": f"/mnt/NAS2/mammo/anon_dicom/{path}", "num_roi": 0, "ROI_coords": "()",
                    "SRC_DST": "", "match_level": "", "Manufacturer": "HOLOGIC, Inc.", "PatientSex": "F",
                })  # fmt: skip
    files.append(files[0])
    files.append({**files[0], "acc_anon": 1.0, "anon_dicom_path": "/mnt/NAS2/mammo/anon_dicom/cohort_1/lost.dcm"})
    table = pd.DataFrame(findings)
    write_csv(root / "tables" / "EMBED_OpenData_clinical_reduced.csv", table.reset_index(names="Unnamed: 0"))
    write_csv(root / "tables" / "EMBED_OpenData_metadata_reduced.csv", pd.DataFrame(files))
    return DataConfig("embed", 50, path=str(root), options=dict(TINY))


SETS: dict[str, Callable[[Path], DataConfig]] = {
    "chexpert": write_chexpert,
    "embed": write_embed,
    "fairvision": write_fairvision,
    "fitzpatrick17k": write_fitzpatrick17k,
    "ham10000": write_ham10000,
    "mimic_cxr": write_mimic_cxr,
}
"""Data sets by name: each fills a folder and returns the configuration that reads it."""
