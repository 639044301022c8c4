"""The table that says what the records are: one file or several, joined with others, rows picked by value.

`data=table` takes features from its columns; `data=images` and `data=ecg` take names of files.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dptrain.cohorts.frame import column_text, missing_columns, read_columns, read_header
from dptrain.errors import ConfigError, DataError

MANIFEST_COLUMN = "manifest"
"""With several manifests (`data.path=lists/*.csv`) this column holds the name of each row's file without ending."""
JOIN_KEYS = {"file", "on", "key"}


@dataclass(frozen=True)
class ManifestOptions:
    """Options of every data set that is described by a table of yours."""

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
    group_bands: Mapping[str, Any] | None = None
    """Group columns that hold numbers, and where to cut them: {age: [40, 60, 80]} gives <40, 40-59, 60-79, >=80."""
    keep: Mapping[str, Any] | None = None
    """Only rows with these values: {view: [PA, AP], quality: good}. Others are left out before anything else."""
    join: tuple[Mapping[str, Any], ...] = ()
    """More tables with one row per key: [{file: patients.csv, on: patient, key: Patient}]. `on` names columns here,
    `key` (left out: the same) columns there. A relative file starts at the folder of the manifest."""
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
        if self.delimiter is not None and len(self.delimiter) != 1:
            problems.append(f"data.delimiter={self.delimiter!r} must be a single character or null.")
        problems += _band_problems(self)
        for entry in self.join:
            if not {"file", "on"} <= set(entry) <= JOIN_KEYS or len(_names(entry["on"])) != len(_join_key(entry)):
                problems.append(f"data.join has {dict(entry)}, expected {{file: ..., on: COLUMN}} (and key: COLUMN).")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Manifest:
    """Tables that were found, not yet read."""

    files: tuple[Path, ...]
    """The manifest, or several with the same columns."""
    headers: tuple[tuple[str, ...], ...]
    """Columns of the manifest, then those of each joined table."""
    options: ManifestOptions
    setting: str = "data.path"
    """How the user named it."""
    joined: tuple[Path, ...] = field(default=())
    """Files of `options.join`."""

    @property
    def folder(self) -> Path:
        """Where relative names of other files start."""
        return self.files[0].parent

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns; of those that two tables have, the first table's is meant."""
        return tuple(dict.fromkeys(name for header in self.headers for name in header))


def open_manifest(path: str | None, options: ManifestOptions, expected: str) -> Manifest:
    """Find the tables and read their headers; `expected` says what data.path should be if it is null.

    Raises DataError with every missing file and every missing column of a join.
    """
    if path is None:
        raise ConfigError(f"data.path=null must name {expected}.")
    first = Path(path).expanduser()
    files: tuple[Path, ...] = (first,)
    if not first.exists() and any(sign in path for sign in "*?["):
        files = tuple(Path(name) for name in sorted(glob.glob(str(first))))
        if not files:
            raise DataError(f"data.path={path} matches no file.")
    headers = [read_header(file, options.delimiter) for file in files]
    problems = [
        problem for file, header in zip(files[1:], headers[1:], strict=True)
        for problem in missing_columns(file, header, headers[0], "data.path")
    ]  # fmt: skip
    found = [tuple(headers[0])]
    if len(files) > 1 and MANIFEST_COLUMN not in headers[0]:
        found[0] += (MANIFEST_COLUMN,)
    joined = tuple(first.parent / Path(str(entry["file"])).expanduser() for entry in options.join)
    for other, entry in zip(joined, options.join, strict=True):
        known = [name for header in found for name in header]
        problems += missing_columns(first, known, _names(entry["on"]), "data.path (data.join.on)")
        try:
            header = read_header(other, setting="data.join.file")
            problems += missing_columns(other, header, _join_key(entry), "data.join.file")
            found.append(tuple(header))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Manifest(files, tuple(found), options, joined=joined)


