"""What columns of a manifest mean: patients, labels, groups, split. Problems are collected, nothing is guessed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.decode_cache import Undecoded
from dptrain.cohorts.frame import column_numbers, column_text
from dptrain.cohorts.manifest import ManifestOptions, some_values
from dptrain.cohorts.records import UNKNOWN, Records, unique_id_warning
from dptrain.errors import DataError

TRUTH = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "0.0": 0.0, "1.0": 1.0}
"""Label values that need no explanation, in lower case."""


def named_columns(options: ManifestOptions) -> list[str]:
    """The columns that `records_of` needs."""
    named = [options.patient_column, *options.label_columns, *options.group_columns, options.split_column]
    return [name for name in named if name]


def records_of(
    table: pd.DataFrame,
    options: ManifestOptions,
    name: str,
    features: NDArray[np.float32] | Undecoded,
    feature_names: tuple[str, ...],
    problems: Sequence[str] = (),
    outside_dp: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Records:
    """One record per row. Raises DataError with `problems`, found before, and every problem of the columns."""
    name = f"data.name={name}"
    if len(table) == 0:
        raise DataError(f"{name}: the table has a header and no rows.")
    found = list(problems)
    assert options.patient_column is not None
    patient = column_text(table[options.patient_column])
    num_missing = int((patient == "").sum())
    if num_missing:
        found.append(
            f"{name}: column {options.patient_column!r} (data.patient_column) is empty in {num_missing} of "
            f"{len(table)} rows. Leave those rows out of the file."
        )
    task, labels, label_names = _labels(table, options, name, found)
    is_test = _split(table, options, name, found)
    groups = {column: _group(table[column], column, options, name, found) for column in options.group_columns}
    if found:
        raise DataError(found)
    ids = patient.astype(np.str_)
    return Records(
        task=task, features=features, labels=labels, patient_ids=ids, label_names=label_names,
        feature_names=feature_names, groups=groups, is_test=is_test, outside_dp=outside_dp,
        warnings=(*warnings, *unique_id_warning(ids, f"data.patient_column={options.patient_column}")),
    )  # fmt: skip


def band_names(cuts: Sequence[float]) -> list[str]:
    """Names of the bands between rising cuts: [40, 60] gives <40, 40-59, >=60; [0.5, 1] gives <0.5, 0.5 to <1, >=1."""
    pairs = itertools.pairwise(cuts)
    if all(float(cut).is_integer() for cut in cuts):
        inner = [f"{int(low)}-{int(high) - 1}" if high - low > 1 else f"{int(low)}" for low, high in pairs]
    else:
        inner = [f"{low:g} to <{high:g}" for low, high in pairs]
    return [f"<{cuts[0]:g}", *inner, f">={cuts[-1]:g}"]


def _group(
    series: pd.Series, column: str, options: ManifestOptions, name: str, problems: list[str]
) -> NDArray[np.str_]:
    if options.group_bands is None or column not in options.group_bands:
        text = column_text(series)
        text[text == ""] = UNKNOWN
        return text.astype(np.str_)
    cuts = options.group_bands[column]
    cuts = list(cuts) if isinstance(cuts, (list, tuple)) else [cuts]
    numbers, num_bad = column_numbers(series)
    if num_bad:
        problems.append(
            f"{name}: column {column!r} (data.group_bands) has {num_bad} values that are not numbers. "
            "Decimal commas are not understood: write 61.5, not 61,5."
        )
    names = np.array([*band_names(cuts), UNKNOWN])
    return names[np.where(np.isnan(numbers), len(names) - 1, np.digitize(numbers, cuts))]


def _split(
    table: pd.DataFrame, options: ManifestOptions, name: str, problems: list[str]
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
            f"{some_values(text[neither].tolist())}. Add them to one of the two."
        )
    return is_test


def _labels(
    table: pd.DataFrame, options: ManifestOptions, name: str, problems: list[str]
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
            f"{some_values(text[outside].tolist())}."
        )
    return ("binary" if len(options.classes) == 2 else "multiclass"), codes.astype(np.int64), options.classes


def _zero_one(
    series: pd.Series, column: str, options: ManifestOptions, name: str, problems: list[str]
) -> NDArray[np.float64]:
    """(N,) 0, 1, or NaN where missing."""
    text = column_text(series)
    known = text != ""
    if options.positive is not None:
        if not (text == options.positive).any():
            problems.append(f"{name}: data.positive={options.positive!r} does not occur in column {column!r}: "
                            f"{some_values(text[known].tolist())}.")  # fmt: skip
        return np.where(known, (text == options.positive).astype(np.float64), np.nan)
    numbers = np.array([TRUTH.get(value.lower(), np.nan) for value in text], dtype=np.float64)
    if np.isnan(numbers[known]).any():
        hint = "" if len(options.label_columns) > 1 else " or all classes in order (data.classes=[...])"
        problems.append(
            f"{name}: label column {column!r} has values other than 0 and 1: {some_values(text[known].tolist())}. Say "
            f"which one is positive (data.positive=...){hint}."
        )
    return numbers
