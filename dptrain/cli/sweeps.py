"""Sweeps over arms: refused where nothing is swept, and cut into shards that share the work."""

from __future__ import annotations

import itertools
import logging

from dptrain.cli.composition import compose, swept_values
from dptrain.errors import ConfigError

log = logging.getLogger(__name__)


def refuse_lists(overrides: list[str]) -> None:
    """Raises ConfigError for settings with several values where none of them is swept over."""
    lists = [f"{name}={','.join(value.partition('=')[2] for value in values)}"
             for name, values in swept_values(overrides).items() if len(values) > 1]  # fmt: skip
    if lists:
        raise ConfigError(
            [f"{one} names several values. Put -m before the settings: dptrain -m {one}" for one in lists]
        )


def as_shards(arguments: list[str], overrides: list[str], num_shards: int) -> list[str]:
    """Arguments of a sweep over shards: each brings all arms of the study to completion, together with the others.

    Whatever is swept below `privacy` becomes the list of arms; other sweeps (over models, say) remain. Raises
    ConfigError if they ask for different arms.
    """
    if not any(item.startswith("hydra/launcher=") for item in overrides):
        log.warning(
            "fleet.shards=%d without hydra/launcher=... runs one shard after another. On one machine fleet.workers "
            "uses all cores; docs/cluster.md has the rest.",
            num_shards,
        )
    values = swept_values(overrides)
    privacy = [each for name, each in values.items() if name.startswith("privacy.")]
    others = [each for name, each in values.items() if not name.startswith("privacy.")]
    first = [each[0] for each in others]
    found = [arm_labels(first + [value], privacy) for each in others for value in each[1:]]
    labels = arm_labels(first, privacy)
    if any(other != labels for other in found):
        raise ConfigError(
            "fleet.shards needs the same arms everywhere in a sweep, and some of its values ask for others. Start one "
            "sweep for each of them."
        )
    quoted = ",".join(f'"{label}"' for label in labels)
    flags = [argument for argument in arguments if argument not in overrides]
    return [
        *flags,
        *([] if {"-m", "--multirun"} & set(flags) else ["-m"]),
        *(item for item in overrides if not item.startswith("privacy.")),
        *(each[0] for each in privacy),
        f"fleet.arms=[{quoted}]",
        f"fleet.shard={','.join(map(str, range(num_shards)))}",
    ]


def arm_labels(settings: list[str], privacy: list[list[str]]) -> list[str]:
    """Labels of the arms of all combinations of the swept settings `privacy`, in the order of every table."""
    from dptrain.training.arms import arms_of_run

    arms = {
        arm.label: arm
        for combination in itertools.product(*privacy)
        for arm in arms_of_run(compose([*settings, *combination]).privacy)
    }
    return sorted(arms, key=lambda label: arms[label].sort_key)
