"""Table columns to model input, by constants that are fixed before the private records are looked at.

A numeric column becomes (x - center) / scale, or (log(x + log_offset) - center) / scale; a missing one takes `fill`
(in the column's own units). A categorical column becomes one 0/1 feature per level of a fixed vocabulary plus one for
"other/missing"; a level named `baseline` has no feature of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from dptrain.cohorts.frame import column_numbers, column_text
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_options

OTHER = "other/missing"
"""Name of the slot for levels outside the vocabulary and for missing values."""


@dataclass(frozen=True)
class Numeric:
    """How one numeric column is scaled."""

    center: float
    """Value (after the logarithm, if any) that becomes 0."""
    scale: float
    """Distance from `center` that becomes 1; > 0."""
    fill: float | None = None
    """What stands in for a missing value, in the column's own units; null refuses missing values."""
    log_offset: float | None = None
    """Take log(x + log_offset) first; null does not."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ConfigError(f"scale={self.scale} must be > 0")


@dataclass(frozen=True)
class Categorical:
    """The fixed vocabulary of one categorical column."""

    levels: tuple[str, ...]
    """Values with a feature of their own, as text; all others share the slot other/missing."""
    baseline: str | None = None
    """The level that is coded as all zeros; null gives every level a feature."""

    def __post_init__(self) -> None:
        problems = []
        if len(set(self.levels)) < len(self.levels) or not self.levels:
            problems.append(f"levels={list(self.levels)} must name at least one level, and none twice")
        if self.baseline is not None and self.baseline not in self.levels:
            problems.append(f"baseline={self.baseline!r} must be one of the levels")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Constants:
    """Everything that turns columns into features."""

    source: str
    """Where the constants are from. Text that starts with `public` says that no private record was looked at."""
    numeric: Mapping[str, Numeric] = field(default_factory=dict)
    """Scaling by column."""
    categorical: Mapping[str, Categorical] = field(default_factory=dict)
    """Vocabulary by column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, numeric first."""
        return (*self.numeric, *self.categorical)

    @property
    def is_public(self) -> bool:
        """Whether `source` says that the constants do not come from the private records."""
        return self.source.strip().lower().startswith("public")


def parse_constants(
    source: str, numeric: Mapping[str, Any] | None, categorical: Mapping[str, Any] | None, where: str
) -> Constants:
    """`Constants` from plain mappings; `where` is what messages call them. Raises ConfigError with every problem."""
    problems: list[str] = []
    numbers: dict[str, Numeric] = {}
    vocabularies: dict[str, Categorical] = {}
    for column, raw in (numeric or {}).items():
        name = f"{where}.numeric.{column}"
        if not isinstance(raw, Mapping):
            problems.append(f"{name}={raw!r} must be {{center: ..., scale: ..., fill: ...}}.")
            continue
        try:
            numbers[str(column)] = parse_options(Numeric, raw, name)
        except ConfigError as error:
            problems += [p if p.startswith(where) else f"{name}: {p}." for p in error.problems]
    for column, raw in (categorical or {}).items():
        name = f"{where}.categorical.{column}"
        if not isinstance(raw, (Mapping, list, tuple)):
            problems.append(f"{name}={raw!r} must be a list of levels, or {{levels: [...], baseline: ...}}.")
            continue
        try:
            entry = raw if isinstance(raw, Mapping) else {"levels": raw}
            vocabularies[str(column)] = parse_options(Categorical, entry, name)
        except ConfigError as error:
            problems += [p if p.startswith(where) else f"{name}: {p}." for p in error.problems]
    problems += [f"{where}: column {c!r} is both numeric and categorical." for c in numbers if c in vocabularies]
    if problems:
        raise ConfigError(problems)
    return Constants(source, numbers, vocabularies)


def load_constants(path: Path, where: str = "data.constants") -> Constants:
    """`Constants` from a YAML file with the entries source, numeric and categorical."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}={path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}={path} is not YAML: {' '.join(str(error).split())}.") from error
    expected = ("source", "numeric", "categorical")
    if not isinstance(raw, Mapping) or not set(raw) <= set(expected):
        raise ConfigError(f"{where}={path} must have the entries {', '.join(expected)} and no others.")
    problems = []
    if not isinstance(raw.get("source"), str) or not raw["source"].strip():
        problems.append(
            f"{where}={path} has no `source`. Write where the constants come from: `source: public, ...` if from "
            "outside these data, else `source: fitted on the private records of ...`."
        )
    for name in expected[1:]:
        if not isinstance(raw.get(name) or {}, Mapping):
            problems.append(f"{where}={path}: {name} must be a mapping of columns.")
    if not any(raw.get(name) for name in expected[1:]):
        problems.append(f"{where}={path} names no columns below numeric or categorical.")
    if problems:
        raise ConfigError(problems)
    return parse_constants(raw["source"].strip(), raw.get("numeric"), raw.get("categorical"), where)


def encode(table: pd.DataFrame, constants: Constants, name: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """((N, D) float32 features, D names) of the table; raises DataError with the problems of every column."""
    blocks: list[NDArray[np.float32]] = []
    names: list[str] = []
    problems: list[str] = []
    for column, numeric in constants.numeric.items():
        numbers, num_bad = column_numbers(table[column])
        if num_bad:
            problems.append(
                f"{name}: column {column!r} has {num_bad} of {len(table)} values that are not finite numbers. Mend "
                "them, or name the column under `categorical`."
            )
            continue
        missing = np.isnan(numbers)
        if missing.any() and numeric.fill is None:
            problems.append(
                f"{name}: column {column!r} has {int(missing.sum())} of {len(table)} values missing (NaN) and no "
                "`fill`. Name a value to fill in, from public knowledge."
            )
            continue
        numbers = np.where(missing, numeric.fill or 0.0, numbers)
        if numeric.log_offset is not None:
            shifted = numbers + numeric.log_offset
            if not (shifted > 0).all():
                problems.append(
                    f"{name}: column {column!r} has {int((shifted <= 0).sum())} values that are not above "
                    f"-log_offset={-numeric.log_offset}, so they have no logarithm."
                )
                continue
            numbers = np.log(shifted)
        blocks.append(((numbers - numeric.center) / numeric.scale).astype(np.float32)[:, None])
        names.append(column)
    for column, categorical in constants.categorical.items():
        kept = [level for level in categorical.levels if level not in (categorical.baseline, OTHER)]
        slots = pd.Index([*kept, OTHER, categorical.baseline or OTHER + " baseline"], dtype=object)
        code = slots.get_indexer(pd.Index(column_text(table[column]), dtype=object))
        code = np.where(code < 0, len(kept), code)
        blocks.append((code[:, None] == np.arange(len(kept) + 1)).astype(np.float32))
        names += [f"{column}={level}" for level in (*kept, OTHER)]
    if problems:
        raise DataError(problems)
    return np.concatenate(blocks, axis=1), tuple(names)
