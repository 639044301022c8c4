"""`data=mimic_cxr`: MIMIC-CXR-JPG, chest X-rays of Beth Israel Deaconess (Johnson et al. 2019, doi 10.13026/jsn5-t979).

A record is an image; labels belong to its study (`chest_labels.py`), sex, age, race and insurance to its patient
(`mimic_people.py`, from MIMIC-IV). The official split is by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.chest_labels import ChestLabelOptions, chest_labels
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.frame import column_numbers
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.layout import band_group, cut_problems, gz, layout_root, size_warning
from dptrain.cohorts.layout_tables import choice_problems, find_table, left_out, lookup, read_table
from dptrain.cohorts.mimic_people import CONFLICTS, mimic_people
from dptrain.cohorts.records import Records
from dptrain.cohorts.sources import Source, locate
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

ADVICE = (
    "the folder with mimic-cxr-2.0.0-metadata.csv.gz, -split, -chexpert or -negbio, and files/p10/... Get it from "
    "https://physionet.org/content/mimic-cxr-jpg/ (credentialed access)."
)
VERSIONS = ("2.0.0", "2.1.0")
LABELLERS = ("chexpert", "negbio")
GROUPS = ("sex", "age", "race", "insurance", "view")
PARTS = {"train": False, "validate": False, "test": True}
"""Values of the official split, and whether they mean test patients."""
VIEWS = {"LATERAL": "LATERAL", "LL": "LATERAL", "AP": "AP", "PA": "PA"}
"""ViewPosition and its group; others (AP AXIAL, LAO, XTABLE LATERAL, SWIMMERS, blank, ...) are `other`."""


@dataclass(frozen=True)
class MimicCxrOptions:
    """Options of data=mimic_cxr beside those of labels and images."""

    split: str = "official"
    """`official`: train and validate are training patients, test (293) are test patients. `patient`: dptrain splits."""
    labels_from: str = "chexpert"
    """Which labeller: chexpert or negbio."""
    views: tuple[str, ...] = ("AP", "PA")
    """Which images by ViewPosition; [] takes all."""
    group_columns: tuple[str, ...] = ("sex", "age", "race", "insurance", "view")
    """Of sex, age, race, insurance, view. Sex and age need patients.csv, race and insurance admissions.csv."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where ages are cut: public numbers."""
    conflict: str = "majority"
    """Race or insurance of patients whose stays disagree: that of most stays (`majority`), or `unknown`."""
    mimic_iv: str | None = None
    """Folder of MIMIC-IV (or its hosp) with patients.csv and admissions.csv; null looks in data.path."""
    files: str | None = None
    """Folder or zip that the paths p10/p10000032/... start in; null takes `files` in data.path."""
    suffix: str = ".jpg"
    """Ending of the images: another one for converted copies."""

    def __post_init__(self) -> None:
        problems = choice_problems("split", [self.split], ("official", "patient"))
        problems += choice_problems("labels_from", [self.labels_from], LABELLERS)
        problems += choice_problems("group_columns", self.group_columns, GROUPS)
        problems += choice_problems("conflict", [self.conflict], CONFLICTS)
        problems += cut_problems("data.age_bands", self.age_bands)
        if problems:
            raise ConfigError(problems)


OPTIONS = (MimicCxrOptions, ChestLabelOptions, ImageSpec, DecodeOptions)


