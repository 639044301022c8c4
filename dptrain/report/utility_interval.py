"""The interval of diagnostic performance: over test patients *and* over models.

The estimand is the mean AUROC, over patients like the test patients, of a model trained by this recipe on a random half
of the training patients. Two things vary:

* test patients: AUROC is a two-sample U-statistic; its placement values (DeLong 1988), summed over the records of a
  patient because these are not independent (Obuchowski 1997, doi 10.2307/2533958), give each patient's influence.
  Averaged over models first, so that what all models have in common is counted once;
* models: the spread of twin-pair means, divided by the number of pairs.

The two variances add up; the part of the second that is only test-set noise is counted twice, on the safe side. The
interval is taken on the logit scale so that it stays below 1. It does not cover the choice of the training patients:
all models share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from scipy.stats import norm, t

from dptrain.cohorts.cohort import Task
from dptrain.report.results import Estimate
from dptrain.training.utility import binary_columns


@dataclass(frozen=True)
class Performance:
    """AUROC of every model and what its interval needs."""

    auroc_M: NDArray[np.float64]
    """(M,) AUROC, mean over classes or labels that have both outcomes."""
    influence_P: NDArray[np.float64]
    """(P,) influence of every test patient on the mean over models: AUROC's error is about their sum."""
    num_fewer: int
    """Patients of the rarer outcome (the rarest over labels)."""


def measure(logits_MNK: NDArray[np.floating], labels: NDArray, patient_N: NDArray[np.int64], task: Task) -> Performance:
    """Performance of M models on the N test records of patients 0..P-1; memory O(N), time O(M K N log N)."""
    num_models, num_patients = len(logits_MNK), int(patient_N.max()) + 1
    auroc_M = np.zeros(num_models)
    influence_P = np.zeros(num_patients)
    columns = _known_rows(labels, task, logits_MNK.shape[2])
    fewer = min(
        min(_patients_of(patient_N, rows, side) for side in (positive, ~positive)) for rows, positive in columns
    )
    for model, logits in enumerate(logits_MNK):
        scored = _scored_columns(np.asarray(logits, dtype=np.float64), labels, task)
        for (rows, positive), scores in zip(columns, scored, strict=True):
            area, influence_R = _auroc_and_influence(scores, positive)
            auroc_M[model] += area / len(columns)
            influence_P += np.bincount(patient_N[rows], influence_R, num_patients) / (len(columns) * num_models)
    return Performance(auroc_M, influence_P, fewer)


def measure_each(
    logits_MNK: NDArray[np.floating], labels: NDArray, patient_N: NDArray[np.int64], task: Task
) -> list[Performance | None]:
    """Performance on each of K classes (against the rest) or labels; None for those with one outcome only."""
    if task == "multiclass":
        logits_MNK = softmax(np.asarray(logits_MNK, dtype=np.float64), axis=2)
        labels = (labels[:, None] == np.arange(logits_MNK.shape[2])).astype(np.float32)
    found: list[Performance | None] = []
    for k in range(logits_MNK.shape[2]):
        known = labels[~np.isnan(labels[:, k]), k]
        both = len(np.unique(known)) == 2
        found.append(measure(logits_MNK[:, :, [k]], labels[:, [k]], patient_N, "multilabel") if both else None)
    return found


def mean_interval(performance: Performance, pair_M: NDArray[np.int64]) -> Estimate:
    """Mean AUROC over models with its 95% interval; models with the same number in `pair_M` are twins.

    If every model orders every pair of test records rightly (AUROC 1) no variance can be seen; the lower end is then
    that of Clopper and Pearson for "no error among the patients of the rarer outcome".
    """
    mean = float(performance.auroc_M.mean())
    if mean >= 1.0:
        return Estimate(1.0, float(0.025 ** (1.0 / performance.num_fewer)), 1.0)
    error = standard_error(performance.influence_P, performance.auroc_M, pair_M)
    if error == 0.0 or mean <= 0.0:
        return Estimate(mean, mean, mean)
    reach = interval_reach(pair_M) * error / (mean * (1.0 - mean))
    low, high = expit(logit(mean) + np.array([-reach, reach]))
    return Estimate(mean, float(low), float(high))


def difference_interval(arm: Performance, reference: Performance, pair_M: NDArray[np.int64]) -> Estimate:
    """Mean difference in AUROC (arm minus reference) on the same test patients and models, with its 95% interval."""
    difference_M = arm.auroc_M - reference.auroc_M
    error = standard_error(arm.influence_P - reference.influence_P, difference_M, pair_M)
    mean, reach = float(difference_M.mean()), interval_reach(pair_M) * error
    return Estimate(mean, mean - reach, mean + reach)


def standard_error(influence_P: NDArray[np.float64], value_M: NDArray[np.float64], pair_M: NDArray[np.int64]) -> float:
    num_patients = len(influence_P)
    patients = num_patients / (num_patients - 1) * float(np.square(influence_P).sum()) if num_patients > 1 else 0.0
    means = np.bincount(pair_M, value_M) / np.bincount(pair_M)
    models = float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
    return float(np.sqrt(patients + models))


def interval_reach(pair_M: NDArray[np.int64]) -> float:
    num_pairs = int(pair_M.max()) + 1
    return float(t.ppf(0.975, num_pairs - 1)) if num_pairs > 1 else float(norm.ppf(0.975))


def _known_rows(labels: NDArray, task: Task, num_outputs: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Per binary problem with both outcomes: rows with a label, and which of them are positive."""
    found = []
    for rows, (_, positive) in zip(_rows(labels, task, num_outputs), _columns(labels, task, num_outputs), strict=True):
        if positive.any() and not positive.all():
            found.append((rows, positive))
    return found


def _scored_columns(logits_NK: NDArray[np.float64], labels: NDArray, task: Task) -> list[NDArray[np.float64]]:
    return [
        scores for scores, positive in binary_columns(logits_NK, labels, task) if positive.any() and not positive.all()
    ]


def _columns(labels: NDArray, task: Task, num_outputs: int) -> list[tuple[NDArray, NDArray[np.bool_]]]:
    return binary_columns(np.zeros((len(labels), num_outputs)), labels, task)


def _rows(labels: NDArray, task: Task, num_outputs: int) -> list[NDArray[np.int64]]:
    if task == "multilabel":
        return [np.flatnonzero(~np.isnan(labels[:, k])) for k in range(num_outputs)]
    return [np.arange(len(labels))] * (1 if task == "binary" else num_outputs)


def _patients_of(patient_N: NDArray[np.int64], rows: NDArray[np.int64], side: NDArray[np.bool_]) -> int:
    return len(np.unique(patient_N[rows[side]]))


def _auroc_and_influence(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    """AUROC by midranks, and each record's influence (placement value minus AUROC, over the size of its side)."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    order = np.argsort(scores)
    ranked, ill = scores[order], positive[order]
    # Records with the same score are a tie; counts before and inside each tie give its midrank on either side.
    first_of_tie = np.append(True, ranked[1:] != ranked[:-1])
    start, tie = np.flatnonzero(first_of_tie), np.cumsum(first_of_tie) - 1
    num_ill = np.append(0, np.cumsum(ill))
    end = np.append(start[1:], len(ranked))
    ill_below = (num_ill[start] + num_ill[end]) / 2.0
    healthy_below = (start + end) / 2.0 - ill_below
    placement = np.empty(len(scores))
    placement[order] = np.where(ill, healthy_below[tie] / num_negative, 1.0 - ill_below[tie] / num_positive)
    area = float(placement[positive].mean())
    return area, (placement - area) / np.where(positive, num_positive, num_negative)
