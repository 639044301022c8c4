"""Tables of published data sets: columns under any of the names that versions gave them, joins that add no rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dptrain.cohorts.frame import read_columns, read_header
from dptrain.cohorts.layout import contents, first_file, gz, whole_text
from dptrain.errors import DataError
from dptrain.options import near_miss

MAX_SHOWN = 25


def find_table(folders: Sequence[Path], names: Sequence[str], problems: list[str], advice: str = "") -> Path:
    """The first of the names (plain or .gz) in the folders; otherwise adds a problem and returns a name to go on with.

    The problem lists what was expected and what the folders hold; `advice` says what to do.
    """
    found = first_file(folders, gz(*names))
    if found is None:
        there = "; ".join(f"{folder}: {contents(folder)}" for folder in folders if folder.is_dir())
        places = ", ".join(str(folder) for folder in folders if not folder.is_dir())
        problems.append(
            f"data.path: expected {' or '.join(names)} (also .gz). Found in {there or 'no folder'}"
            f"{f' (there is no {places})' if places else ''}.{' ' if advice else ''}{advice}"
        )
    return found or folders[0] / names[0]


def read_table(path: Path, columns: Iterable[Sequence[str]], optional: Iterable[Sequence[str]] = ()) -> pd.DataFrame:
    """Columns as text ('' where missing, 17.0 as 17), each called by the first of its names; letter case is ignored.

    Raises DataError that lists every column with none of its names in the file. `optional` ones are empty instead.
    """
    header = read_header(path)
    known = {name.lower(): name for name in reversed(header)}
    sources: dict[str, str | None] = {}
    problems = []
    for names, needed in [*((names, True) for names in columns), *((names, False) for names in optional)]:
        sources[names[0]] = next((known[name.lower()] for name in names if name.lower() in known), None)
        if sources[names[0]] is None and needed:
            shown = ", ".join(header[:MAX_SHOWN]) + (", ..." if len(header) > MAX_SHOWN else "")
            problems.append(
                f"data.path: {path} has no column {' or '.join(map(repr, names))}{near_miss(names[0], header)}. Its "
                f"columns: {shown}."
            )
    if problems:
        raise DataError(problems)
    table = read_columns(path, [name for name in sources.values() if name is not None])
    empty = np.full(len(table), "", dtype=object)
    return pd.DataFrame({
        name: empty if source is None else whole_text(table[source]).astype(object) for name, source in sources.items()
    })  # fmt: skip


def lookup(table: pd.DataFrame, on: Sequence[str], other: pd.DataFrame, what: str) -> pd.DataFrame:
    """The row of `other` for each row of `table` by the columns `on`, '' where there is none; `found` says if there is.

    Raises DataError if `other` has a key twice with different values: records would multiply.
    """
    other = other.drop_duplicates()
    keys, wanted = (pd.MultiIndex.from_frame(frame[list(on)]) for frame in (other, table))
    if keys.has_duplicates:
        raise DataError(
            f"data.path: {what} has {int(keys.duplicated().sum())} rows too many for the same {' and '.join(on)}, with "
            "different values. Is it the official file?"
        )
    places = keys.get_indexer(wanted)
    rest = other.drop(columns=list(on)).reset_index(drop=True).reindex(places).set_axis(table.index)
    return rest.fillna("").assign(found=places >= 0)


def choice_problems(setting: str, values: Iterable[str], known: Sequence[str]) -> list[str]:
    """One problem for each value of a setting that is not one of the known ones."""
    return [
        f"data.{setting}={value!r} is not known{near_miss(value, known)}; expected one of {', '.join(known)}."
        for value in values
        if value not in known
    ]


def left_out(count: int, total: int, why: str) -> tuple[str, ...]:
    """A warning about records that a rule leaves out, or nothing."""
    return (f"{count} of {total} records are left out: {why}.",) if count else ()
