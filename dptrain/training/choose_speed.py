"""Speed settings of a new study: what its configuration asks for, and a short trial if it asks for one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

from dptrain.cohorts.cohort import Cohort
from dptrain.config import Config
from dptrain.errors import ConfigError
from dptrain.privacy.mechanism import Mechanism
from dptrain.training.arms import Arm
from dptrain.training.engines import choose_engine
from dptrain.training.fleet import FleetData, train_fleet_block
from dptrain.training.speed import SpeedConfig, tune

TRIAL_STEPS = 4
WIDTHS = (2, 4, 8)


def choose_speed(config: Config, cohort: Cohort) -> SpeedConfig:
    """Raises ConfigError for fleet.device=cuda without a GPU."""
    device = config.fleet.device
    if device != "cpu":
        found = torch.cuda.is_available()
        if device == "cuda" and not found:
            raise ConfigError("fleet.device=cuda, but PyTorch finds no GPU here. Take fleet.device=cpu or auto.")
        device = "cuda" if found else "cpu"
    start = SpeedConfig(device=device, tf32_plain=config.fleet.tf32)
    if device == "cuda":
        # A GPU is filled by models, not by rows of one.
        start = dataclasses.replace(start, width=config.fleet.block_size, max_rows=2048 * config.fleet.block_size)
    choice = choose_engine(config, tuple(cohort.features.shape[1:]), cohort.num_outputs, cohort.task)
    widths = tuple(width for width in WIDTHS if width <= config.fleet.block_size)
    if not config.fleet.tune or not choice.stackable or device != "cpu" or not widths:
        return start
    return tune(start, _trial(config, cohort), widths)


def _trial(config: Config, cohort: Cohort) -> Callable[[SpeedConfig], float]:
    """A few private steps on halves of the patients, with settings that leave no trace in the study."""
    private = dataclasses.replace(config.training.private, num_steps=TRIAL_STEPS)
    training = dataclasses.replace(config.training, num_evaluations=1, private=private)
    short = dataclasses.replace(config, training=training)
    data = FleetData.build(cohort, config.privacy.unit)
    mechanism = Mechanism(
        config.privacy.unit,  # type: ignore[arg-type]
        private.sampling_rate,
        0.0,
        config.privacy.clipping_norm,
        TRIAL_STEPS,
        1.0,
        config.privacy.delta,
    )

    def seconds(speed: SpeedConfig) -> float:
        members = np.arange(len(cohort.train_patients)) % 2 == np.arange(speed.width)[:, None] % 2
        began = time.perf_counter()
        train_fleet_block(short, data, Arm("clip"), mechanism, range(speed.width), members, speed)
        return (time.perf_counter() - began) / speed.width

    return seconds
