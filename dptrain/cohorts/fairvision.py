"""`data=fairvision`: Harvard-FairVision, eye images with demographics (Luo et al. 2023, arXiv:2310.02492).

Three sets of 10,000 patients each (glaucoma, diabetic retinopathy, age-related macular degeneration), one scanning
laser ophthalmoscopy (SLO) fundus image per patient. The OCT volumes beside them are not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.fairvision_files import FOLDERS, TABLE_KEYS, Patients, disease_files
from dptrain.cohorts.frame import column_numbers
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.layout import band_group, cut_problems, size_warning, text_group
from dptrain.cohorts.layout_tables import choice_problems, left_out
from dptrain.cohorts.manifest import some_values
from dptrain.cohorts.records import Records
from dptrain.cohorts.sources import Source
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

ADVICE = (
    "the folder with Glaucoma, DR and AMD, or one of these. Get it by "
    "https://github.com/Harvard-Ophthalmology-AI-Lab/FairVision (CC BY-NC-ND 4.0)."
)
ALL = "all"
LABEL_NAMES = {
    "glaucoma": ("no glaucoma", "glaucoma"),
    "dr": ("no vision-threatening DR", "vision-threatening DR"),
    "amd": ("no AMD", "early AMD", "intermediate AMD", "late AMD"),
    ALL: ("healthy", "non-vision-threatening DR", "vision-threatening DR", "glaucoma", "early AMD", "intermediate AMD",
          "late AMD"),
}  # fmt: skip
"""Classes of each set, as its authors define them, and of all together, as in the study of Knolle et al. 2026."""
LABELS: dict[str, dict[str, tuple[int, int]]] = {
    "glaucoma": {"0": (0, 0), "no": (0, 0), "1": (1, 3), "yes": (1, 3)},
    "dr": {
        "not.in.icd.table": (0, 0), "no.dr.diagnosis": (0, 0), "no dr": (0, 0), "normal": (0, 0),
        "mild.npdr": (0, 1), "moderate.npdr": (0, 1), "non-vision threatening dr": (0, 1),
        "non-vision-threatening dr": (0, 1), "non vision threatening dr": (0, 1), "severe.npdr": (1, 2), "pdr": (1, 2),
        "vision threatening dr": (1, 2), "vision-threatening dr": (1, 2),
    },
    "amd": {
        "not.in.icd.table": (0, 0), "no.amd.diagnosis": (0, 0), "normal": (0, 0), "no amd": (0, 0),
        "early.dry": (1, 4), "early amd": (1, 4), "intermediate.dry": (2, 5), "intermediate amd": (2, 5),
        "advanced.atrophic.dry.with.subfoveal.involvement": (3, 6),
        "advanced.atrophic.dry.without.subfoveal.involvement": (3, 6),
        "wet.amd.active.choroidal.neovascularization": (3, 6), "wet.amd.inactive.choroidal.neovascularization": (3, 6),
        "wet.amd.inactive.scar": (3, 6), "late amd": (3, 6),
    },
}  # fmt: skip
"""Text of .npz entry or table, and its class in the disease's own set and in all together."""
NAMES: dict[str, Mapping[str, str]] = {
    "race": {"0": "Asian", "1": "Black", "2": "White", "asian": "Asian", "black": "Black", "white": "White",
             "black or african american": "Black", "white or caucasian": "White"},
    "gender": {"0": "female", "1": "male"},
    "ethnicity": {"0": "non-hispanic", "1": "hispanic"},
    "language": {"0": "english", "1": "spanish", "2": "others"},
    "maritalstatus": {"0": "married or partnered", "1": "single", "2": "divorced", "3": "widowed",
                      "4": "legally separated"},
}  # fmt: skip
"""Codes of the .npz entries; the table has text."""
SPLITS = ("official", "patient")
IMAGES = ("npz", "jpg")
NPZ_RANGE = (0.0, 255.0)
"""The documentation says that the images in the .npz are scaled to it, whatever their type."""


@dataclass(frozen=True)
class FairvisionOptions:
    """Options of data=fairvision beside those of images."""

    disease: str = "glaucoma"
    """glaucoma, dr, amd, or all: the three sets together with seven classes."""
    image: str = "npz"
    """`npz`: the fundus image in the .npz, 200 x 200. `jpg`: the larger one beside it (slo_fundus_NNNNN.jpg)."""
    split: str = "official"
    """`official`: Training and Validation are training patients, Test (3,000 per set) test patients. `patient`: dptrain
    splits."""
    attributes: str = "auto"
    """Where labels and groups come from: data_summary_DISEASE.csv (`table`), the .npz files (`npz`, has no age), or the
    table if there is one (`auto`)."""
    group_columns: tuple[str, ...] = ("race", "gender", "ethnicity")
    """Of race, gender, ethnicity, age, language, maritalstatus, disease."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where ages are cut: public numbers."""

    def __post_init__(self) -> None:
        problems = choice_problems("disease", [self.disease], (*FOLDERS, ALL))
        problems += choice_problems("image", [self.image], IMAGES)
        problems += choice_problems("split", [self.split], SPLITS)
        problems += choice_problems("attributes", [self.attributes], ("auto", "table", "npz"))
        problems += choice_problems("group_columns", self.group_columns, (*TABLE_KEYS, "disease"))
        problems += cut_problems("data.age_bands", self.age_bands)
        if problems:
            raise ConfigError(problems)


