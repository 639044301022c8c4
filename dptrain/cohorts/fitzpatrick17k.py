"""`data=fitzpatrick17k`: clinical photos of 114 skin conditions with Fitzpatrick skin types (Groh et al. 2021,
doi 10.1109/CVPRW53098.2021.00201).

A record is a photo. There are no patient identifiers, sex, age or official split: the unit of privacy is the image, and
the tool says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.image_index import named_images
from dptrain.cohorts.layout import gz, layout_root, size_warning, text_group
from dptrain.cohorts.layout_tables import choice_problems, find_table, left_out, read_table
from dptrain.cohorts.manifest import some_values
from dptrain.cohorts.npz import UNIT_WARNING
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import near_miss, parse_parts

FILE_NAME = "fitzpatrick17k.csv"
ADVICE = (
    f"the folder with {FILE_NAME} and the images (NAME.jpg with NAME from column md5hash, also in a folder or zip). "
    "Get both by https://github.com/mattgroh/fitzpatrick17k (CC BY-NC-SA 3.0)."
)
CLASSES = {
    "three_partition_label": ("non-neoplastic", "benign", "malignant"),
    "nine_partition_label": (
        "inflammatory", "genodermatoses", "benign dermal", "benign epidermal", "benign melanocyte", "malignant dermal",
        "malignant epidermal", "malignant melanoma", "malignant cutaneous lymphoma",
    ),
}  # fmt: skip
"""Published classes of the two coarse labels."""
CONDITION = "label"
SKIN_TYPES = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI", "-1": ""}
SKIN_TYPE_PAIRS = {"1": "I-II", "2": "I-II", "3": "III-IV", "4": "III-IV", "5": "V-VI", "6": "V-VI", "-1": ""}
GROUPS = {
    "skin_type": ("fitzpatrick_scale", SKIN_TYPES), "skin_type_pair": ("fitzpatrick_scale", SKIN_TYPE_PAIRS),
    "skin_type_centaur": ("fitzpatrick_centaur", SKIN_TYPES), "nine_partition_label": ("nine_partition_label", {}),
    "three_partition_label": ("three_partition_label", {}),
}  # fmt: skip
"""Group attributes, the column of each, and names for its values; -1 is unknown."""


@dataclass(frozen=True)
class Fitzpatrick17kOptions:
    """Options of data=fitzpatrick17k beside those of images."""

    label: str = "three_partition_label"
    """three_partition_label, nine_partition_label, or label (114 conditions)."""
    positive: tuple[str, ...] = ()
    """Values that count as 1, all others as 0: [malignant]. []: all classes."""
    exclude_qc: tuple[str, ...] = ()
    """Leave out photos with these values of qc (504 were checked by dermatologists), such as 3 Wrongly labelled."""
    group_columns: tuple[str, ...] = ("skin_type",)
    """Of skin_type (I to VI), skin_type_pair (I-II, III-IV, V-VI), skin_type_centaur (the second annotation),
    nine_partition_label, three_partition_label."""
    images: str | None = None
    """Folder or zip of the images; null looks in data.path and in the folders and zips there, two levels deep."""

    def __post_init__(self) -> None:
        problems = choice_problems("label", [self.label], (*CLASSES, CONDITION))
        problems += choice_problems("group_columns", self.group_columns, tuple(GROUPS))
        if self.label in CLASSES:
            problems += choice_problems("positive", self.positive, CLASSES[self.label])
            if len(set(self.positive)) == len(CLASSES[self.label]):
                problems.append("data.positive names every class: leave out those that count as 0.")
        if problems:
            raise ConfigError(problems)


OPTIONS = (Fitzpatrick17kOptions, ImageSpec, DecodeOptions)


def read_fitzpatrick17k(data: DataConfig) -> Records:
    """Photos in the order of the table; decoded by `assemble`, and only those that are wanted."""
    own, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    folder = layout_root(data.path, gz(FILE_NAME), ADVICE)
    problems: list[str] = []
    file = find_table([folder], [FILE_NAME], problems)
    needed = dict.fromkeys(["md5hash", own.label, *(GROUPS[name][0] for name in own.group_columns)])
    table = read_table(file, [*((name,) for name in needed), *([("qc",)] if own.exclude_qc else [])])
    total = len(table)
    if own.exclude_qc:
        problems += [
            f"data.exclude_qc={value!r} does not occur in column 'qc'{near_miss(value, set(table['qc']))}: "
            f"{some_values(sorted(set(table['qc']) - {''}))}."
            for value in own.exclude_qc if value not in set(table["qc"])
        ]  # fmt: skip
        table = table[~table["qc"].isin(own.exclude_qc)].reset_index(drop=True)
    if (table["md5hash"] == "").any():
        problems.append(f"data.path: {file.name} has rows without md5hash.")
    task, labels, names, outside_dp = _labels(table, own, file.name, problems)
    if problems:
        raise DataError(problems)
    image = table["md5hash"].to_numpy(dtype=np.str_)
    sources = named_images(folder, own.images, image.tolist())
    warnings = left_out(total - len(table), total, f"data.exclude_qc={list(own.exclude_qc)}")
    warnings += size_warning(data.nominal_patients, len(np.unique(image)), data.max_patients is not None)
    groups = {name: text_group(table[column], values) for name, (column, values) in GROUPS.items()
              if name in own.group_columns}  # fmt: skip
    return Records(
        task=task, features=undecoded_images(sources, spec, decoding), labels=labels, patient_ids=image,
        label_names=names, feature_names=spec.channel_names, groups=groups, outside_dp=outside_dp,
        warnings=(UNIT_WARNING, *warnings),
    )  # fmt: skip


def _labels(
    table: pd.DataFrame, own: Fitzpatrick17kOptions, file: str, problems: list[str]
) -> tuple[Task, NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    """(task, labels, names, what epsilon does not cover)."""
    text = table[own.label]
    outside_dp: tuple[str, ...] = ()
    classes = CLASSES.get(own.label)
    if classes is None:
        classes = tuple(sorted(set(text) - {""}))
        if not own.positive:
            outside_dp = (f"The {len(classes)} conditions were listed from column 'label' of {file}; epsilon does not "
                          "cover the list.",)  # fmt: skip
        problems += choice_problems("positive", own.positive, classes)
    codes = pd.Index(classes).get_indexer(pd.Index(text)).astype(np.int64)
    if (codes < 0).any():
        problems.append(
            f"data.path: {file} has {int((codes < 0).sum())} values in column {own.label!r} outside "
            f"{', '.join(classes[:12])}: {some_values(text[codes < 0].tolist())}."
        )
    if not own.positive:
        return "multiclass", codes, classes, outside_dp
    named = " or ".join(own.positive)
    return "binary", text.isin(own.positive).to_numpy(dtype=np.int64), (f"not {named}", named), ()
