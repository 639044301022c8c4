"""Performance of an arm on the test patients, on each label, over its training, and of the baseline beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.twins import model_units
from dptrain.cohorts.cohort import Cohort
from dptrain.report.results import (
    BaselineResult,
    Curves,
    Estimate,
    StudyLike,
    UtilityResult,
)
from dptrain.report.utility_interval import Performance, difference_interval, mean_interval, measure, measure_each
from dptrain.training.utility import METRIC_NAMES


def utility_of(performance: Performance, metric: str, pair_M: NDArray[np.int64]) -> UtilityResult:
    """Mean over models with its interval, spread, and the (M,) values; `pair_M` numbers the twin pairs."""
    return UtilityResult(
        metric,
        mean_interval(performance, pair_M),
        float(performance.auroc_M.std(ddof=1)),
        tuple(float(value) for value in performance.auroc_M),
    )


def performance_by_label(
    cohort: Cohort,
    logits: NDArray[np.float32],
    labels: NDArray,
    patient: NDArray[np.int64],
    pair_M: NDArray[np.int64],
) -> dict[str, Estimate]:
    """Performance on each label or class; empty for a binary task."""
    if cohort.task == "binary":
        return {}
    each = measure_each(logits, labels, patient, cohort.task)
    return {
        name: mean_interval(one, pair_M) for name, one in zip(cohort.label_names, each, strict=True) if one is not None
    }


def baseline_beside(
    study: StudyLike,
    label: str,
    logits: NDArray[np.float32],
    membership: NDArray[np.bool_],
    test_rows: NDArray[np.int64],
    test_patient: NDArray[np.int64],
) -> BaselineResult | None:
    """Performance of the logistic regressions beside an arm; differences are taken on the models that both have."""
    record = study.baseline(label)
    if record is None:
        return None
    cohort = study.cohort()
    labels = np.asarray(cohort.labels)[test_rows]
    theirs_logits = study.logits(record.label)
    num_models = len(theirs_logits)
    pairs = model_units(membership[:num_models])
    theirs = measure(theirs_logits[:, test_rows], labels, test_patient, cohort.task)
    ours = measure(logits[:num_models, test_rows], labels, test_patient, cohort.task)
    return BaselineResult(
        num_models=num_models,
        epsilon=record.epsilon,
        noise_multiplier=record.noise_multiplier,
        sampling_rate=record.sampling_rate,
        num_steps=record.num_steps,
        utility=utility_of(theirs, METRIC_NAMES[cohort.task], pairs),
        difference=difference_interval(ours, theirs, pairs),
    )


def curves_of(study: StudyLike, label: str) -> Curves:
    """How training went, as the study's blocks tell it."""
    found = study.curves(label)
    epsilon = found.get("epsilon")
    return Curves(np.asarray(found["step"], dtype=np.int64), found["train_loss"], found["utility"], epsilon)