OPTIONS = (FairvisionOptions, ImageSpec, DecodeOptions)


def read_fairvision(data: DataConfig) -> Records:
    """One image per patient, by set, part and number; decoded by `assemble`, for the patients that are wanted."""
    own, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    if data.path is None:
        raise ConfigError(f"data.path=null must name {ADVICE}")
    root = Path(data.path).expanduser()
    if not root.is_dir():
        raise DataError(f"data.path={data.path} is not a folder; it must name {ADVICE}")
    diseases = tuple(FOLDERS) if own.disease == ALL else (own.disease,)
    found = {disease: disease_files(root, disease, own.attributes) for disease in diseases}
    broken = [line for patients in found.values() for line in patients.broken]
    if broken and decoding.on_error == "stop":
        raise DataError([f"{len(broken)} .npz files cannot be read. Repair them, use data.attributes=table, or set "
                         "data.on_error=skip to leave them out.", *(f"  {line}" for line in broken)])  # fmt: skip
    table = pd.concat(
        [_table(patients, disease) for disease, patients in found.items()], ignore_index=True
    )  # fmt: skip
    labels = _labels(table, own.disease)
    known = labels >= 0
    warnings = left_out(int((~known).sum()), len(table), "their label is not known or their file is broken")
    table, labels = table[known].reset_index(drop=True), labels[known]
    ids = table["patient"].to_numpy(dtype=np.str_)
    warnings += size_warning(data.nominal_patients, len(np.unique(ids)), data.max_patients is not None)
    if own.disease == ALL:
        warnings += (
            "The three sets number their patients apart: whoever is in two of them counts as two patients here and is "
            "protected less than epsilon says.",
        )
    if own.image == "npz" and spec.window is None:
        spec = dataclasses.replace(spec, window=NPZ_RANGE)
    return Records(
        task="binary" if len(LABEL_NAMES[own.disease]) == 2 else "multiclass",
        features=undecoded_images([_source(file, own.image) for file in table["file"]], spec, decoding), labels=labels,
        patient_ids=ids, label_names=LABEL_NAMES[own.disease], feature_names=spec.channel_names,
        groups={name: _group(table[name], name, own) for name in own.group_columns},
        is_test=(table["part"] == "test").to_numpy() if own.split == "official" else None, warnings=warnings,
    )  # fmt: skip


def _table(patients: Patients, disease: str) -> pd.DataFrame:
    numbers = [file.stem.removeprefix("data_") for file in patients.files]
    return patients.attributes.assign(
        file=pd.Series(list(patients.files), dtype=object), part=list(patients.parts), disease=disease,
        patient=[f"{disease}_{number}" for number in numbers],
    )  # fmt: skip


def _labels(table: pd.DataFrame, disease: str) -> NDArray[np.int64]:
    """(N,) classes, -1 where not known."""
    column = int(disease == ALL)
    text = table["label"].str.lower()
    labels = np.full(len(table), -1, dtype=np.int64)
    problems = []
    for name in FOLDERS:
        rows = (table["disease"] == name).to_numpy()
        codes = text[rows].map({key: codes[column] for key, codes in LABELS[name].items()})
        wrong = (codes.isna() & (text[rows] != "")).to_numpy()
        if wrong.any():
            problems.append(
                f"data.disease={name}: {int(wrong.sum())} labels are none of {', '.join(LABELS[name])}: "
                f"{some_values(text[rows][wrong].tolist())}."
            )
        labels[rows] = codes.fillna(-1).to_numpy(dtype=np.int64)
    if problems:
        raise DataError(problems)
    return labels


def _group(series: pd.Series, name: str, own: FairvisionOptions) -> NDArray[np.str_]:
    if name == "age":
        return band_group(column_numbers(series)[0], own.age_bands)
    text = series.str.lower()
    return text_group(text.where(text != "unknown", ""), NAMES.get(name))


def _source(file: Path, image: str) -> Source:
    """The fundus image: a member of the .npz, which is a zip, or the photo beside it under either of its names."""
    if image == "npz":
        return Source(file, "slo_fundus.npy")
    number = file.stem.removeprefix("data_")
    names = [file.with_name(f"{start}{number}.jpg") for start in ("slo_fundus_", "slo_")]
    return Source(next((name for name in names if name.exists()), names[0]))
