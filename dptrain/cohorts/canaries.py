"""Planted canaries: patients that nobody is, made to be memorised, so that an audit can count how many were.

A canary is one record with a label: every feature is +`AMPLITUDE` or -`AMPLITUDE` by a coin, and the label is another
coin. Far from all patients in every direction (features are scaled to about one by public constants) and with a label
that nothing explains, it pulls the weights in a direction of its own, as far as clipping allows. Coins come from a
stream that depends on the number of the canary alone: canaries are public constants, the same in every study, and tell
nothing about any patient.

Canaries are in the training pool and nowhere else: not in the test patients, not in counts, groups or performance.
`Cohort.without_canaries()` is what a report sees.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Cohort
from dptrain.seeding import numpy_stream

AMPLITUDE = 4.0
PUBLIC_ROOT = 0
"""Root of the canaries' stream: a constant, not the seed of the study."""


def plant_canaries(cohort: Cohort, num_canaries: int) -> Cohort:
    """The cohort with so many canaries as its last patients, one record each; 0 gives it back as it is."""
    if not num_canaries:
        return cohort
    features = np.stack([_pattern(index, cohort.features.shape[1:]) for index in range(num_canaries)])
    patients = np.arange(cohort.num_patients, cohort.num_patients + num_canaries)
    names = np.array([f"canary-{index}" for index in range(num_canaries)])
    warning = (
        f"{num_canaries} planted canaries take part in the training (audit.canaries); they are in no figure but the "
        "lower bound on epsilon, and performance is that of models trained beside them."
    )
    return dataclasses.replace(
        cohort,
        features=np.concatenate([np.asarray(cohort.features), features]),
        labels=np.concatenate([np.asarray(cohort.labels), _labels(cohort, num_canaries)]),
        patient=np.concatenate([cohort.patient, patients]),
        patient_ids=np.concatenate([cohort.patient_ids, names]),
        is_test=np.concatenate([cohort.is_test, np.zeros(num_canaries, dtype=bool)]),
        groups={
            name: np.concatenate([values, np.full(num_canaries, "canary")]) for name, values in cohort.groups.items()
        },
        warnings=(*cohort.warnings, warning),
        num_canaries=num_canaries,
    )


def _pattern(index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    coins = numpy_stream(PUBLIC_ROOT, "canary", "features", index).random(shape) < 0.5
    return np.where(coins, AMPLITUDE, -AMPLITUDE).astype(np.float32)


def _labels(cohort: Cohort, num_canaries: int) -> NDArray:
    rng = numpy_stream(PUBLIC_ROOT, "canary", "labels")
    if cohort.task == "multilabel":
        return (rng.random((num_canaries, cohort.num_outputs)) < 0.5).astype(np.float32)
    return rng.integers(0, len(cohort.label_names) if cohort.task == "multiclass" else 2, num_canaries)
