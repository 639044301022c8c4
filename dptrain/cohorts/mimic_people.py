"""Who the patients of MIMIC are: sex and age from `patients.csv`, race and insurance from `admissions.csv`.

Both are tables of MIMIC-IV (module hosp), for other MIMIC data sets to join on subject_id. A patient has one row per
stay in `admissions.csv`, and the stays may disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.frame import column_numbers
from dptrain.cohorts.layout import text_group
from dptrain.cohorts.layout_tables import find_table, lookup, read_table
from dptrain.cohorts.records import UNKNOWN, majority
from dptrain.errors import DataError

RACES = (
    ("WHITE", "White"), ("PORTUGUESE", "White"), ("BLACK", "Black"), ("HISPANIC", "Hispanic"),
    ("SOUTH AMERICAN", "Hispanic"), ("ASIAN", "Asian"), ("AMERICAN INDIAN", "Other"), ("NATIVE HAWAIIAN", "Other"),
    ("MULTIPLE RACE", "Other"), ("MULTI RACE", "Other"), ("OTHER", "Other"),
)  # fmt: skip
"""Start of MIMIC's text and its group; UNKNOWN, UNABLE TO OBTAIN, PATIENT DECLINED TO ANSWER are `unknown`."""
FROM_PATIENTS = ("sex", "age")
FROM_ADMISSIONS = ("race", "insurance")
CONFLICTS = ("majority", "unknown")


@dataclass(frozen=True)
class People:
    """Attributes of the patients of N records."""

    sex: NDArray[np.str_]
    age: NDArray[np.float64]
    """(N,) years at the record; NaN where not known. MIMIC writes ages above 89 as 91."""
    race: NDArray[np.str_]
    insurance: NDArray[np.str_]
    warnings: tuple[str, ...] = ()


def race_group(text: str) -> str:
    """White, Black, Hispanic, Asian, Other or unknown."""
    return next((group for start, group in RACES if text.upper().startswith(start)), UNKNOWN)


def mimic_people(
    subject: NDArray[np.str_], year: NDArray[np.float64], groups: Sequence[str], folders: Sequence[Path], conflict: str
) -> People:
    """Attributes of (N,) subjects at the (N,) years of their records, of those that `groups` names.

    `conflict` says what a patient gets whose stays disagree: the value of most stays (`majority`; a tie goes to the
    one that comes first in the file) or `unknown`. Raises DataError that names both tables if one is missing.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    for name, wanted in (("patients.csv", FROM_PATIENTS), ("admissions.csv", FROM_ADMISSIONS)):
        needed = [group for group in wanted if group in groups]
        if needed:
            advice = (f"It is part of MIMIC-IV (folder hosp): set data.mimic_iv=FOLDER, or take {' and '.join(needed)} "
                      "out of data.group_columns.")  # fmt: skip
            files[name] = find_table(folders, [name], problems, advice)
    if problems:
        raise DataError(problems)
    table = pd.DataFrame({"subject_id": subject.astype(object)})
    unknown = np.full(len(subject), UNKNOWN, dtype="<U16")
    sex, age, race, insurance = unknown, np.full(len(subject), np.nan), unknown, unknown
    warnings: list[str] = []
    if (patients := files.get("patients.csv")) is not None:
        people = read_table(patients, [("subject_id",), ("gender",), ("anchor_age",), ("anchor_year",)])
        found = lookup(table, ["subject_id"], people, patients.name)
        names = {"F": "female", "M": "male"}
        sex = text_group(found["gender"].str.upper(), names)
        age = column_numbers(found["anchor_age"])[0] + year - column_numbers(found["anchor_year"])[0]
        age = np.where(age < 0, np.nan, age)
        warnings += _without(subject, found["found"].to_numpy(dtype=bool), patients.name)
    if (admissions := files.get("admissions.csv")) is not None:
        stays = read_table(admissions, [("subject_id",), ("race", "ethnicity"), ("insurance",)])
        ids, place = np.unique(stays["subject_id"].to_numpy(dtype=np.str_), return_inverse=True)
        race_of = _per_patient(np.array([race_group(text) for text in stays["race"]]), place, len(ids), conflict)
        insurance_of = _per_patient(text_group(stays["insurance"]), place, len(ids), conflict)
        if len(ids):
            where = np.clip(np.searchsorted(ids, subject), 0, len(ids) - 1)
            known = ids[where] == subject
            race = np.where(known, race_of[0][where], UNKNOWN)
            insurance = np.where(known, insurance_of[0][where], UNKNOWN)
        else:
            known = np.zeros(len(subject), dtype=bool)
        warnings += _without(subject, known, admissions.name)
        kept = "the value of most stays" if conflict == "majority" else "unknown"
        for name, (_, mixed) in (("race", race_of), ("insurance", insurance_of)):
            count = int(np.isin(ids[mixed], subject).sum())
            if count and name in groups:
                warnings.append(f"Group {name!r}: {count} patients have stays that disagree; each counts as {kept} "
                                f"(data.conflict={conflict}).")  # fmt: skip
    return People(sex, age, race, insurance, tuple(warnings))


def _per_patient(
    values: NDArray[np.str_], place: NDArray[np.int64], count: int, conflict: str
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """((P,) value of each patient, (P,) whether known values of its stays differ)."""
    chosen, _ = majority(values, place, count)
    mixed = np.zeros(count, dtype=bool)
    mixed[place[(values != UNKNOWN) & (values != chosen[place])]] = True
    return (chosen if conflict == "majority" else np.where(mixed, UNKNOWN, chosen)), mixed


def _without(subject: NDArray[np.str_], known: NDArray[np.bool_], file: str) -> list[str]:
    count = len(np.unique(subject[~known]))
    return [f"{count} patients have no row in {file}: what it holds is unknown for them."] if count else []
