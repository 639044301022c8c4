"""The frozen configuration of a study: what its results depend on, its fingerprint, the difference to another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dptrain.config import Config, ModelConfig, to_dict

FREE = (
    "privacy.epsilon",
    "privacy.target",
    "privacy.tpr",
    "privacy.fpr",
    "privacy.advantage",
    "privacy.controls",
    "fleet.workers",
    "fleet.shards",
    "fleet.shard",
    "fleet.arms",
    "fleet.block_size",
    "fleet.device",
    "fleet.tune",
    "fleet.tf32",
    "study.dir",
    "study.key_file",
    "study.name",
    "study.tensorboard",
    "data.path",
)
"""Settings that may differ between runs of one study: which arm is asked for, speed, and where files lie. The data are
held to by their content, not by their path. `block_size`, `device`, `tune` and `tf32` act when the study is created."""

FREE_DATA_OPTIONS = ("cache_dir", "root", "workers")
"""The same for settings that only some data sets have (images, ECGs): where decoded files lie, and speed."""

ENCODER_OPTIONS = (
    "encoder",
    "network",
    "network_options",
    "head",
    "repeat_channels",
    "size",
    "encode_batch",
    "cache_dir",
)
"""Options of model=linear_probe about its frozen encoder. What the encoder made of the records is the data of the
study, held to by their content; the model that is trained does not know it."""


def freeze(config: Config) -> dict[str, Any]:
    """Plain settings without those of `FREE` and the groups `release` and `screen`, which a study does not read."""
    settings = to_dict(config)
    for name in FREE:
        group, _, key = name.partition(".")
        settings[group].pop(key)
    for key in FREE_DATA_OPTIONS:
        settings["data"]["options"].pop(key, None)
    settings["model"]["options"] = options_without_encoder(config.model)
    if config.fleet.num_models:
        for key in ("headline", "headline_width", "max_models"):
            settings["fleet"].pop(key)
    else:
        settings["fleet"]["num_models"] = "auto"
    settings.pop("release")
    settings.pop("screen")
    if not config.audit.canaries:
        # Studies that were made before there were canaries have no such setting.
        settings.pop("audit")
    return settings


def options_without_encoder(model: ModelConfig) -> dict[str, Any]:
    """The options that say how to build what is trained."""
    left_out = ENCODER_OPTIONS if model.name == "linear_probe" else ()
    return {key: value for key, value in model.options.items() if key not in left_out}


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings, independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One line for each setting that differs: `name: stored -> asked`."""
    old, new = _flat(stored), _flat(asked)
    missing = object()
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, missing), new.get(name, missing)
        if before != after:
            lines.append(
                f"{name}: the study has {'nothing' if before is missing else repr(before)}, "
                f"this run asks for {'nothing' if after is missing else repr(after)}"
            )
    return lines


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(settings, Mapping) and settings:
        flat: dict[str, Any] = {}
        for key, value in settings.items():
            flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix.replace(".options.", "."): list(settings) if isinstance(settings, tuple) else settings}
