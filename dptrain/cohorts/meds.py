"""`data=meds`: any data set in the Medical Event Data Standard (github.com/Medical-Event-Data-Standard/meds).

A record is a prediction: a row of the label files, at its time. Features are counts and last values of the codes that
the configuration names, with public constants; `dptrain constants data=meds ...` writes such a list from the records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.columns import named_columns, records_of
from dptrain.cohorts.encoding import Constants, Numeric, encode, load_constants, parse_constants
from dptrain.cohorts.layout import cut_problems, layout_root, size_warning
from dptrain.cohorts.manifest import ManifestOptions, some_values
from dptrain.cohorts.meds_features import ages, code_group, counts_and_last
from dptrain.cohorts.meds_files import (
    CODES,
    DATA,
    LABEL_VALUES,
    SPLITS,
    Events,
    code_names,
    read_events,
    read_labels,
    read_parents,
    read_splits,
    shards,
)
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_options

ADVICE = (
    f"the folder with {DATA}/ and metadata/. MEDS data sets are made from MIMIC-IV, eICU, OMOP, ... by the tools at "
    "https://github.com/Medical-Event-Data-Standard."
)
BIRTH = "MEDS_BIRTH"
AGE, COUNT, LAST = "age", "count ", "last "
"""Features: age at prediction, and how often a code (or what `*` stands for) was seen, and its last value."""
AGE_CONSTANTS = Numeric(center=55, scale=20, fill=55)
COUNT_CONSTANTS = Numeric(center=0.5, scale=0.5, fill=0, log_offset=1)
GROUP_CODES = {"sex": "GENDER", "race": "RACE"}
SUBJECT, SPLIT = "subject_id", "split"


@dataclass(frozen=True)
class MedsOptions:
    """Options of data=meds."""

    label_files: tuple[str, ...] = ()
    """Labels in the standard's schema: a .parquet file, or a folder with some; a relative name starts in data.path.
    Several: multilabel, one label each."""
    label_value: str | None = None
    """boolean_value, integer_value, categorical_value or float_value; null takes the one that has values."""
    classes: tuple[str, ...] | None = None
    """One label that is not 0/1: its values in order (two: binary, negative first; more: multiclass)."""
    positive: str | None = None
    """The value that counts as 1, all others as 0. Not together with `classes`."""
    counts: tuple[str, ...] = ()
    """Features log(1 + events so far) of these codes, of all codes below a parent, or of all that begin so: [I50*]."""
    values: Mapping[str, Any] | None = None
    """Features: last numeric value of a code, {code: {center, scale, fill, log_offset}}; public numbers."""
    age: bool = True
    """Whether age at prediction (from MEDS_BIRTH) is a feature."""
    constants: str | None = None
    """YAML file with source and numeric, instead of `counts`, `values` and `age`; its names are `age`, `count CODE` and
    `last CODE`."""
    window_days: float | None = None
    """Only events in this many days before the prediction, and those without a time; null takes all before it."""
    group_codes: Mapping[str, Any] | None = None
    """{group: start of codes}: the code GENDER//F puts a patient into group F. null has sex: GENDER, race: RACE where
    there are such codes."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where ages at prediction are cut for the group `age`; [] has no such group."""
    train_splits: tuple[str, ...] = ("train", "tuning")
    """Splits of metadata/subject_splits.parquet that are training patients."""
    test_splits: tuple[str, ...] = ("held_out",)
    """Those that are test patients; others are left out. []: dptrain splits, also where there is no such file."""

    def __post_init__(self) -> None:
        problems = cut_problems("data.age_bands", self.age_bands) if self.age_bands else []
        names = [label_name(file) for file in self.label_files]
        if not names or len(set(names)) < len(names):
            problems.append(f"data.label_files={list(self.label_files)} must name at least one, and none twice.")
        if len(names) > 1 and (self.classes is not None or self.positive is not None):
            problems.append("data.classes and data.positive are for one label file; several are 0/1 each.")
        if self.classes is not None and self.positive is not None:
            problems.append("data.classes and data.positive are both set; `classes` already says which is positive.")
        if self.label_value not in (None, *LABEL_VALUES):
            problems.append(f"data.label_value={self.label_value} must be one of {', '.join(LABEL_VALUES)}.")
        if self.constants is not None and (self.counts or self.values):
            problems.append("data.constants and data.counts or data.values are both set; keep one of them.")
        if self.constants is None and not (self.counts or self.values or self.age):
            problems.append("data.counts, data.values and data.constants are empty and data.age=false: no features.")
        if self.window_days is not None and not self.window_days > 0:
            problems.append(f"data.window_days={self.window_days} must be > 0, or null.")
        if AGE in (self.group_codes or {}):
            problems.append("data.group_codes.age: the group `age` is made of MEDS_BIRTH (data.age_bands).")
        if set(self.train_splits) & set(self.test_splits):
            problems.append("data.train_splits and data.test_splits share a value.")
        if problems:
            raise ConfigError(problems)


