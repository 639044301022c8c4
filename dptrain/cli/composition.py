"""Settings of the command line become a checked `Config`: Hydra reads and composes them, our schema checks them.

What Hydra cannot read or does not know raises a ConfigError that says the way out.
"""

from __future__ import annotations

import re
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain.conf_dir import config_dir
from dptrain.config import Config, DataConfig, parse_config, parse_data
from dptrain.errors import ConfigError
from dptrain.options import near_miss


def compose(overrides: list[str]) -> Config:
    """The configuration of one run, checked."""
    return from_hydra(_composed(overrides))


def compose_data(overrides: list[str]) -> DataConfig:
    """Only the group `data`, checked, for commands that read records and train nothing."""
    return parse_data(_plain(_composed(overrides)))


def from_hydra(composed: DictConfig) -> Config:
    """Plain dictionaries out of Hydra's, then our own schema."""
    return parse_config(_plain(composed))


def swept_values(overrides: list[str]) -> dict[str, list[str]]:
    """`name=value` for each value of every setting, by name; raises ConfigError if Hydra cannot read one."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_unreadable(error)) from error
    values: dict[str, list[str]] = {}
    for override in parsed:
        name = override.get_key_element()
        if override.is_sweep_override() and override.is_discrete_sweep():
            values[name] = [f"{name}={value}" for value in override.sweep_string_iterator()]
        elif override.input_line is not None:
            values[name] = [override.input_line]
    return values


def _composed(overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            kept = [item for item in overrides if not item.startswith("hydra") or item.startswith("hydra.searchpath=")]
            composed = hydra.compose("config", kept)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_unreadable(error)) from error
    return composed


def _plain(composed: DictConfig) -> dict[str, Any]:
    """The resolved configuration without Hydra's own part."""
    try:
        raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    raw.pop("hydra", None)
    assert isinstance(raw, dict)
    return raw


def _unreadable(error: Exception) -> str:
    """What Hydra says; for settings that its grammar cannot read, the way out as well."""
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown is not None:
        return _no_setting(unknown[1])
    if not isinstance(error, OverrideParseException):
        return str(error)
    return (
        f"{error.override} cannot be read. Values with spaces or punctuation need quotes inside the shell's quotes, as "
        "in 'data.label_columns=[\"Result (y/n)\"]'. Keys of {...} cannot be quoted: put such settings into a file of "
        "your own and name its folder with --config-dir (docs/data.md)."
    )


def _no_setting(name: str) -> str:
    """A setting that does not exist, and the one that was probably meant."""
    if name == "policy":
        return "A study has no policy: name it to dptrain gate or dptrain report, with --policy."
    known = _names(OmegaConf.to_container(hydra.compose("config")))
    return f"{name} is not a setting{near_miss(name, known)}. `dptrain --cfg job` prints all of them."


def _names(settings: Any, before: str = "") -> list[str]:
    """Names of all settings, groups before what is in them."""
    if not isinstance(settings, dict):
        return []
    found = []
    for key, value in settings.items():
        found += [f"{before}{key}", *_names(value, f"{before}{key}.")]
    return found
