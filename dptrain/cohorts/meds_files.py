"""Files of the Medical Event Data Standard (MEDS 0.3 and later): events, labels, splits, parents of codes.

    data/**/*.parquet                     subject_id, time (null: static), code, numeric_value
    metadata/codes.parquet                code, description, parent_codes
    metadata/subject_splits.parquet       subject_id, split

Shards are read batch by batch and only the events that are asked for are kept, so that memory is bound by those.
Columns beyond the standard's are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dptrain.cohorts.layout import contents
from dptrain.errors import DataError

STATIC = int(np.iinfo(np.int64).min)
"""Time of an event without a time."""
NOBODY = -1
"""subject_id of an event without one, which the standard forbids: it belongs to no patient."""
DATA, CODES, SPLITS = "data", "metadata/codes.parquet", "metadata/subject_splits.parquet"
COLUMNS = {"subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float64()}
"""Columns of a shard that are read, and what they are read as, whatever a version wrote them as."""
LABEL_VALUES = ("boolean_value", "integer_value", "categorical_value", "float_value")
BATCH_ROWS = 1 << 18
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True)
class Events:
    """E events, one for each named code that they count for, in the order of the files."""

    subject: NDArray[np.int64]
    """(E,) place in the sorted subjects that were asked for."""
    time: NDArray[np.int64]
    """(E,) microseconds since 1970, `STATIC` for events without time."""
    name: NDArray[np.int64]
    """(E,) which of the names that were asked for."""
    code: NDArray[np.int64]
    """(E,) place in `codes`."""
    value: NDArray[np.float64]
    """(E,) numeric value, NaN where there is none."""
    codes: tuple[str, ...]
    """Codes that occur among these events."""


def shards(root: Path) -> list[Path]:
    """All shards, sorted by name. Raises DataError if there is none."""
    found = sorted((root / DATA).glob("**/*.parquet"))
    if not found:
        raise DataError(f"data.path: {root / DATA} holds no .parquet file. Found in {root}: {contents(root)}.")
    return found


def read_events(
    files: Sequence[Path], subjects: NDArray[np.int64], names_of: Callable[[str], Sequence[int]]
) -> Events:
    """Events of the (sorted) subjects whose code has a name; `names_of` gives the places of the names of a code.

    Raises DataError that lists every shard that cannot be read.
    """
    known: dict[str, NDArray[np.int64]] = {}
    places: dict[str, int] = {}
    parts: list[tuple[NDArray[Any], ...]] = [(*(np.empty(0, dtype=np.int64),) * 4, np.empty(0))]
    for batch in _batches(files):
        subject = batch["subject_id"].fill_null(NOBODY).to_numpy()
        place = np.searchsorted(subjects, subject)
        place[place == len(subjects)] = 0
        wanted = subjects[place] == subject
        coded = batch["code"].fill_null("").dictionary_encode()
        texts = coded.dictionary.to_pylist()
        for text in texts:
            if text not in known:
                known[text] = np.array(names_of(text), dtype=np.int64)
                if len(known[text]):
                    places[text] = len(places)
        row = np.flatnonzero(wanted)
        index = coded.indices.to_numpy(zero_copy_only=False)[row]
        sizes = np.array([len(known[text]) for text in texts], dtype=np.int64)
        flat = np.concatenate([known[text] for text in texts]) if texts else np.empty(0, dtype=np.int64)
        repeats = sizes[index]
        first = np.repeat((np.cumsum(sizes) - sizes)[index] - (np.cumsum(repeats) - repeats), repeats)
        row, index = np.repeat(row, repeats), np.repeat(index, repeats)
        time = batch["time"].cast(pa.int64()).fill_null(STATIC).to_numpy(zero_copy_only=False)
        value = batch["numeric_value"].to_numpy(zero_copy_only=False).astype(np.float64)
        code = np.array([places.get(text, -1) for text in texts], dtype=np.int64)
        parts.append((place[row], time[row], flat[first + np.arange(len(row))], code[index], value[row]))
    subject, time, name, code, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Events(subject, time, name, code, value, tuple(places))


def patients_by_code(files: Sequence[Path], subjects: NDArray[np.int64]) -> dict[str, int]:
    """Number of the (sorted) subjects with each code; one whose events cross a batch may count twice."""
    found: dict[str, int] = {}
    for batch in _batches(files):
        subject = batch["subject_id"].fill_null(NOBODY).to_numpy()
        wanted = np.isin(subject, subjects)
        coded = batch["code"].fill_null("").dictionary_encode()
        pairs = np.stack([subject, coded.indices.to_numpy()], axis=1)
        places, counts = np.unique(np.unique(pairs[wanted], axis=0)[:, 1], return_counts=True)
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            code = coded.dictionary[place].as_py()
            found[code] = found.get(code, 0) + count
    return found


def code_names(names: Sequence[str], parents: Mapping[str, Sequence[str]]) -> Callable[[str], list[int]]:
    """A function from a code to the places of the `names` that it counts for.

    A name is a code, a code's ancestor by `parents`, or the start of codes: `ICD10CM/I5*`.
    """
    exact: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        exact.setdefault(name, []).append(place)
    starts = [(name[:-1], place) for place, name in enumerate(names) if name.endswith("*")]

    def places(code: str) -> list[int]:
        family, todo = {code}, [code]
        while todo:
            new = set(parents.get(todo.pop(), ())) - family
            family |= new
            todo += new
        found = {place for member in family for place in exact.get(member, ())}
        return sorted(found | {place for start, place in starts if code.startswith(start)})

    return places


def read_parents(root: Path) -> dict[str, list[str]]:
    """Parents of each code of metadata/codes.parquet; {} without that file or that column."""
    path = root / CODES
    if not path.is_file():
        return {}
    table = _table(path, ("code",), ("parent_codes",))
    if "parent_codes" not in table:
        return {}
    return {code: list(parents) for code, parents in zip(table["code"], table["parent_codes"], strict=True)
            if parents is not None and not isinstance(parents, float)}  # fmt: skip


def read_splits(root: Path) -> pd.Series | None:
    """Split by subject; None without metadata/subject_splits.parquet. Raises DataError if a subject has several."""
    path = root / SPLITS
    if not path.is_file():
        return None
    table = _table(path, ("subject_id", "split")).drop_duplicates()
    count = int(table["subject_id"].duplicated().sum())
    if count:
        raise DataError(f"data.path: {path} has {count} subjects in more than one split.")
    return table.set_index("subject_id")["split"].astype(str)


def read_labels(path: Path, label_value: str | None, setting: str) -> tuple[pd.DataFrame, str]:
    """(subject_id, prediction_time in microseconds, value as text, '' where null), and the column the values are from.

    `path` is a .parquet file or a folder with some, `label_value` one of LABEL_VALUES or None for the only one that
    has values. Raises DataError with every file that cannot be read.
    """
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not files:
        what = "does not exist" if not path.exists() else "holds no .parquet file"
        raise DataError(f"{setting}={path} {what}. A relative name starts in data.path.")
    problems: list[str] = []
    tables = []
    for file in files:
        try:
            tables.append(_table(file, ("subject_id", "prediction_time"), LABEL_VALUES))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    table = pd.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)
    used = [name for name in LABEL_VALUES if name in table and table[name].notna().any()]
    if label_value is None and len(used) != 1:
        found = f"has values in {' and '.join(used)}: say which with data.label_value" if used else "has no values"
        raise DataError(f"{setting}={path} {found}.")
    column = label_value or used[0]
    if column not in used:
        raise DataError(f"data.label_value={column}, but {path} has values in {' and '.join(used) or 'no column'}.")
    num_missing = int(table[["subject_id", "prediction_time"]].isna().any(axis=1).sum())
    if num_missing:
        raise DataError(f"{setting}={path}: {num_missing} labels have no subject_id or no prediction_time.")
    time = table["prediction_time"].astype("datetime64[us]").astype(np.int64)
    text = table[column].map(_label_text)
    return pd.DataFrame({"subject_id": table["subject_id"].astype(np.int64), "time": time, "value": text}), column


def _label_text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _batches(files: Sequence[Path]) -> Iterator[dict[str, pa.Array]]:
    problems = []
    for file in files:
        try:
            with pq.ParquetFile(file) as shard:
                header = shard.schema_arrow.names
                missing = [name for name in COLUMNS if name not in header]
                if missing:
                    problems.append(f"{file} has no column {' and '.join(missing)}: {', '.join(header)}.")
                    continue
                for batch in shard.iter_batches(batch_size=BATCH_ROWS, columns=list(COLUMNS)):
                    if batch.num_rows:
                        yield {name: batch[name].cast(kind, safe=False) for name, kind in COLUMNS.items()}
        except _UNREADABLE as error:
            problems.append(f"{file}: {_reason(error)}")
    if problems:
        first = f"data.path: {len(problems)} of {len(files)} shards cannot be read as MEDS 0.3 or later."
        raise DataError([first, *problems])


def _table(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Columns of a small table. Raises DataError if it cannot be read or lacks one that is needed."""
    try:
        header = pq.read_schema(path).names
        missing = [name for name in needed if name not in header]
        if missing:
            raise DataError(f"{path} has no column {' and '.join(missing)}: {', '.join(header)}.")
        columns = [*needed, *(name for name in optional if name in header)]
        return pq.read_table(path, columns=columns, partitioning=None).to_pandas(integer_object_nulls=True)
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