def read_mimic_cxr(data: DataConfig) -> Records:
    """Images in the order of the metadata; decoded by `assemble`, for the patients that are wanted."""
    own, label_options, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    folder = layout_root(data.path, gz(*_names("metadata")), ADVICE)
    metadata, split, labels_file = _tables(folder, own)
    table = read_table(metadata, [("dicom_id",), ("subject_id",), ("study_id",), ("ViewPosition",), ("StudyDate",)])
    name = f"data.path: {metadata.name}"
    num_repeated = int(table["dicom_id"].duplicated().sum())
    if num_repeated:
        raise DataError(f"{name} has {num_repeated} dicom_id twice. Is it the official file?")
    view = table["ViewPosition"].str.upper()
    wanted = view.isin([v.upper() for v in own.views]).to_numpy() if own.views else np.ones(len(table), dtype=bool)
    if not wanted.any():
        raise DataError(f"data.views={list(own.views)} leaves no image; {metadata.name} has "
                        f"{', '.join(sorted(set(view) - {''}))}.")  # fmt: skip
    table = table[wanted].reset_index(drop=True)

    studies = read_table(labels_file, [("subject_id",), ("study_id",), *((label,) for label in label_options.labels)])
    found = lookup(table, ["subject_id", "study_id"], studies, labels_file.name)
    labels = chest_labels(found, label_options, labels_file.name)
    usable = labels.usable & found["found"].to_numpy(dtype=bool)
    why = f"their study has no row in {labels_file.name}, or none of their labels is known"
    warnings = left_out(int((~usable).sum()), len(table), why)
    is_test = _split(table, split) if split is not None else None
    rows = np.flatnonzero(usable)
    table = table.loc[rows].reset_index(drop=True)
    subject = table["subject_id"].to_numpy(dtype=np.str_)
    groups, more = _groups(table, subject, own, folder)
    more += size_warning(data.nominal_patients, len(np.unique(subject)), data.max_patients is not None)
    return Records(
        task=labels.task, features=undecoded_images(_sources(table, folder, own), spec, decoding),
        labels=labels.take(rows), patient_ids=subject, label_names=labels.label_names,
        feature_names=spec.channel_names, groups=groups, is_test=None if is_test is None else is_test[rows],
        warnings=(*warnings, *more),
    )  # fmt: skip


def _names(part: str) -> list[str]:
    return [f"mimic-cxr-{version}-{part}.csv" for version in VERSIONS]


def _tables(folder: Path, own: MimicCxrOptions) -> tuple[Path, Path | None, Path]:
    """Metadata, split (None if dptrain splits) and labels; raises DataError with all that are missing."""
    problems: list[str] = []
    metadata, labels = (find_table([folder], _names(part), problems) for part in ("metadata", own.labels_from))
    split = find_table([folder], _names("split"), problems) if own.split == "official" else None
    if problems:
        raise DataError(problems)
    return metadata, split, labels


def _split(table: pd.DataFrame, file: Path) -> NDArray[np.bool_]:
    parts = read_table(file, [("dicom_id",), ("split",)])
    found = lookup(table, ["dicom_id"], parts, file.name)["split"].str.lower()
    outside = ~found.isin(list(PARTS))
    if outside.any():
        raise DataError(
            f"data.path: {int(outside.sum())} images have no row in {file.name}, or another value there than "
            f"{', '.join(PARTS)}. Is it of the same release as the metadata?"
        )
    return found.map(PARTS).to_numpy(dtype=bool)


def _groups(
    table: pd.DataFrame, subject: NDArray[np.str_], own: MimicCxrOptions, folder: Path
) -> tuple[dict[str, NDArray[np.str_]], tuple[str, ...]]:
    year, _ = column_numbers(table["StudyDate"].str[:4])
    folders: Sequence[Path] = (folder, folder / "hosp", folder / "core")
    if own.mimic_iv is not None:
        root = Path(own.mimic_iv).expanduser()
        folders = (root, root / "hosp", root / "core")
    people = mimic_people(subject, year, own.group_columns, folders, own.conflict)
    values = {
        "sex": people.sex, "age": band_group(people.age, own.age_bands), "race": people.race,
        "insurance": people.insurance,
        "view": np.array([VIEWS.get(text.upper(), "other") for text in table["ViewPosition"]], dtype=np.str_),
    }  # fmt: skip
    return {name: values[name] for name in own.group_columns}, people.warnings


def _sources(table: pd.DataFrame, folder: Path, own: MimicCxrOptions) -> list[Source]:
    """`files/p10/p10000032/s50414267/<dicom_id>.jpg`."""
    root = folder / "files"
    if own.files is not None:
        root = folder / Path(own.files).expanduser()
    if not root.exists():
        raise DataError(
            f"data.path: there is no {root}, where the images p10/... should be. Set data.files=FOLDER_OR_ZIP."
        )
    ids = zip(table["subject_id"], table["study_id"], table["dicom_id"], strict=True)
    return [locate(root, f"p{subject[:2]}/p{subject}/s{study}/{image}{own.suffix}") for subject, study, image in ids]
