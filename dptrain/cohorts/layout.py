"""Published layouts: files found under any of the names that versions gave them, codes and numbers turned into groups.

What is not there is an error that lists what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.columns import band_names
from dptrain.cohorts.frame import column_numbers, column_text
from dptrain.cohorts.records import UNKNOWN
from dptrain.errors import ConfigError, DataError

MAX_SHOWN = 12


def layout_root(path: str | None, names: Sequence[str], advice: str) -> Path:
    """The folder that holds one of `names`: data.path, the folder inside it that a download unpacked, or the folder of
    a file that was named. `advice` says what data.path should be and where to get it."""
    if path is None:
        raise ConfigError(f"data.path=null must name {advice}")
    given = Path(path).expanduser()
    if not given.exists():
        hint = "" if given.is_absolute() else " A relative path starts at the folder that dptrain was started in."
        raise DataError(f"data.path={path} does not exist.{hint} It must name {advice}")
    root = given if given.is_dir() else given.parent
    inside = sorted(folder for folder in root.iterdir() if folder.is_dir())
    for folder in (root, *inside):
        if any((folder / name).exists() for name in names):
            return folder
    raise DataError(
        f"data.path={path} holds none of {', '.join(names)}, nor does a folder directly in it. Found: "
        f"{contents(root)}. It must name {advice}"
    )


def first_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first of `names` that exists, all folders asked for a name before the next name."""
    return next((folder / name for name in names for folder in folders if (folder / name).is_file()), None)


def gz(*names: str) -> tuple[str, ...]:
    """Each name, plain and with .gz."""
    return tuple(name + ending for name in names for ending in ("", ".gz"))


def contents(folder: Path) -> str:
    """Names in a folder, for messages; short, so that no patient's file is told from another's."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    return ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "") if names else "nothing"


def whole_text(series: pd.Series) -> NDArray[np.str_]:
    """(N,) text, '' where missing; whole numbers that a version wrote as 15709.0 without their decimals."""
    text = pd.Series(column_text(series), dtype=object)
    return text.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True).to_numpy(dtype=np.str_)


def text_group(series: pd.Series, names: Mapping[str, str] | None = None) -> NDArray[np.str_]:
    """(N,) values as groups: `names` renames codes, missing ones are `unknown`."""
    values, codes = np.unique(whole_text(series), return_inverse=True)
    renamed = [(names or {}).get(value, value) or UNKNOWN for value in values.tolist()]
    return np.array(renamed, dtype=np.str_)[codes]


def band_group(numbers: NDArray[np.float64], cuts: Sequence[float]) -> NDArray[np.str_]:
    """(N,) bands between rising cuts, `unknown` for NaN: [40, 60] gives <40, 40-59, >=60."""
    names = np.array([*band_names(cuts), UNKNOWN])
    return names[np.where(np.isnan(numbers), len(names) - 1, np.digitize(numbers, cuts))]


def numbers_of(series: pd.Series, what: str, problems: list[str]) -> NDArray[np.float64]:
    """(N,) numbers, NaN where missing; adds a problem if there is other text."""
    numbers, num_bad = column_numbers(series)
    if num_bad:
        problems.append(f"{what}: column {series.name!r} has {num_bad} of {len(series)} values that are not numbers.")
    return numbers


def cut_problems(setting: str, cuts: Sequence[float]) -> list[str]:
    """A problem if the cuts between bands do not rise."""
    if cuts and list(cuts) == sorted(set(cuts)):
        return []
    return [f"{setting}={list(cuts)} must be rising numbers, for example [40,60,80]."]


def size_warning(nominal: int | None, num_patients: int, is_subset: bool) -> tuple[str, ...]:
    """A warning if the file has far fewer patients than the public number says: private steps would hardly move."""
    if nominal is None or is_subset or num_patients >= nominal / 2:
        return ()
    return (
        f"data.nominal_patients={nominal}, but the files have only {num_patients} patients, training and test: private "
        "steps are divided by a number that is much too large. Set data.nominal_patients to about your training "
        "patients if that number may be published.",
    )
