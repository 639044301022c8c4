"""`data=table`: your own table, one row per record, named column by column in the configuration.

Features are scaled and coded by public constants: inline (`data.numeric`, `data.categorical`) or from a file
(`data.constants`). `dptrain constants` writes such a file from the private records; the privacy statement then says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.encoding import Constants, encode, load_constants, parse_constants
from dptrain.cohorts.frame import column_text, read_columns
from dptrain.cohorts.records import UNKNOWN, Records, unique_id_warning
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_options

TRUTH = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
"""Label values that need no explanation, in lower case."""


@dataclass(frozen=True)
class TableOptions:
    """Options of data=table."""

    patient_column: str | None = None
    """Column that identifies the patient: rows with the same value are records of one patient."""
    label_columns: tuple[str, ...] = ()
    """One column: binary or multiclass. Several: one 0/1 label each (multilabel), empty where not known."""
    classes: tuple[str, ...] | None = None
    """One label column: its values in order (binary: negative, positive). A public vocabulary."""
    positive: str | None = None
    """The label value that counts as 1; all others count as 0. Not together with `classes`."""
    group_columns: tuple[str, ...] = ()
    """Attributes by which risk and performance are broken down (sex, race, site); empty cells are `unknown`."""
    numeric: Mapping[str, Any] | None = None
    """Numeric features: {column: {center: ..., scale: ..., fill: ..., log_offset: ...}}; public numbers."""
    categorical: Mapping[str, Any] | None = None
    """Categorical features: {column: [levels]} or {column: {levels: [...], baseline: ...}}; public vocabularies."""
    constants: str | None = None
    """YAML file with source, numeric and categorical, instead of the two fields above."""
    split_column: str | None = None
    """Column that says train or test; null lets dptrain split by patient."""
    train_values: tuple[str, ...] = ("train",)
    """Values of `split_column` that mean training."""
    test_values: tuple[str, ...] = ("test",)
    """Values of `split_column` that mean test."""
    delimiter: str | None = None
    """Delimiter of a text file; null takes the one of tab , ; | that the header has most of."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.patient_column:
            problems.append(
                "data.patient_column=null must name the column that identifies the patient. If every row is another "
                "patient, name any column that is different in every row."
            )
        if not self.label_columns:
            problems.append("data.label_columns=[] must name at least one column to predict.")
        if self.classes is not None and self.positive is not None:
            problems.append("data.classes and data.positive are both set; `classes` already says which is positive.")
        if self.classes is not None and len(self.label_columns) > 1:
            problems.append("data.classes is for one label column; several are 0/1 each (or use data.positive).")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            problems.append(f"data.classes={list(self.classes)} must name at least two classes, and none twice.")
        if set(self.train_values) & set(self.test_values):
            problems.append("data.train_values and data.test_values share a value.")
        if self.constants is not None and (self.numeric or self.categorical):
            problems.append("data.constants and data.numeric or data.categorical are both set; keep one of them.")
        if self.delimiter is not None and len(self.delimiter) != 1:
            problems.append(f"data.delimiter={self.delimiter!r} must be a single character or null.")
        if problems:
            raise ConfigError(problems)


def read_table(data: DataConfig) -> Records:
    """Records of the file `data.path` in its order."""
    options, path = table_options(data)
    constants = _constants(options, path)
    own = {options.patient_column: "patient_column", options.split_column: "split_column"}
    own |= dict.fromkeys(options.label_columns, "label_columns")
    problems = [
        f"data.{own[column]} names {column!r}, which is also a feature: the model would be told the answer or the "
        "identifier. Take it out of numeric and categorical."
        for column in constants.columns
        if column in own
    ]
    if problems:
        raise ConfigError(problems)
    assert options.patient_column is not None
    wanted = [options.patient_column, *options.label_columns, *options.group_columns, *constants.columns]
    table = read_columns(path, [*wanted, *([options.split_column] if options.split_column else [])], options.delimiter)
    return _records(table, options, constants, data.name)


def table_options(data: DataConfig) -> tuple[TableOptions, Path]:
    """The checked options and path of data=table."""
    problems: list[str] = []
    options = None
    try:
        options = parse_options(TableOptions, data.options, "data")
    except ConfigError as error:
        problems += error.problems
    if data.path is None:
        problems.append("data.path=null must name your table: a .csv, .csv.gz, .tsv or .parquet file.")
    if problems:
        raise ConfigError(problems)
    assert options is not None
    assert data.path is not None
    return options, Path(data.path).expanduser()


def _constants(options: TableOptions, path: Path) -> Constants:
    if options.constants is not None:
        return load_constants(Path(options.constants).expanduser())
    if options.numeric or options.categorical:
        return parse_constants("public configuration", options.numeric, options.categorical, "data")
    labels = ",".join(options.label_columns)
    raise ConfigError(
        "data.numeric, data.categorical and data.constants are all null: no features are named. Name them with public "
        f"constants, or let `dptrain constants data=table data.path={shlex.quote(str(path))} "
        f"data.patient_column={options.patient_column} 'data.label_columns=[{labels}]' > constants.yaml` write them "
        "down from the records and set data.constants=constants.yaml (the privacy statement will say so)."
    )


