"""Which file holds each record: named by a column of the manifest, or by a pattern over several."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dptrain.cohorts.frame import column_text
from dptrain.cohorts.sources import Source, locate
from dptrain.errors import ConfigError, DataError


@dataclass(frozen=True)
class FileOptions:
    """Options of data sets whose records are files that a manifest names."""

    path_column: str | None = None
    """Column with the file of each record."""
    path_pattern: str | None = None
    """Instead of `path_column`: the file's name made of columns, such as images/{patient}/{study}.png."""
    root: str | None = None
    """Folder or zip that those names start at; null takes the folder of the manifest, and a relative one starts there.
    A name may itself go through a zip: part1.zip/0001.png."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if (self.path_column is None) == (self.path_pattern is None):
            problems.append(
                f"data.path_column={self.path_column} and data.path_pattern={self.path_pattern}: set exactly one of "
                "them to say which file holds each record."
            )
        if self.path_pattern is not None:
            try:
                if not self.columns:
                    problems.append(f"data.path_pattern={self.path_pattern!r} names no {{column}}.")
            except ValueError as error:
                problems.append(f"data.path_pattern={self.path_pattern!r} is not a pattern: {error}.")
        if problems:
            raise ConfigError(problems)

    @property
    def columns(self) -> list[str]:
        """The columns that `file_sources` needs."""
        if self.path_pattern is None:
            return [self.path_column] if self.path_column else []
        return [name for _, name, _, _ in string.Formatter().parse(self.path_pattern) if name]


def file_sources(table: pd.DataFrame, options: FileOptions, folder: Path, name: str) -> list[Source]:
    """The file of each row, whether or not it exists; raises DataError if a row does not name one."""
    root = folder / Path(options.root).expanduser() if options.root is not None else folder
    if not root.exists():
        raise DataError(f"data.root={root} does not exist.")
    texts = {column: column_text(table[column]) for column in options.columns}
    for column, text in texts.items():
        num_missing = int((text == "").sum())
        if num_missing:
            raise DataError(
                f"data.name={name}: column {column!r}, which names the files, is empty in {num_missing} of "
                f"{len(table)} rows. Leave those rows out (data.keep can)."
            )
    if options.path_pattern is None:
        (names,) = texts.values()
    else:
        rows = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
        names = np.array([options.path_pattern.format_map(row) for row in rows], dtype=object)
    return [locate(root, file) for file in names]


def shared_file_warning(sources: list[Source], patient_ids: np.ndarray) -> tuple[str, ...]:
    """A warning if two patients have the same file."""
    pairs = pd.DataFrame({"file": [str(source) for source in sources], "patient": patient_ids}).drop_duplicates()
    num_shared = int(pairs["file"].duplicated().sum())
    if not num_shared:
        return ()
    return (
        f"{num_shared} files are named for more than one patient: each of these patients is only protected by its own "
        "share. Correct the manifest.",
    )
