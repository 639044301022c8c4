"""`data=ham10000`: HAM10000, dermatoscopic images of pigmented lesions (Tschandl et al. 2018,
doi 10.1038/sdata.2018.161).

A record is an image. There are no patient identifiers: the unit of privacy is the lesion (`lesion_id`, 7,470 lesions
of 10,015 images), and the tool says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.frame import column_numbers
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.image_index import named_images
from dptrain.cohorts.layout import band_group, cut_problems, gz, layout_root, size_warning, text_group
from dptrain.cohorts.layout_tables import choice_problems, find_table, read_table
from dptrain.cohorts.manifest import some_values
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata.tsv", "HAM10000_metadata.txt")
BARE_NAME = "HAM10000_metadata"
ADVICE = (
    "the folder with HAM10000_metadata.csv and the images (HAM10000_images_part_1 and _2, unpacked or as zips). Get "
    "them from https://doi.org/10.7910/DVN/DBW86T (CC BY-NC 4.0)."
)
DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Values of dx: actinic keratoses and intraepithelial carcinoma, basal cell carcinoma, benign keratosis-like lesions,
dermatofibroma, melanoma, melanocytic nevi, vascular lesions."""
GROUPS = ("sex", "age", "localization", "dx_type", "dataset")
UNIT_WARNING = (
    "HAM10000 has no patient identifiers: the unit of privacy is the lesion (lesion_id). A patient with several "
    "lesions is protected less than epsilon says."
)


@dataclass(frozen=True)
class Ham10000Options:
    """Options of data=ham10000 beside those of images."""

    positive: tuple[str, ...] = ()
    """Diagnoses that count as 1, all others as 0: [akiec, bcc, mel] are the malignant ones. []: all seven classes."""
    group_columns: tuple[str, ...] = ("sex", "age", "localization")
    """Of sex, age, localization, dx_type, dataset (the last one is not in every release)."""
    age_bands: tuple[float, ...] = (40.0, 60.0)
    """Where ages are cut: public numbers."""
    images: str | None = None
    """Folder or zip of the images; null looks in data.path and in the folders and zips there."""

    def __post_init__(self) -> None:
        problems = choice_problems("positive", self.positive, DIAGNOSES)
        problems += choice_problems("group_columns", self.group_columns, GROUPS)
        problems += cut_problems("data.age_bands", self.age_bands)
        if len(set(self.positive)) == len(DIAGNOSES):
            problems.append("data.positive names every diagnosis: leave out those that count as 0.")
        if problems:
            raise ConfigError(problems)


OPTIONS = (Ham10000Options, ImageSpec, DecodeOptions)


def read_ham10000(data: DataConfig) -> Records:
    """Images in the order of the metadata; decoded by `assemble`, for the lesions that are wanted."""
    own, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    folder = layout_root(data.path, (*gz(*METADATA), BARE_NAME), ADVICE)
    problems: list[str] = []
    file = find_table([folder], METADATA, problems, _advice(folder))
    if problems:
        raise DataError(problems)
    groups = [name for name in own.group_columns if name != "dataset"]
    needed = dict.fromkeys(["lesion_id", "image_id", "dx", *groups])
    dataset = [("dataset",)] if "dataset" in own.group_columns else []
    table = read_table(file, [*((name,) for name in needed), *dataset])
    empty = {name: int((table[name] == "").sum()) for name in ("lesion_id", "image_id")}
    problems = [f"data.path: {file.name} has no {name} in {count} of {len(table)} rows."
                for name, count in empty.items() if count]  # fmt: skip
    repeated = int(table["image_id"].duplicated().sum())
    if repeated:
        problems.append(f"data.path: {file.name} has {repeated} image_id twice. Is it the official file?")
    task, labels, names = _labels(table, own, file, problems)
    if problems:
        raise DataError(problems)
    lesion = table["lesion_id"].to_numpy(dtype=np.str_)
    sources = named_images(folder, own.images, table["image_id"])
    more = size_warning(data.nominal_patients, len(np.unique(lesion)), data.max_patients is not None)
    return Records(
        task=task, features=undecoded_images(sources, spec, decoding), labels=labels, patient_ids=lesion,
        label_names=names, feature_names=spec.channel_names,
        groups={name: _group(table[name], name, own) for name in own.group_columns}, warnings=(UNIT_WARNING, *more),
    )  # fmt: skip


def _advice(folder: Path) -> str:
    """The site serves the table under a name without an ending."""
    if not (folder / BARE_NAME).is_file():
        return ""
    return f"Rename {BARE_NAME} to {METADATA[0]}."


def _labels(
    table: pd.DataFrame, own: Ham10000Options, file: Path, problems: list[str]
) -> tuple[Task, NDArray[np.int64], tuple[str, ...]]:
    dx = table["dx"].str.lower()
    codes = pd.Index(DIAGNOSES).get_indexer(pd.Index(dx)).astype(np.int64)
    if (codes < 0).any():
        problems.append(
            f"data.path: {file.name} has {int((codes < 0).sum())} values in column 'dx' outside "
            f"{', '.join(DIAGNOSES)}: {some_values(dx[codes < 0].tolist())}."
        )
    if not own.positive:
        return "multiclass", codes, DIAGNOSES
    labels = np.isin(dx.to_numpy(dtype=np.str_), own.positive).astype(np.int64)
    named = " or ".join(own.positive)
    return "binary", labels, (f"not {named}", named)


def _group(series: pd.Series, name: str, own: Ham10000Options) -> NDArray[np.str_]:
    if name != "age":
        return text_group(series.str.lower())
    years, _ = column_numbers(series)
    return band_group(np.where(years > 0, years, np.nan), own.age_bands)  # 0 is written where the age is not known
