"""The preflight on what a run would train: its model, its loss, records of its cohort."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Cohort
from dptrain.config import Config
from dptrain.errors import DataError
from dptrain.models.registry import build_model
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight import NUM_RECORDS, Finding, PreflightReport, preflight
from dptrain.privacy.preflight_probe import EngineFactory
from dptrain.privacy.units import UnitIndex
from dptrain.seeding import numpy_stream, stream_seed
from dptrain.training.augment import check_operations
from dptrain.training.losses import RECORD_LOSSES


def check_delta(delta: float, num_patients: int) -> None:
    """Raise DataError if delta is so large that publishing one whole patient would count as private."""
    if delta >= 1 / num_patients:
        raise DataError(
            f"privacy.delta={delta:g} must be below 1/{num_patients} = {1 / num_patients:.2g} (one over the number of "
            "training patients): with a larger delta a mechanism that publishes a whole patient would count as "
            "private. Take at most a tenth of that."
        )


def check_training(
    config: Config,
    cohort: Cohort,
    mechanism: Mechanism,
    patients: NDArray[np.int64] | None = None,
    engine: EngineFactory = PrivateEngine,
) -> PreflightReport:
    """Run the preflight for this mechanism, and the engine that will train, on a random handful of the records of
    `patients` (all training patients).

    Also checks that the units of privacy cover every training record exactly once. Raises DataError if there are fewer
    training records than the preflight needs.
    """
    patients = cohort.train_patients if patients is None else patients
    check_operations(config.training.private.augment, tuple(cohort.features.shape[1:]), "training.private.augment")
    units = UnitIndex.build(cohort.patient, patients, mechanism.unit)
    if len(units.records) < NUM_RECORDS:
        raise DataError(
            f"The cohort has {len(units.records)} training records; the preflight needs {NUM_RECORDS}. "
            "A model trained on so few cannot be private and useful."
        )
    rng = numpy_stream(config.seed, "preflight")
    rows = np.sort(rng.choice(units.records, NUM_RECORDS, replace=False))
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(config.seed, "init", 0))
        model = build_model(config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)
    report = preflight(
        model,
        RECORD_LOSSES[cohort.task],
        mechanism,
        torch.from_numpy(np.array(cohort.features[rows])),
        torch.from_numpy(np.array(cohort.labels[rows])),
        engine,
    )
    wrong = units.findings(cohort.patient, patients, mechanism.unit)
    return PreflightReport(
        (
            *report.findings,
            *(
                Finding(
                    "units", sentence, "epsilon protects a unit as a whole.", "Report this: units are built by dptrain."
                )
                for sentence in wrong
            ),
        ),
        report.measured,
        report.seconds,
    )
