"""What is checked before anything starts, so that a typing error in the last value of a sweep costs no training."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from dptrain.cli.composition import compose, swept_values
from dptrain.config import Config
from dptrain.errors import ConfigError, DptrainError

log = logging.getLogger(__name__)
TARGET_OF = {
    "privacy.epsilon": "epsilon",
    "privacy.tpr": "tpr",
    "privacy.fpr": "tpr",
    "privacy.advantage": "advantage",
}
"""Settings that are read only for one value of privacy.target."""


def check_early(overrides: list[str], write: bool = True) -> Config:
    """Check all settings, and each value of a sweep with the others at their first, and, with `write`, that the study's
    folder can be written; raises ConfigError. Returns the configuration with all at their first."""
    values = swept_values(overrides)
    first = [each[0] for each in values.values()]
    variants = [[value] for each in values.values() for value in each[1:]]
    problems: list[str] = []
    configs: list[Config] = []
    for extra in [[], *variants]:
        try:
            config = compose(first + extra)
            configs.append(config)
            check_launcher(overrides)
            if write:
                check_folder(Path(config.study.dir))
        except DptrainError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    warn_of_ignored(set(values), {config.privacy.target for config in configs})
    if all(config.fleet.num_models for config in configs):
        for name in sorted(set(values) & {"fleet.headline", "fleet.headline_width", "fleet.max_models"}):
            log.warning("%s has no effect without fleet.num_models=auto.", name)
    return configs[0]


def check_launcher(overrides: list[str]) -> None:
    """Raise ConfigError if a launcher was asked for whose package is not there."""
    for launcher, module, package in (
        ("submitit", "hydra_plugins.hydra_submitit_launcher", "dptrain[slurm]"),
        ("ray", "hydra_plugins.hydra_ray_launcher", "hydra-ray-launcher"),
    ):
        asked = [item for item in overrides if item.startswith(f"hydra/launcher={launcher}")]
        if asked and importlib.util.find_spec(module) is None:
            raise ConfigError(f"{asked[0]} needs a package that is not installed: pip install '{package}'.")


def check_folder(path: Path) -> None:
    """A study folder must be creatable before Hydra or a training writes anything."""
    from dptrain.study.atomic import probe_folder

    probe_folder(path)


def warn_of_ignored(names: set[str], targets: set[str]) -> None:
    """Say which of the settings given on the command line have no effect with these values of privacy.target."""
    for name in sorted(names & TARGET_OF.keys()):
        if TARGET_OF[name] not in targets:
            log.warning(
                "%s has no effect with privacy.target=%s. Leave it out, or set privacy.target=%s.",
                name,
                ",".join(sorted(targets)),
                TARGET_OF[name],
            )