def label_name(file: str) -> str:
    """Name of a label: that of its file without ending, or of its folder."""
    return Path(file).name.removesuffix(".parquet")


def read_meds(data: DataConfig) -> Records:
    """Predictions in the order of the label files, of patients that the splits name."""
    own = parse_options(MedsOptions, data.options, "data")
    root = meds_root(data.path)
    constants = _constants(own)
    files = shards(root)
    table, warnings = meds_predictions(root, own)
    subjects = np.unique(table[SUBJECT].to_numpy())
    names = list(dict.fromkeys(name.partition(" ")[2] for name in constants.numeric if name != AGE))
    groups = {group: f"{start}//" for group, start in (own.group_codes or GROUP_CODES).items()}
    asked = [*names, *(f"{start}*" for start in groups.values()), BIRTH]
    events = read_events(files, subjects, code_names(asked, read_parents(root)))
    warnings += _occurrence(events, asked[: len(names)], subjects)
    place = np.searchsorted(subjects, table[SUBJECT].to_numpy())
    time = table["time"].to_numpy()
    age = ages(events, len(asked) - 1, place, time)
    features, feature_names = encode(
        _columns(events, constants, names, place, time, age, own), constants, "data.name=meds"
    )
    columns = [label_name(file) for file in own.label_files]
    for index, (group, start) in enumerate(groups.items(), start=len(names)):
        values, num_mixed = code_group(events, index, start, len(subjects))
        if not (events.name == index).any():
            if own.group_codes is None:
                continue
            raise DataError(f"data.group_codes.{group}: no code of these patients begins with {start}.")
        if num_mixed:
            warnings.append(f"Group {group!r}: {num_mixed} patients have several codes; each counts with the one of "
                            "most events (ties: the first).")  # fmt: skip
        table[group] = values[place]
        columns.append(group)
    if own.age_bands:
        table[AGE] = age
    options = ManifestOptions(
        patient_column=SUBJECT, label_columns=tuple(columns[: len(own.label_files)]), classes=own.classes,
        positive=own.positive, split_column=SPLIT if SPLIT in table else None, train_values=own.train_splits,
        test_values=own.test_splits,
        group_columns=(*columns[len(own.label_files) :], *([AGE] if own.age_bands else [])),
        group_bands={AGE: list(own.age_bands)} if own.age_bands else None,
    )  # fmt: skip
    outside_dp = () if constants.is_public else (
        f"Names of codes and constants come from the file {Path(str(own.constants)).name} ({constants.source}); "
        "epsilon does not cover them.",
    )  # fmt: skip
    records = records_of(
        table[named_columns(options)], options, "meds", features, feature_names, outside_dp=outside_dp
    )
    warnings += size_warning(data.nominal_patients, len(subjects), data.max_patients is not None)
    return dataclasses.replace(records, warnings=tuple(warnings))


def meds_root(path: str | None) -> Path:
    """The folder with `data` and `metadata`."""
    return layout_root(path, (CODES, SPLITS, "metadata/dataset.json", DATA), ADVICE)


def _constants(own: MedsOptions) -> Constants:
    if own.constants is None:
        given = parse_constants("public configuration", own.values, None, "data")
        numeric = {AGE: AGE_CONSTANTS} if own.age else {}
        numeric |= {f"{COUNT}{code}": COUNT_CONSTANTS for code in own.counts}
        numeric |= {f"{LAST}{code}": value for code, value in given.numeric.items()}
        return Constants("public configuration", numeric)
    constants = load_constants(Path(own.constants).expanduser())
    bad = [name for name in constants.numeric if name != AGE and not name.startswith((COUNT, LAST))]
    if bad or constants.categorical:
        raise ConfigError(
            f"data.constants={own.constants} has {some_values([*bad, *constants.categorical])}; its names must be age, "
            f"`{COUNT}CODE` or `{LAST}CODE`, below numeric."
        )
    return constants