def read_manifest(manifest: Manifest, wanted: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """(the wanted columns of the kept rows, warnings). Raises DataError with every column that no table has."""
    options = manifest.options
    keep = {column: _names(values) for column, values in (options.keep or {}).items()}
    ons = [name for entry in options.join for name in _names(entry["on"])]
    needed = list(dict.fromkeys([*wanted, *keep, *ons]))
    problems = missing_columns(manifest.files[0], manifest.columns, needed, manifest.setting)
    if problems:
        raise DataError(problems)
    table = pd.concat([_read_file(manifest, file, needed) for file in manifest.files], ignore_index=True)
    warnings: list[str] = []
    for file, entry, header in zip(manifest.joined, options.join, manifest.headers[1:], strict=True):
        columns = [name for name in needed if name in header and name not in table]
        table, warning = _join(table, file, entry, columns)
        warnings += warning
    for column, values in keep.items():
        text = column_text(table[column])
        rows = pd.Series(text).isin(values).to_numpy()
        if not rows.any():
            found = some_values(text.tolist())
            raise DataError(f"data.keep={{{column}: {values}}} leaves no row; the column has {found}.")
        table = table[rows].reset_index(drop=True)
    return table[list(dict.fromkeys(wanted))], tuple(warnings)


MOST_CLASSES = 20
"""A column with more different values holds no classes; it may be one with identifiers, given by mistake."""


def some_values(text: Sequence[str]) -> str:
    """The first few different values, for messages; of a column that may hold identifiers only their number."""
    values = list(dict.fromkeys(text))
    if len(values) > MOST_CLASSES:
        return f"{len(values)} different values"
    return ", ".join(repr(str(value)[:40]) for value in values[:5]) + (", ..." if len(values) > 5 else "")


def _read_file(manifest: Manifest, file: Path, needed: Sequence[str]) -> pd.DataFrame:
    own = [name for name in needed if name in manifest.headers[0]]
    is_stem = len(manifest.files) > 1 and MANIFEST_COLUMN in own
    if is_stem and MANIFEST_COLUMN in read_header(file, manifest.options.delimiter):
        is_stem = False
    stored = [name for name in own if not (is_stem and name == MANIFEST_COLUMN)]
    table = read_columns(file, stored, manifest.options.delimiter)
    if is_stem:
        table[MANIFEST_COLUMN] = file.name.partition(".")[0]
    return table


def _join(
    table: pd.DataFrame, file: Path, entry: Mapping[str, Any], columns: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of the other table beside each row; empty where it has no row for the key."""
    on, key = _names(entry["on"]), _join_key(entry)
    other = read_columns(file, [*key, *columns], setting="data.join.file")
    keys = pd.Index(_join_text(other, key))
    repeated = pd.concat([pd.Series(keys), other[columns].astype(str)], axis=1).duplicated().to_numpy()
    other, keys = other[~repeated].reset_index(drop=True), keys[~repeated]
    if keys.has_duplicates:
        raise DataError(
            f"data.join.file={file} has several rows with the same {' and '.join(key)} ({int(keys.duplicated().sum())} "
            "rows too many) that differ in the columns asked for: joining it would multiply records."
        )
    places = keys.get_indexer(pd.Index(_join_text(table, on)))
    num_without = int((places < 0).sum())
    if num_without == len(places) > 0:
        raise DataError(
            f"data.join.file={file} has no row for any record: column {' and '.join(on)} of the manifest and "
            f"{' and '.join(key)} there share no value. Are they written the same way (zeros in front, prefixes)?"
        )
    taken = other[columns].reindex(places).set_axis(table.index)
    warning = f"{num_without} of {len(places)} records have no row in {file.name}: its columns are missing for them."
    return pd.concat([table, taken], axis=1), [warning] if num_without else []


def _join_text(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """One text per row; whole numbers that one table writes as 17.0 and the other as 17 are the same."""
    parts = []
    for name in columns:
        text = pd.Series(column_text(table[name]), dtype=object)
        parts.append(text.str.replace(r"^(\d+)\.0+$", r"\1", regex=True).tolist())
    return ["\x1f".join(row) for row in zip(*parts, strict=True)]


def _join_key(entry: Mapping[str, Any]) -> list[str]:
    return _names(entry.get("key", entry["on"]))


def _names(value: Any) -> list[str]:
    """A text, a number or a list of them as texts."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return [str(item).lower() if isinstance(item, bool) else str(item) for item in items]


def _band_problems(options: ManifestOptions) -> list[str]:
    problems = []
    for column, cuts in (options.group_bands or {}).items():
        numbers = cuts if isinstance(cuts, (list, tuple)) else [cuts]
        rising = all(isinstance(cut, (int, float)) for cut in numbers) and list(numbers) == sorted(set(numbers))
        if not rising or not numbers:
            problems.append(f"data.group_bands.{column}={cuts} must be rising numbers, for example [40,60,80].")
        if column not in options.group_columns:
            problems.append(f"data.group_bands.{column} is for a group column: add it to data.group_columns.")
    return problems