def _records(table: pd.DataFrame, options: TableOptions, constants: Constants, name: str) -> Records:
    name = f"data.name={name}"
    if len(table) == 0:
        raise DataError(f"{name}: the table has a header and no rows.")
    problems: list[str] = []
    features: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
    feature_names: tuple[str, ...] = ()
    try:
        features, feature_names = encode(table, constants, name)
    except DataError as error:
        problems += error.problems
    patient = column_text(table[options.patient_column])
    num_missing = int((patient == "").sum())
    if num_missing:
        problems.append(
            f"{name}: column {options.patient_column!r} (data.patient_column) is empty in {num_missing} of "
            f"{len(table)} rows. Leave those rows out of the file."
        )
    task, labels, label_names = _labels(table, options, name, problems)
    is_test = _split(table, options, name, problems)
    if problems:
        raise DataError(problems)
    ids = patient.astype(np.str_)
    outside_dp: tuple[str, ...] = ()
    if not constants.is_public:
        assert options.constants is not None
        outside_dp = (
            f"Scaling constants and vocabularies come from the file {Path(options.constants).name} "
            f"({constants.source}); epsilon does not cover them.",
        )
    return Records(
        task=task, features=features, labels=labels, patient_ids=ids, label_names=label_names,
        feature_names=feature_names, groups={column: _group(table[column]) for column in options.group_columns},
        is_test=is_test, outside_dp=outside_dp,
        warnings=unique_id_warning(ids, f"data.patient_column={options.patient_column}"),
    )


def _group(series: pd.Series) -> NDArray[np.str_]:
    text = column_text(series)
    text[text == ""] = UNKNOWN
    return text.astype(np.str_)


def _split(
    table: pd.DataFrame, options: TableOptions, name: str, problems: list[str]
) -> NDArray[np.bool_] | None:
    if options.split_column is None:
        return None
    text = column_text(table[options.split_column])
    is_test = np.isin(text.astype(np.str_), options.test_values)
    neither = ~is_test & ~np.isin(text.astype(np.str_), options.train_values)
    if neither.any():
        problems.append(
            f"{name}: column {options.split_column!r} has {int(neither.sum())} rows with other values than "
            f"data.train_values={list(options.train_values)} and data.test_values={list(options.test_values)}: "
            f"{_some(text[neither])}. Add them to one of the two."
        )
    return is_test


def _labels(
    table: pd.DataFrame, options: TableOptions, name: str, problems: list[str]
) -> tuple[Task, NDArray[np.float32] | NDArray[np.int64], tuple[str, ...]]:
    if len(options.label_columns) > 1:
        columns = [_zero_one(table[c], c, options, name, problems) for c in options.label_columns]
        return "multilabel", np.stack(columns, axis=1).astype(np.float32), options.label_columns
    column = options.label_columns[0]
    text = column_text(table[column])
    num_missing = int((text == "").sum())
    if num_missing:
        problems.append(
            f"{name}: column {column!r} (data.label_columns) is empty in {num_missing} of {len(table)} rows. Leave "
            "those rows out of the file."
        )
    if options.classes is None:
        labels = np.nan_to_num(_zero_one(table[column], column, options, name, problems))
        names = (f"{column}=0", f"{column}=1")
        if options.positive is not None:
            names = (f"not {options.positive}", options.positive)
        return "binary", labels.astype(np.int64), names
    codes = pd.Index(options.classes, dtype=object).get_indexer(pd.Index(text, dtype=object))
    outside = (codes < 0) & (text != "")
    if outside.any():
        problems.append(
            f"{name}: column {column!r} has {int(outside.sum())} values outside data.classes={list(options.classes)}: "
            f"{_some(text[outside])}."
        )
    return ("binary" if len(options.classes) == 2 else "multiclass"), codes.astype(np.int64), options.classes


def _zero_one(
    series: pd.Series, column: str, options: TableOptions, name: str, problems: list[str]
) -> NDArray[np.float64]:
    """(N,) 0, 1, or NaN where missing."""
    text = column_text(series)
    known = text != ""
    if options.positive is not None:
        if not (text == options.positive).any():
            problems.append(f"{name}: data.positive={options.positive!r} does not occur in column {column!r}: "
                            f"{_some(text[known])}.")
        return np.where(known, (text == options.positive).astype(np.float64), np.nan)
    numbers = np.array([TRUTH.get(value.lower(), np.nan) for value in text], dtype=np.float64)
    if np.isnan(numbers[known]).any():
        hint = "" if len(options.label_columns) > 1 else " or all classes in order (data.classes=[...])"
        problems.append(
            f"{name}: label column {column!r} has values other than 0 and 1: {_some(text[known])}. Say which one is "
            f"positive (data.positive=...){hint}."
        )
    return numbers


def _some(text: NDArray[np.object_]) -> str:
    values = list(dict.fromkeys(text.tolist()))
    return ", ".join(repr(str(value)[:40]) for value in values[:5]) + (", ..." if len(values) > 5 else "")