def meds_predictions(root: Path, own: MedsOptions) -> tuple[pd.DataFrame, list[str]]:
    """subject_id, time, one column per label ('' where not known) and the split, where there is one; warnings."""
    tables: list[pd.DataFrame] = []
    problems: list[str] = []
    warnings: list[str] = []
    for file in own.label_files:
        setting = f"data.label_files={file}"
        try:
            table, column = read_labels(root / Path(file).expanduser(), own.label_value, setting)
        except DataError as error:
            problems += error.problems
            continue
        if column == "float_value" and own.classes is None and own.positive is None:
            problems.append(f"{setting} has float_value: numbers cannot be predicted; data.classes names two or more.")
        table = table[table["value"] != ""].drop_duplicates()
        count = int(table[[SUBJECT, "time"]].duplicated().sum())
        if count:
            problems.append(f"{setting} has {count} predictions of the same patient and time with different values.")
        tables.append(table.rename(columns={"value": label_name(file)}))
    if problems:
        raise DataError(problems)
    table = tables[0]
    for other in tables[1:]:
        table = table.merge(other, on=[SUBJECT, "time"], how="outer")
    table = table.fillna(dict.fromkeys((label_name(file) for file in own.label_files), "")).reset_index(drop=True)
    splits = read_splits(root) if own.test_splits else None
    if splits is None:
        if own.test_splits:
            warnings.append(f"There is no {SPLITS}: dptrain splits by patient (data.test_fraction).")
        return table, warnings
    table[SPLIT] = table[SUBJECT].map(splits)
    used = table[SPLIT].isin([*own.train_splits, *own.test_splits])
    if not used.all():
        others = some_values(sorted({str(value) for value in table[SPLIT][~used].dropna()})) or "no split"
        warnings.append(f"{int((~used).sum())} of {len(table)} predictions are left out: their patients are in neither "
                        f"data.train_splits nor data.test_splits ({others}).")  # fmt: skip
    if not used.any():
        raise DataError(f"{SPLITS} has none of data.train_splits and data.test_splits: {some_values(list(splits))}.")
    return table[used].reset_index(drop=True), warnings


def _columns(
    events: Events, constants: Constants, names: Sequence[str], place: NDArray[np.int64], time: NDArray[np.int64],
    age: NDArray[np.float64], own: MedsOptions,
) -> pd.DataFrame:
    """The columns of the constants, one row per prediction."""
    columns: dict[str, NDArray[np.float64]] = {}
    for index, name in enumerate(names):
        counts, last = counts_and_last(events, index, place, time, own.window_days)
        columns |= {f"{COUNT}{name}": counts, f"{LAST}{name}": last}
    return pd.DataFrame({name: age if name == AGE else columns[name] for name in constants.numeric})


def _occurrence(events: Events, names: Sequence[str], subjects: NDArray[np.int64]) -> list[str]:
    """A warning about names that no event has. Raises DataError if that is all of them."""
    if not len(events.name):
        raise DataError(f"data.path: the shards hold nothing asked for about the {len(subjects)} patients with labels. "
                        "Do labels and data belong together?")  # fmt: skip
    absent = [name for index, name in enumerate(names) if not (events.name == index).any()]
    if absent and len(absent) == len(names):
        raise DataError(f"None of the codes that data.counts, data.values or data.constants names occurs: "
                        f"{some_values(absent)}. Codes are written as in {CODES}, letter by letter.")  # fmt: skip
    warnings = []
    if absent:
        warnings.append(f"{len(absent)} of {len(names)} named codes do not occur, so their features say nothing: "
                        f"{some_values(absent)}.")  # fmt: skip
    num_without = len(subjects) - len(np.unique(events.subject))
    if num_without:
        warnings.append(f"{num_without} of {len(subjects)} patients with labels have none of the events asked for.")
    return warnings
