"""Tables from disk: CSV, TSV (also .gz) and Parquet, and their columns as text or numbers.

Text files are read as text throughout, so that identifiers keep their leading zeros and nothing is guessed; what counts
as missing is `MISSING`, the same for every column.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.errors import DataError
from dptrain.options import near_miss

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?", "<na>", "nat"})
"""What counts as a missing value, in lower case."""
TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error)


def read_header(path: Path, delimiter: str | None = None, setting: str = "data.path") -> list[str]:
    """Names of the columns; raises DataError if there is no such file or it is not a table."""
    _check_file(path, setting)
    try:
        if _suffix(path) in PARQUET_SUFFIXES:
            import pyarrow.parquet

            return [str(name) for name in pyarrow.parquet.read_schema(path).names]
        separator = delimiter or sniff_delimiter(path)
        table = pd.read_csv(path, sep=separator, dtype=str, nrows=0, encoding="utf-8-sig", skipinitialspace=True)
        return [str(name) for name in table.columns]
    except _UNREADABLE as error:
        raise DataError(_unreadable(path, setting, error)) from error


def read_columns(
    path: Path, columns: Sequence[str], delimiter: str | None = None, setting: str = "data.path"
) -> pd.DataFrame:
    """The named columns; raises DataError that lists every missing column, with what may have been meant."""
    header = read_header(path, delimiter, setting)
    wanted = list(dict.fromkeys(columns))
    problems = missing_columns(path, header, wanted, setting)
    if problems:
        raise DataError(problems)
    try:
        if _suffix(path) in PARQUET_SUFFIXES:
            return pd.read_parquet(path, columns=wanted)
        return pd.read_csv(
            path, sep=delimiter or sniff_delimiter(path), usecols=wanted, dtype=str, keep_default_na=False,
            encoding="utf-8-sig", skipinitialspace=True,
        )
    except _UNREADABLE as error:
        raise DataError(_unreadable(path, setting, error)) from error


def missing_columns(path: Path, header: Sequence[str], wanted: Sequence[str], setting: str) -> list[str]:
    """One problem for each wanted column that the file does not have."""
    shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
    return [
        f"{setting}={path} has no column {name!r}{near_miss(name, header)}. Its columns: {shown}."
        for name in wanted
        if name not in header
    ]


def sniff_delimiter(path: Path) -> str:
    """The one of tab , ; | that the header line has most of (tab for .tsv)."""
    if _suffix(path) == ".tsv":
        return "\t"
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        line = file.readline()
    return max(",;\t|", key=line.count)


def column_text(series: pd.Series) -> NDArray[np.object_]:
    """(N,) str: stripped, '' where missing; whole numbers without '.0', truth values as true and false."""
    missing = series.isna().to_numpy()
    if pd.api.types.is_bool_dtype(series.dtype):
        text = np.where(series.fillna(False).to_numpy(dtype=bool), "true", "false").astype(object)
    elif pd.api.types.is_float_dtype(series.dtype):
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
        known = numbers[~missing]
        if np.isfinite(known).all() and (known == np.round(known)).all():
            text = np.where(missing, 0, numbers).astype(np.int64).astype(str).astype(object)
        else:
            text = numbers.astype(str).astype(object)
    else:
        text = np.array([str(value).strip() for value in series.tolist()], dtype=object)
        missing = missing | np.fromiter((value.lower() in MISSING for value in text), dtype=bool, count=len(text))
    text[missing] = ""
    return text


def column_numbers(series: pd.Series) -> tuple[NDArray[np.float64], int]:
    """((N,) numbers, NaN where missing or no finite number; how many cells are neither missing nor finite numbers)."""
    if pd.api.types.is_numeric_dtype(series.dtype):
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.isinf(numbers)
    else:
        text = column_text(series)
        numbers = np.array(pd.to_numeric(pd.Series(text, dtype=object), errors="coerce"), dtype=np.float64)
        bad = (text != "") & ~np.isfinite(numbers)
    return np.where(np.isfinite(numbers), numbers, np.nan), int(bad.sum())


def _suffix(path: Path) -> str:
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def _check_file(path: Path, setting: str) -> None:
    if not path.exists():
        hint = "" if path.is_absolute() else " A relative path starts at the folder that dptrain was started in."
        raise DataError(f"{setting}={path} does not exist.{hint}")
    if not path.is_file():
        raise DataError(f"{setting}={path} is a folder; name the table in it.")
    if _suffix(path) not in (*TEXT_SUFFIXES, *PARQUET_SUFFIXES):
        expected = ", ".join((*TEXT_SUFFIXES, *PARQUET_SUFFIXES))
        raise DataError(f"{setting}={path} must end in one of {expected} (text also with .gz).")


def _unreadable(path: Path, setting: str, error: BaseException) -> str:
    detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        detail = "it is not UTF-8 text; save it again as UTF-8"
    return f"{setting}={path} cannot be read as a table: {detail}."
