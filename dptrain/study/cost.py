"""What a study costs before it is begun: models, steps, time, memory and disk; and what cheaper ones would save."""

from __future__ import annotations

import dataclasses
import math

from dptrain.cohorts.cohort import Cohort
from dptrain.config import Config
from dptrain.study.arm_record import BASELINE
from dptrain.study.trial import Trial
from dptrain.training.arms import arm_from_label

BYTES_PER_FIGURE = 4
OUTCOME_BYTES = 4 * 2**20
"""Charts, tables, TensorBoard."""


@dataclasses.dataclass(frozen=True)
class ArmCost:
    """Models of an arm, or of the logistic regressions beside it, that are still to be trained."""

    label: str
    num_models: int
    num_steps: int
    """Steps of each model."""
    seconds: float
    """Of one worker, for all models."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The whole of it."""

    arms: tuple[ArmCost, ...]
    num_workers: int
    """In all shards together."""
    seconds: float
    """Until the last model is there."""
    memory_bytes: int | None
    """Of the whole run on one machine: libraries and cohort once, and every worker's own."""
    disk_bytes: int

    @property
    def num_models(self) -> int:
        """Models of the arms, without the logistic regressions beside them."""
        return sum(arm.num_models for arm in self.arms if not arm.label.startswith(BASELINE))

    @property
    def num_baselines(self) -> int:
        """Logistic regressions."""
        return sum(arm.num_models for arm in self.arms if arm.label.startswith(BASELINE))

    @property
    def num_steps(self) -> int:
        """Steps of all models."""
        return sum(arm.num_models * arm.num_steps for arm in self.arms)


def study_cost(
    config: Config,
    models: dict[str, int],
    cohort: Cohort,
    trial: Trial,
    baseline: Trial | None,
    num_workers: int,
    base_bytes: int | None,
) -> Cost:
    """Cost of training `models` (label of an arm or a baseline -> how many are missing) with workers like the trial's.

    `base_bytes` is what a process holds before it trains. Blocks are not split: with few of them the last ones leave
    workers idle.
    """
    arms = []
    for label, num_models in models.items():
        is_baseline = label.startswith(BASELINE)
        arm = arm_from_label(label.removeprefix(BASELINE))
        private = config.baseline.recipe if is_baseline else config.training.private
        num_steps = config.training.num_steps if arm.kind == "none" else private.num_steps
        one = baseline if is_baseline and baseline is not None else trial
        each = one.seconds_of(arm.kind, num_steps, config.training.num_evaluations)
        arms.append(ArmCost(label, num_models, num_steps, num_models * each))
    return Cost(
        tuple(arms),
        num_workers,
        wall_seconds(arms, config.fleet.block_size, num_workers),
        None if base_bytes is None or trial.memory_bytes is None else base_bytes + num_workers * trial.memory_bytes,
        disk_bytes(config, cohort, sum(models.values())),
    )


def wall_seconds(arms: list[ArmCost], block_size: int, num_workers: int) -> float:
    """Time until the last block is there if every worker takes the next one."""
    free = [0.0] * num_workers
    for arm in arms:
        num_blocks = math.ceil(arm.num_models / block_size)
        for index in range(num_blocks):
            size = min(block_size, arm.num_models - index * block_size)
            first = min(range(num_workers), key=free.__getitem__)
            free[first] += arm.seconds * size / arm.num_models
    return max(free)


def disk_bytes(config: Config, cohort: Cohort, num_models: int) -> int:
    """Cohort, membership, logits and curves of every model, and the outcome."""
    arrays = (cohort.features, cohort.labels, cohort.patient, cohort.patient_ids, cohort.is_test)
    membership = (config.fleet.num_models or config.fleet.max_models) * len(cohort.train_patients)
    outputs = num_models * (cohort.num_records * cohort.num_outputs * BYTES_PER_FIGURE + 4096)
    return sum(array.nbytes for array in arrays) + membership + outputs + OUTCOME_BYTES
