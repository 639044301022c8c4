"""What a study is about: its folder, the cohort and the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dptrain.config.problems import raise_if


@dataclass(frozen=True)
class StudySettings:
    """Where the study lives. A study has a name, not a date: the same command continues it."""

    name: str
    """Name of the study; the folder below `studies/` unless `dir` says otherwise."""
    dir: str
    """The study folder. Everything that a study writes is below it."""
    tensorboard: bool = True
    """Write TensorBoard event files (one run per arm) below the study folder."""
    key_file: str | None = None
    """The key of the pseudonyms in `restricted/patient_risk.csv`, outside the study; null takes $DPTRAIN_KEY_FILE, or
    `dptrain/pseudonyms.key` in the user's folder of settings. Made if the house has none."""


@dataclass(frozen=True)
class DataConfig:
    """The cohort. Fields that only one data set has are in `options` and checked by its reader."""

    name: str
    """Name of the data set: breast_cancer, table, images, ecg, ... (docs/data.md)."""
    nominal_patients: int | None = None
    """PUBLIC approximate number of training patients. Sets the divisor of private steps; never read from the data,
    because a divisor taken from the data would publish their number without noise."""
    records_per_patient: float = 1.0
    """PUBLIC approximate number of records per patient; with `privacy.unit=record` it scales the divisor."""
    delta: float | None = None
    """Default for `privacy.delta` that fits this cohort's public size."""
    path: str | None = None
    """File or folder with the data; null for data that come with a package."""
    max_patients: int | None = None
    """Take a random subset of this many patients (with all their records); null takes all."""
    test_fraction: float = 0.3
    """Fraction of patients held out of every model, for performance. Ignored where the data come with a split."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this data set has."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not 0 < self.test_fraction < 1:
            problems.append(f"data.test_fraction={self.test_fraction} must be between 0 and 1 (fraction of patients).")
        if self.max_patients is not None and self.max_patients < 20:
            problems.append(f"data.max_patients={self.max_patients} must be at least 20, or null for all patients.")
        if self.nominal_patients is None or self.nominal_patients < 1:
            problems.append(
                f"data.nominal_patients={self.nominal_patients} must be a public, approximate number of training "
                "patients (for example 10000). It is the divisor of private steps and may not be read from the data."
            )
        raise_if(problems)


@dataclass(frozen=True)
class ModelConfig:
    """The network. Its own fields (width, depth, ...) are in `options` and checked by its builder."""

    name: str
    """Name of the architecture (conf/model/ lists them), or the import path of a user's own class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this architecture has."""
