"""What is fixed before the first step of a release: data, patients, mechanism and folders."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import nominal_train_patients
from dptrain.config import Config
from dptrain.errors import ConfigError
from dptrain.models.registry import build_model
from dptrain.privacy.mechanism import Mechanism
from dptrain.seeding import stream_seed
from dptrain.study.runner import units_of_patients
from dptrain.training.arms import Arm, build_mechanism, private_arm
from dptrain.training.check import check_delta
from dptrain.training.prepare import prepared_cohort

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that is fixed before the first step."""

    config: Config
    cohort: Cohort
    arm: Arm
    mechanism: Mechanism
    accounting: dict[str, Any]
    patients: NDArray[np.int64]
    """Patients that are trained on. Canaries are not among them (`release.canaries`)."""
    folder: Path
    history: Path

    @property
    def restricted(self) -> Path:
        """What stays inside."""
        return self.folder / "restricted"


def make_plan(config: Config) -> Plan:
    """Read the cohort and fix mechanism, patients and folders; nothing is written.

    Raises ConfigError without a private target and DataError for the data.
    """
    arm = private_arm(config.privacy)
    if arm is None:
        raise ConfigError(
            "privacy.epsilon=inf asks dptrain train for a model without privacy. It makes models with a guarantee; "
            "name an epsilon (privacy.epsilon=3) or a cap on attacks (privacy.target=tpr)."
        )
    cohort = prepared_cohort(config)
    for warning in cohort.warnings:
        log.warning("%s: %s", cohort.name, warning)
    hold_out = config.release.hold_out
    real = cohort.without_canaries()
    patients = real.train_patients if hold_out else np.arange(real.num_patients)
    check_delta(config.privacy.delta, len(patients))
    nominal = nominal_train_patients(config.data) / (1.0 if hold_out else 1 - config.data.test_fraction)
    mechanism, accounting = build_mechanism(
        config, arm, units_of_patients(config, nominal) + config.audit.canaries / 2
    )
    assert mechanism is not None
    assert accounting is not None
    folder = Path(config.release.dir or Path("releases") / config.study.name / arm.label)
    list_file = Path(config.release.history or Path("releases") / "restricted" / f"{config.data.name}.jsonl")
    return Plan(config, cohort, arm, mechanism, accounting, patients, folder, list_file)


def untrained(plan: Plan) -> nn.Module:
    """The network before the first step."""
    cohort = plan.cohort
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(plan.config.seed, "init", "release"))
        return build_model(plan.config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)
