"""Performance of a released model on the test patients, for all of them and by group, under disclosure control.

A group is reported if both outcomes have at least `SMALLEST` patients in it; all others are named and "not reported".
No number of patients is given, so nothing can be recomputed from margins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Cohort
from dptrain.report.utility_interval import mean_interval, measure
from dptrain.training.utility import METRIC_NAMES, binary_columns

SMALLEST = 10
"""Smallest number of patients of either outcome."""


def performance(cohort: Cohort, logits: NDArray[np.float32]) -> dict[str, Any]:
    """AUROC with its 95% interval over patients. `logits` (N, K) of all records of the cohort; test records count."""
    groups: dict[str, dict[str, Any]] = {}
    for name, values in sorted(cohort.groups.items()):
        groups[name] = {
            str(value): _of_patients(cohort, logits, cohort.is_test & (values == value))
            for value in np.unique(values[cohort.is_test])
        }
    return {
        "metric": METRIC_NAMES[cohort.task].replace("auroc", "AUROC").replace("_macro", ", mean over labels"),
        "smallest": SMALLEST,
        "all": _of_patients(cohort, logits, cohort.is_test),
        "groups": groups,
    }


def _of_patients(
    cohort: Cohort, logits: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> dict[str, float] | None:
    """Value, low, high over the chosen patients; None where too few of them have either outcome."""
    rows = np.flatnonzero(chosen[cohort.patient])
    labels = np.asarray(cohort.labels)[rows]
    _, patient = np.unique(cohort.patient[rows], return_inverse=True)
    if not len(rows) or _fewest(logits[rows], labels, patient, cohort) < SMALLEST:
        return None
    measured = measure(logits[rows][None], labels, patient.astype(np.int64), cohort.task)
    found = mean_interval(measured, np.zeros(1, dtype=np.int64))
    return {"value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def _fewest(logits: NDArray[np.float32], labels: NDArray, patient: NDArray[np.int64], cohort: Cohort) -> int:
    """Patients of the rarest outcome over all classes or labels; 0 where one outcome is missing."""
    known = np.ones(len(labels), dtype=bool) if labels.ndim == 1 else None
    fewest = len(np.unique(patient))
    for index, (_, positive) in enumerate(binary_columns(logits, labels, cohort.task)):
        rows = known if known is not None else ~np.isnan(labels[:, index])
        who = patient[rows]
        fewest = min(fewest, len(np.unique(who[positive])), len(np.unique(who[~positive])))
    return fewest
