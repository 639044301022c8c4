"""`data=chexpert`: CheXpert, chest X-rays of Stanford Hospital (Irvin et al. 2019, doi 10.1609/aaai.v33i01.3301590).

A record is an image; the patient stands in its path alone (`patient00001`, wherever in the path that is). Race and
ethnicity are in a table of their own (`CHEXPERT_DEMO.csv`). Labels: `chest_labels.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.chest_labels import ChestLabelOptions, chest_labels
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.frame import column_numbers
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.layout import band_group, cut_problems, first_file, gz, layout_root, size_warning, text_group
from dptrain.cohorts.layout_tables import choice_problems, find_table, left_out, lookup, read_table
from dptrain.cohorts.records import UNKNOWN, Records
from dptrain.cohorts.sources import Source
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

ADVICE = (
    "the folder with train.csv and the folders train and valid (CheXpert-v1.0 or CheXpert-v1.0-small), or the one that "
    "holds it. Register at https://stanfordaimi.azurewebsites.net."
)
VALID = "valid.csv"
DEMOGRAPHICS = ("CHEXPERT_DEMO.csv", "CHEXPERT DEMO.csv")
SPREADSHEET = "CHEXPERT DEMO.xlsx"
PATIENT = re.compile(r"patient\d+", re.IGNORECASE)
VIEWS = ("frontal", "lateral")
GROUPS = ("sex", "age", "race", "ethnicity", "view")
DEMOGRAPHIC_GROUPS = {"race", "ethnicity"}
RACES = (("white", "White"), ("black", "Black"), ("asian", "Asian"), ("other", "Other"), ("pacific", "Other"),
         ("native american", "Other"))  # fmt: skip
"""Text that PRIMARY_RACE contains (`White, non-Hispanic`, `Race and Ethnicity Unknown`, ...) and its group, in order;
anything else is `unknown`."""


@dataclass(frozen=True)
class ChexpertOptions:
    """Options of data=chexpert beside those of labels and images."""

    split: str = "patient"
    """`patient`: dptrain splits the patients of the training file, the official validation patients are not used.
    `official`: they (200, labelled by radiologists, none uncertain) are the test patients."""
    train_file: str = "train.csv"
    """The training table: another one has labels of another labeller (train_cheXbert.csv, train_visualCheXbert.csv)."""
    views: tuple[str, ...] = ("frontal",)
    """Which images: frontal, lateral."""
    group_columns: tuple[str, ...] = ("sex", "age", "race", "view")
    """Of sex, age, race, ethnicity, view. Race and ethnicity need CHEXPERT_DEMO.csv."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where ages are cut: public numbers."""

    def __post_init__(self) -> None:
        problems = choice_problems("split", [self.split], ("patient", "official"))
        problems += choice_problems("views", self.views, VIEWS)
        problems += choice_problems("group_columns", self.group_columns, GROUPS)
        problems += cut_problems("data.age_bands", self.age_bands)
        if not self.views:
            problems.append("data.views=[] must name at least one of frontal, lateral.")
        if problems:
            raise ConfigError(problems)


OPTIONS = (ChexpertOptions, ChestLabelOptions, ImageSpec, DecodeOptions)


def read_chexpert(data: DataConfig) -> Records:
    """Images in the order of train.csv, then valid.csv; decoded by `assemble`, for the patients that are wanted."""
    own, label_options, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    folder = layout_root(data.path, gz(own.train_file), ADVICE)
    problems: list[str] = []
    files = [find_table([folder], [own.train_file], problems)]
    if own.split == "official":
        files.append(find_table([folder], [VALID], problems, "data.split=patient does without it."))
    demographics = _demographics(folder, own, problems)
    if problems:
        raise DataError(problems)
    columns = [("Path",), ("Sex",), ("Age",), ("Frontal/Lateral",), ("AP/PA",), *((x,) for x in label_options.labels)]
    tables = [read_table(file, columns) for file in files]
    table = pd.concat(tables, ignore_index=True)
    is_test = np.repeat([False, True][: len(tables)], [len(part) for part in tables])
    patient = _patients(table["Path"])

    labels = chest_labels(table, label_options, " and ".join(file.name for file in files))
    view = table["Frontal/Lateral"].str.lower().to_numpy(dtype=np.str_)
    wanted = np.isin(view, own.views)
    rows = np.flatnonzero(wanted & labels.usable)
    warnings = left_out(int((wanted & ~labels.usable).sum()), int(wanted.sum()), "none of their labels is known")
    groups, more = _groups(table, patient, own, demographics)
    more += size_warning(data.nominal_patients, len(np.unique(patient[rows])), data.max_patients is not None)
    sources = _sources(table["Path"].to_numpy()[rows], patient[rows], folder)
    return Records(
        task=labels.task, features=undecoded_images(sources, spec, decoding), labels=labels.take(rows),
        patient_ids=patient[rows], label_names=labels.label_names, feature_names=spec.channel_names,
        groups={name: values[rows] for name, values in groups.items()},
        is_test=is_test[rows] if own.split == "official" else None, warnings=(*warnings, *more),
    )  # fmt: skip


