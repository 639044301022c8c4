"""What a study keeps of an arm, or of the baseline beside it, and the configuration of its models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.config import Config, ModelConfig
from dptrain.seeding import stream_seed

BASELINE = "baseline/"
"""Before the label of an arm: the logistic regressions that stand beside it."""
REFUTED = "refuted.txt"
"""File in an arm's folder: this arm's epsilon does not hold, and why."""


@dataclass(frozen=True)
class ArmRecord:
    """One arm of a study as its folder knows it."""

    label: str
    """none, matched, clip, eps=8, tpr=0.05@fpr=0.01, adv=0.1."""
    target_epsilon: float | None
    """Asked for; None without DP, and where an attack's success was asked for (the label says which)."""
    epsilon: float | None
    """Spent by each model, as accounted; None without DP."""
    delta: float | None
    """None without DP."""
    noise_multiplier: float | None
    """None for none and matched, 0 for clip."""
    sampling_rate: float | None
    """None for none."""
    num_steps: int
    """Steps of each model."""
    clipping_norm: float | None
    """None for none and matched."""
    unit: str
    """patient or record."""
    num_parameters: int
    """Trainable parameters of a model."""
    accounting: dict[str, Any] | None
    """Epsilon by each accountant; None without DP."""
    mechanism: dict[str, Any] | None
    """All parameters of the mechanism; None for none."""
    patient_level: dict[str, Any] | None = None
    """With records as the unit: `records` and `epsilon` of patients with all their records at p50, p90, p99 and max.
    RESTRICTED to the house as a statistic of private data; None otherwise."""


@dataclass(frozen=True)
class Canaries:
    """The canaries of an arm."""

    logits: NDArray[np.float32]
    """(M, C, K)"""
    labels: NDArray[Any]
    """(C,) or (C, L)"""
    membership: NDArray[np.bool_]
    """(M, C)"""


def config_of(config: Config, label: str) -> Config:
    """The configuration of an arm's models, or of the baseline beside it: logistic regression with its own recipe, in a
    seed tree of its own, so that it shares no noise with the arm."""
    if not label.startswith(BASELINE):
        return config
    return dataclasses.replace(
        config,
        model=ModelConfig("linear"),
        training=dataclasses.replace(config.training, private=config.baseline.recipe),
        seed=stream_seed(config.seed, "baseline"),
    )
