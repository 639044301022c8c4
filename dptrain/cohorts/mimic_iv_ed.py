"""`data=mimic_iv_ed`: emergency visits of the MIMIC-IV-ED benchmark (Xie et al. 2022, doi 10.1038/s41597-022-01782-9).

A record is a visit of an adult; 418,007 of 201,213 patients. Filters and features of each task are the benchmark's
(github.com/nliulab/mimic4ed-benchmark); its split is not: it is by visit, so most patients with several visits are on
both sides. Here visits are put together and split by patient. Constants: `mimic_iv_ed.yaml`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.columns import TRUTH
from dptrain.cohorts.encoding import Constants, encode, load_constants
from dptrain.cohorts.frame import column_numbers, column_text, read_columns, read_header
from dptrain.cohorts.layout import band_group, cut_problems, first_file, gz, layout_root, size_warning, text_group
from dptrain.cohorts.layout_tables import choice_problems, left_out
from dptrain.cohorts.manifest import some_values
from dptrain.cohorts.mimic_people import race_group
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import near_miss, parse_options

MASTER, TRAIN, TEST = "master_dataset.csv", "train.csv", "test.csv"
ADVICE = (
    f"the folder with the benchmark's {MASTER} (better), or {TRAIN} and {TEST}. Make them from MIMIC-IV and "
    "MIMIC-IV-ED (physionet.org, credentialed access) with github.com/nliulab/mimic4ed-benchmark."
)
CONSTANTS = Path(__file__).with_name("mimic_iv_ed.yaml")
GROUPS = ("sex", "age", "race", "insurance")
NAMES = {"gender": ("gender", "gender_x", "gender_y"), "race": ("race", "ethnicity", "race_x", "race_y"),
         "insurance": ("insurance",)}  # fmt: skip
"""Columns of group attributes, under the names that versions gave them."""
MOMENTS = ("triage", "discharge")
REVISIT = "outcome_ed_revisit_"
"""Outcomes that start so are predicted at discharge, for visits that did not end in an admission."""
FILTERS = ("ed_death", "before_ed_mortality", "outcome_hospitalization")
FAHRENHEIT_ABOVE = 50.0
"""A temperature above is in degrees Fahrenheit: master_dataset.csv has those, train.csv and test.csv Celsius."""


@dataclass(frozen=True)
class Vital:
    """Public limits of a vital sign: of errors (the benchmark's), and of what the model sees (physiology)."""

    error_low: float
    error_high: float
    low: float
    high: float


VITALS = {
    "temperature": Vital(14.2, 47, 32, 43), "heartrate": Vital(0, 390, 20, 250), "resprate": Vital(0, 330, 4, 60),
    "o2sat": Vital(0, 150, 50, 100), "sbp": Vital(0, 375, 40, 300), "dbp": Vital(0, 375, 20, 200),
    "pain": Vital(0, 10, 0, 10), "acuity": Vital(1, 5, 1, 5),
}  # fmt: skip
"""By the name in the column: triage_temperature, ed_temperature_last. Beyond the first limits a value counts as
missing, beyond the second it is set to the limit."""


@dataclass(frozen=True)
class MimicIvEdOptions:
    """Options of data=mimic_iv_ed."""

    labels: tuple[str, ...] = ("outcome_hospitalization",)
    """Columns outcome_hospitalization, outcome_critical, outcome_icu_transfer_12h, outcome_inhospital_mortality,
    outcome_ed_revisit_3d. Several: multilabel."""
    moment: str | None = None
    """What is known when the model is asked: triage, or discharge (then also the last vital signs, length of stay and
    medications, but not the vital signs of triage). null: discharge for outcome_ed_revisit, triage for all others."""
    min_age: float = 18.0
    """Visits of younger patients are left out, as in the benchmark."""
    group_columns: tuple[str, ...] = GROUPS
    """Of sex, age, race, insurance."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where ages are cut: public numbers."""

    def __post_init__(self) -> None:
        problems = choice_problems("group_columns", self.group_columns, GROUPS)
        problems += cut_problems("data.age_bands", self.age_bands)
        if not self.labels or len(set(self.labels)) < len(self.labels):
            problems.append(f"data.labels={list(self.labels)} must name at least one label, and none twice.")
        late = [label for label in self.labels if label.startswith(REVISIT)]
        if self.moment is None and 0 < len(late) < len(self.labels):
            problems.append(
                f"data.labels={list(self.labels)} mixes outcomes of triage and of discharge: set data.moment=triage or "
                "data.moment=discharge, which says what the model may know."
            )
        if self.moment is not None:
            problems += choice_problems("moment", [self.moment], MOMENTS)
        early = [label for label in self.labels if label not in late]
        if self.moment == "discharge" and early:
            problems.append(
                f"data.moment=discharge, but {', '.join(early)} is decided by then. Leave data.moment out."
            )
        if problems:
            raise ConfigError(problems)

    @property
    def known_at(self) -> str:
        """triage or discharge."""
        return self.moment or ("discharge" if self.labels[0].startswith(REVISIT) else "triage")


def read_mimic_iv_ed(data: DataConfig) -> Records:
    """Visits in the order of the files (train.csv before test.csv), without those that no label applies to."""
    own = parse_options(MimicIvEdOptions, data.options, "data")
    files = _files(data.path)
    constants = _constants(own.known_at)
    table, from_test = _read(files, own, constants)
    age, _ = column_numbers(table["age"])
    labels = _labels(table, own)
    kept = (age >= own.min_age) & ~np.isnan(labels).all(axis=1)
    why = f"younger than {own.min_age:g}, or the benchmark's task leaves them out (deaths in the emergency department"
    why += ", admitted for a revisit)" if own.known_at == "discharge" else ")"
    warnings = [*_split_warning(table, from_test), *left_out(int((~kept).sum()), len(table), why)]
    table, labels, age = table[kept].reset_index(drop=True), labels[kept], age[kept]
    if not len(table):
        raise DataError(
            f"data.name=mimic_iv_ed: no visits are left of {len(kept)}. Check data.min_age and data.labels."
        )
    features, feature_names = encode(_clean(table, constants), constants, "data.name=mimic_iv_ed")
    patient_ids = column_text(table["subject_id"]).astype(np.str_)
    if "insurance" in own.group_columns:
        warnings.append(
            "Group 'insurance' is known for admitted visits only: `unknown` means a patient without admission, so the "
            "group depends on the outcome."
        )
    warnings += size_warning(data.nominal_patients, len(np.unique(patient_ids)), data.max_patients is not None)
    task: Task = "multilabel"
    values: NDArray[np.float32] | NDArray[np.int64] = labels
    names = own.labels
    if len(names) == 1:
        short = names[0].removeprefix("outcome_")
        task, values, names = "binary", labels[:, 0].astype(np.int64), (f"no {short}", short)
    return Records(
        task=task, features=features, labels=values, patient_ids=patient_ids, label_names=names,
        feature_names=feature_names, groups=_groups(table, age, own), outside_dp=_outside_dp(from_test),
        warnings=tuple(warnings),
    )  # fmt: skip


def _files(path: str | None) -> list[Path]:
    """master_dataset.csv, or train.csv and test.csv; the latter if data.path names one of them."""
    root = layout_root(path, gz(MASTER, TRAIN), ADVICE)
    master = first_file([root], gz(MASTER))
    named = Path(path).name if path is not None else ""
    if master is not None and named not in gz(TRAIN, TEST):
        return [master]
    parts = [first_file([root], gz(name)) for name in (TRAIN, TEST)]
    missing = [name for name, part in zip((TRAIN, TEST), parts, strict=True) if part is None]
    if missing:
        raise DataError(f"data.path={path}: {root} has no {' and no '.join(missing)}. It must name {ADVICE}")
    return [part for part in parts if part is not None]


def _constants(moment: str) -> Constants:
    """Those of the features that are known at that moment."""
    constants = load_constants(CONSTANTS)
    only_discharge = ("ed_", "n_med")
    vitals_of_triage = tuple(f"triage_{name}" for name in VITALS if name not in ("pain", "acuity"))
    unknown = only_discharge if moment == "triage" else vitals_of_triage
    numeric = {name: value for name, value in constants.numeric.items() if not name.startswith(unknown)}
    return dataclasses.replace(constants, numeric=numeric)


def _read(files: Sequence[Path], own: MimicIvEdOptions, constants: Constants) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """(all visits, (N,) whether a visit was in test.csv). Raises DataError with every column that is missing."""
    header = read_header(files[0])
    outcomes = [name for name in header if name.startswith("outcome_")]
    problems = [
        f"data.labels has {label!r}, which is no column of {files[0]}{near_miss(label, outcomes)}; its outcomes are "
        f"{', '.join(outcomes)}."
        for label in own.labels
        if label not in outcomes
    ]
    used = {name: next((n for n in names if n in header), None) for name, names in NAMES.items()}
    problems += [
        f"data.path={files[0]} has no column {' or '.join(NAMES[name])}. Take {name} out of data.group_columns."
        for name in ("race", "insurance")
        if name in own.group_columns and used[name] is None
    ]
    wanted = ["subject_id", "stay_id", "age", used["gender"] or "gender", *FILTERS]
    wanted += [label for label in own.labels if label in outcomes]
    wanted += [column for column in constants.columns if column != "gender"]
    wanted += [name for group in ("race", "insurance") if group in own.group_columns and (name := used[group])]
    tables = []
    for file in files:
        try:
            tables.append(read_columns(file, wanted))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(list(dict.fromkeys(problems)))
    table = pd.concat(tables, ignore_index=True)
    table = table.rename(columns={name: key for key, name in used.items() if name is not None})
    num_repeated = int(table["stay_id"].duplicated().sum())
    num_empty = int((column_text(table["subject_id"]) == "").sum())
    if num_repeated or num_empty:
        raise DataError(
            f"data.path: {num_repeated} visits (stay_id) are there more than once and {num_empty} have no subject_id. "
            "Were the files made by the same run of the benchmark?"
        )
    return table, np.repeat([file.name.startswith("test") for file in files], [len(part) for part in tables])


def _labels(table: pd.DataFrame, own: MimicIvEdOptions) -> NDArray[np.float32]:
    """(N, L) 0, 1, or NaN where the benchmark's task leaves the visit out."""
    flags = {name: _truth(table[name]) for name in dict.fromkeys((*FILTERS, *own.labels))}
    labels = np.stack([flags[label] for label in own.labels], axis=1).astype(np.float32)
    for index, label in enumerate(own.labels):
        excluded = ("ed_death", "before_ed_mortality", "outcome_hospitalization")
        for name in excluded if label.startswith(REVISIT) else ("ed_death",):
            labels[flags[name] == 1, index] = np.nan
    return labels


def _truth(series: pd.Series) -> NDArray[np.float64]:
    """(N,) 0 or 1. Raises DataError for anything else."""
    values, codes = np.unique(column_text(series).astype(np.str_), return_inverse=True)
    bad = [value for value in values.tolist() if value.lower() not in TRUTH]
    if bad:
        raise DataError(
            f"data.name=mimic_iv_ed: column {series.name!r} must hold True and False, "
            f"found {some_values(bad)}."
        )
    return np.array([TRUTH[value.lower()] for value in values.tolist()])[codes]


def _clean(table: pd.DataFrame, constants: Constants) -> pd.DataFrame:
    """Vital signs in degrees Celsius and within public limits, truth values as 0 and 1."""
    cleaned = {"gender": table["gender"]}
    for column in constants.numeric:
        if column.startswith(("chiefcom_", "cci_", "eci_")):
            text = column_text(table[column])
            cleaned[column] = pd.Series([TRUTH.get(value.lower(), value) if value else np.nan for value in text])
            continue
        numbers, num_bad = column_numbers(table[column])
        vital = next((limits for name, limits in VITALS.items() if name in column.split("_")), None)
        if num_bad and "pain" not in column:  # pain is free text: `unable`, `7-8`
            cleaned[column] = table[column]
            continue
        cleaned[column] = pd.Series(numbers if vital is None else _limited(numbers, column, vital))
    if "ed_los_hours" in cleaned:
        cleaned["ed_los_hours"] = pd.to_numeric(cleaned["ed_los_hours"]).clip(0, 24 * 14)
    return pd.DataFrame(cleaned)


def _limited(numbers: NDArray[np.float64], column: str, vital: Vital) -> NDArray[np.float64]:
    if "temperature" in column:
        numbers = np.where(numbers > FAHRENHEIT_ABOVE, (numbers - 32) * 5 / 9, numbers)
    numbers = np.where((numbers < vital.error_low) | (numbers > vital.error_high), np.nan, numbers)
    return np.clip(numbers, vital.low, vital.high)


def _groups(table: pd.DataFrame, age: NDArray[np.float64], own: MimicIvEdOptions) -> dict[str, NDArray[np.str_]]:
    groups: dict[str, NDArray[np.str_]] = {}
    for name in own.group_columns:
        if name == "age":
            groups[name] = band_group(age, own.age_bands)
        elif name == "sex":
            groups[name] = text_group(table["gender"], {"F": "female", "M": "male"})
        elif name == "race":
            values, codes = np.unique(text_group(table["race"]), return_inverse=True)
            groups[name] = np.array([race_group(value) for value in values.tolist()], dtype=np.str_)[codes]
        else:
            groups[name] = text_group(table[name])
    return groups


def _split_warning(table: pd.DataFrame, from_test: NDArray[np.bool_]) -> list[str]:
    text = "The benchmark splits by visit. dptrain splits by patient instead: performance is not that of its papers."
    if not from_test.any():
        return [text]
    subject = table["subject_id"].to_numpy(dtype=np.str_)
    num_both = len(np.intersect1d(subject[from_test], subject[~from_test]))
    return [f"{text} {num_both} of {len(np.unique(subject))} patients have visits in both train.csv and test.csv."]


def _outside_dp(from_test: NDArray[np.bool_]) -> tuple[str, ...]:
    if not from_test.any():
        return ()
    return (
        "train.csv and test.csv of the benchmark were put together and split again by patient. Before that, missing "
        "vital signs in both had been replaced by means over the visits of train.csv; epsilon does not cover those "
        "means (master_dataset.csv does not have them).",
    )