def _patients(paths: pd.Series) -> NDArray[np.str_]:
    """`patient00001` of each path, by name: it is at another depth in other releases."""
    found = paths.str.extract(f"({PATIENT.pattern})", flags=re.IGNORECASE)[0].fillna("").str.lower()
    num_without = int((found == "").sum())
    if num_without:
        raise DataError(f"data.path: {num_without} of {len(paths)} values of column 'Path' have no part patientNNNNN.")
    return found.to_numpy(dtype=np.str_)


def _demographics(folder: Path, own: ChexpertOptions, problems: list[str]) -> Path | None:
    """The table with race and ethnicity, None if neither is asked for; adds a problem if it is not there."""
    if not DEMOGRAPHIC_GROUPS & set(own.group_columns):
        return None
    folders = (folder, folder.parent)
    sheet = first_file(folders, [SPREADSHEET])
    advice = f"Save {sheet} as {DEMOGRAPHICS[0]} beside it" if sheet else "Get it from the site of the images"
    advice += ", or leave race and ethnicity out: data.group_columns=[sex,age,view]."
    return find_table(folders, DEMOGRAPHICS, problems, advice)


def _groups(
    table: pd.DataFrame, patient: NDArray[np.str_], own: ChexpertOptions, demographics: Path | None
) -> tuple[dict[str, NDArray[np.str_]], tuple[str, ...]]:
    sex = table["Sex"].where(table["Sex"].str.lower() != UNKNOWN, "")
    age, _ = column_numbers(table["Age"])
    age = np.where(age > 0, age, np.nan)  # 0 is written where the age is not known
    position = table["AP/PA"].where(table["Frontal/Lateral"].str.lower() == "frontal", "lateral")
    values = {"sex": text_group(sex), "age": band_group(age, own.age_bands), "view": text_group(position)}
    warnings: tuple[str, ...] = ()
    if demographics is not None:
        people = read_table(demographics, [("PATIENT",), ("PRIMARY_RACE",), ("ETHNICITY",)])
        people["PATIENT"] = people["PATIENT"].str.lower()
        people = people.drop_duplicates()
        people.loc[people["PATIENT"].duplicated(keep=False), ["PRIMARY_RACE", "ETHNICITY"]] = ""  # rows that disagree
        found = lookup(pd.DataFrame({"PATIENT": patient.astype(object)}), ["PATIENT"], people, demographics.name)
        values["race"] = np.array([_race(text) for text in found["PRIMARY_RACE"]], dtype=np.str_)
        values["ethnicity"] = text_group(found["ETHNICITY"].where(found["ETHNICITY"].str.lower() != UNKNOWN, ""))
        num_without = len(np.unique(patient[~found["found"].to_numpy()]))
        if num_without:
            warnings = (f"{num_without} patients have no row in {demographics.name}: race and ethnicity are unknown.",)
    return {name: values[name] for name in own.group_columns}, warnings


def _race(text: str) -> str:
    lower = text.lower()
    return next((group for part, group in RACES if part in lower), UNKNOWN)


def _sources(paths: NDArray, patient: NDArray[np.str_], folder: Path) -> list[Source]:
    """Files by their path below the folder of train.csv. Where there is no `train` folder the release is the one in
    batches (`CheXpert-v1.0 batch 2 (train 1)/patient00001/...`), and the batch that has the patient is taken."""
    batches: dict[str, Path] = {}
    tails = [PATIENT.split(path.replace("\\", "/"), maxsplit=1)[1].lstrip("/") for path in paths]
    parts = [PATIENT.split(path.replace("\\", "/"), maxsplit=1)[0].rstrip("/").rpartition("/")[2] for path in paths]
    for part in sorted(set(parts)):
        if part and not (folder / part).is_dir() and not batches:
            batches = _batches(folder)
    sources = []
    for part, name, tail in zip(parts, patient.tolist(), tails, strict=True):
        base = folder / part if not part or (folder / part).is_dir() else batches.get(name, folder / part)
        sources.append(Source(base / name / tail))
    return sources


def _batches(folder: Path) -> dict[str, Path]:
    """Folder that holds each patient, of those beside or inside the folder of train.csv."""
    homes = [home for base in (folder, folder.parent) for home in sorted(base.iterdir()) if home.is_dir()]
    found: dict[str, Path] = {}
    for home in homes:
        for entry in home.iterdir():
            if PATIENT.fullmatch(entry.name):
                found.setdefault(entry.name.lower(), home)
    return found
