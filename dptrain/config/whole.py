"""The sections together: `Config`, and the way from nested dictionaries to it and back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dptrain.config.fleet import AttackConfig, AuditConfig, BaselineConfig, FleetConfig
from dptrain.config.one_model import ReleaseConfig, ScreenConfig
from dptrain.config.privacy import PrivacyConfig
from dptrain.config.problems import raise_if
from dptrain.config.study import DataConfig, ModelConfig, StudySettings
from dptrain.config.training import TrainingConfig
from dptrain.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """One run: a study plus the one arm that this run asks for."""

    study: StudySettings
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    privacy: PrivacyConfig
    fleet: FleetConfig
    attack: AttackConfig
    audit: AuditConfig = field(default_factory=AuditConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    seed: int = 0
    """Root of the seed tree. Two studies with the same root and configuration are the same study."""


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Build a `Config` from nested dictionaries; raises one ConfigError that lists every problem."""
    problems: list[str] = []
    config = _parse(Config, raw, "", problems)
    raise_if(problems)
    assert isinstance(config, Config)
    return config


def parse_data(raw: Mapping[str, Any]) -> DataConfig:
    """Only the group `data`, for commands that read records and train nothing; raises ConfigError.

    `data.nominal_patients`, which training needs, may still be missing; reading does not depend on it.
    """
    problems: list[str] = []
    data = dict(raw["data"])
    if data.get("nominal_patients") is None:
        data["nominal_patients"] = 1
    config = _parse(DataConfig, data, "data", problems)
    raise_if(problems)
    assert isinstance(config, DataConfig)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionaries (the inverse of `parse_config`, with `options` kept apart)."""
    return dataclasses.asdict(config)


def _parse(cls: type, raw: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(raw, Mapping):
        problems.append(f"{where}={raw!r} must be a group of settings, not a single value.")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    before = len(problems)
    for key, value in raw.items():
        name = f"{where}.{key}" if where else str(key)
        if key == "options" and "options" in fields:
            options.update(value)
        elif key in fields:
            hint = hints[str(key)]
            if dataclasses.is_dataclass(hint):
                values[str(key)] = _parse(typing.cast(type, hint), value, name, problems)
            else:
                values[str(key)] = _convert(hint, value, name, problems)
        elif "options" in fields:
            options[str(key)] = value
        else:
            problems.append(f"{name}={value!r} is not a setting; expected one of {', '.join(sorted(fields))}.")
    if "options" in fields:
        values["options"] = options
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            problems.append(f"{where + '.' if where else ''}{name} is missing.")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _convert(hint: Any, value: Any, name: str, problems: list[str]) -> Any:
    """Value as the hinted scalar type; strings such as '1e-5' (YAML reads them as text) become numbers."""
    optional = isinstance(hint, types.UnionType) and type(None) in hint.__args__
    if optional:
        if value is None:
            return None
        hint = next(arg for arg in hint.__args__ if arg is not type(None))
    if name == "fleet.num_models" and value == "auto":
        return 0
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if hint in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isnan(number):
            if hint is float:
                return number
            if math.isfinite(number) and number == int(number):
                return int(number)
    if hint == tuple[str, ...] and isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    kinds = {bool: "true or false", str: "text", int: "a whole number", float: "a number", tuple[str, ...]: "texts"}
    kind = kinds.get(hint, str(hint))
    if name == "privacy.epsilon":
        kind = "a number > 0, or inf for a run without DP"
    if name == "privacy.delta":
        kind = "a number below 1 / number of training patients (set data.delta or privacy.delta)"
    problems.append(f"{name}={value!r} must be {kind}{' or null' if optional else ''}.")
    return None
