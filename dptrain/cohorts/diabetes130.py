"""`data=diabetes130`: UCI Diabetes 130-US hospitals 1999-2008 (Strack et al. 2014, doi 10.1155/2014/781670).

A record is an encounter; 16,773 of the 71,518 patients have several. The label is readmission within 30 days.
Encounters that end in death or hospice cannot be readmitted and are excluded. Constants: `diabetes130.yaml`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.encoding import encode, load_constants
from dptrain.cohorts.frame import column_text, missing_columns
from dptrain.cohorts.records import UNKNOWN, Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_options

FILE_NAME = "diabetic_data.csv"
EXCLUDED_DISPOSITIONS = ("11", "13", "14", "19", "20", "21")
"""discharge_disposition_id of encounters that ended in death (11, 19, 20, 21) or hospice (13, 14)."""
ICD9_GROUPS: tuple[tuple[str, int, int], ...] = (
    ("circulatory", 390, 459), ("circulatory", 785, 785),
    ("respiratory", 460, 519), ("respiratory", 786, 786),
    ("digestive", 520, 579), ("digestive", 787, 787),
    ("diabetes", 250, 250),
    ("injury", 800, 999),
    ("musculoskeletal", 710, 739),
    ("genitourinary", 580, 629), ("genitourinary", 788, 788),
    ("neoplasms", 140, 239),
)
"""Groups of three-digit ICD-9 codes, first to last (Strack et al. 2014, Table 2); all others, E and V codes included,
are `other`."""
SPECIALTIES: tuple[tuple[str, str], ...] = (
    ("Cardiology", "cardiology"), ("Family/GeneralPractice", "general practice"),
    ("InternalMedicine", "internal medicine"), ("Surg", "surgery"),
)
"""Start of `medical_specialty` and its group (the groups of Strack et al. 2014, Table 3)."""
CONSTANTS = Path(__file__).with_name("diabetes130.yaml")
_DERIVED = {
    "age_midpoint": "age", "specialty": "medical_specialty", "diagnosis_1": "diag_1", "diagnosis_2": "diag_2",
    "diagnosis_3": "diag_3",
}
"""Feature columns that are computed, and the column they are computed from."""


@dataclass(frozen=True)
class Diabetes130Options:
    """diabetes130 has no settings of its own."""


def read_diabetes130(data: DataConfig) -> Records:
    """Encounters in the order of the file, without those that cannot be readmitted."""
    parse_options(Diabetes130Options, data.options, "data")
    if data.path is None:
        raise ConfigError(
            f"data.path=null must name {FILE_NAME}, the zip it comes in, or a folder with either. Download it from "
            "https://archive.ics.uci.edu/dataset/296 (no registration) and set data.path=THAT_FILE."
        )
    constants = load_constants(CONSTANTS)
    needed = [_DERIVED.get(column, column) for column in constants.columns]
    table = _read(Path(data.path).expanduser(), ["patient_nbr", "readmitted", *needed])
    disposition = column_text(table["discharge_disposition_id"])
    table = table[~np.isin(disposition.astype(np.str_), EXCLUDED_DISPOSITIONS)].reset_index(drop=True)
    age = column_text(table["age"])
    table["age_midpoint"] = [age_midpoint(band) for band in age]
    table["specialty"] = [specialty_group(name) for name in column_text(table["medical_specialty"])]
    for number in ("1", "2", "3"):
        table[f"diagnosis_{number}"] = [icd9_group(code) for code in column_text(table[f"diag_{number}"])]
    name = f"data.name={data.name}"
    features, feature_names = encode(table, constants, name)
    readmitted = column_text(table["readmitted"]).astype(np.str_)
    if not np.isin(readmitted, ("NO", "<30", ">30")).all():
        raise DataError(f"{name}: column 'readmitted' must hold NO, <30 or >30 in every row.")
    gender = _known(table["gender"])
    gender[gender == "Unknown/Invalid"] = UNKNOWN
    return Records(
        task="binary",
        features=features,
        labels=(readmitted == "<30").astype(np.int64),
        patient_ids=column_text(table["patient_nbr"]).astype(np.str_),
        label_names=("not readmitted within 30 days", "readmitted within 30 days"),
        feature_names=feature_names,
        groups={
            "race": _known(table["race"]),
            "gender": gender,
            "age": np.array([age_band(band) for band in age], dtype=np.str_),
        },
    )


def icd9_group(code: str) -> str:
    """Disease group of an ICD-9 code such as 250.83, 427 or V58; '' for a missing one."""
    if not code:
        return ""
    try:
        number = int(float(code))
    except ValueError:
        return "other"
    return next((group for group, first, last in ICD9_GROUPS if first <= number <= last), "other")


def specialty_group(name: str) -> str:
    """Group of the admitting physician's specialty, `unknown` for a missing one."""
    if not name:
        return UNKNOWN
    return next((group for start, group in SPECIALTIES if name.startswith(start)), "other")


def age_band(band: str) -> str:
    """'[70-80)' as '70-79'; `unknown` where there is none."""
    bounds = _bounds(band)
    return f"{bounds[0]}-{bounds[1] - 1}" if bounds else UNKNOWN


def age_midpoint(band: str) -> float:
    """'[70-80)' as 75; NaN where there is none."""
    bounds = _bounds(band)
    return (bounds[0] + bounds[1]) / 2 if bounds else float("nan")


def _bounds(band: str) -> tuple[int, int] | None:
    first, dash, last = band.strip("[)").partition("-")
    return (int(first), int(last)) if dash and first.isdigit() and last.isdigit() else None


def _known(series: pd.Series) -> NDArray[np.str_]:
    text = column_text(series)
    text[text == ""] = UNKNOWN
    return text.astype(np.str_)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.exists():
        raise DataError(f"data.path={path} does not exist.")
    source = _find(path)
    if source is None:
        raise DataError(f"data.path={path} holds no {FILE_NAME}, neither as a file nor inside a zip.")
    file, member = source
    try:
        with _open(file, member) as stream:
            table = pd.read_csv(stream, dtype=str, keep_default_na=False)
    except (ValueError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"data.path={file} cannot be read: {error}.") from error
    problems = missing_columns(file, table.columns.tolist(), list(dict.fromkeys(columns)), "data.path")
    if problems:
        raise DataError(problems)
    return table


@contextmanager
def _open(file: Path, member: str | None) -> Iterator[IO[bytes]]:
    if member is None:
        with file.open("rb") as stream:
            yield stream
    else:
        with zipfile.ZipFile(file) as archive, archive.open(member) as stream:
            yield stream


def _find(path: Path) -> tuple[Path, str | None] | None:
    """(file, None) for the CSV itself, (zip, member) for one inside a zip."""
    if path.is_dir():
        plain = [path / FILE_NAME, *sorted(path.glob(f"*/{FILE_NAME}"))]
        found = next((file for file in plain if file.is_file()), None)
        if found is not None:
            return found, None
        return next(filter(None, map(_find, sorted(path.glob("*.zip")))), None)
    if not zipfile.is_zipfile(path):
        return path, None
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.namelist() if Path(m).name == FILE_NAME and not m.startswith("__MACOSX")]
    return (path, members[0]) if members else None
