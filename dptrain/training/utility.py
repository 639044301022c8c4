"""Diagnostic performance: AUROC, the probability that a random diseased record scores above a random healthy one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from dptrain.cohorts.cohort import Task

METRIC_NAMES: dict[Task, str] = {"binary": "auroc", "multiclass": "auroc_macro", "multilabel": "auroc_macro"}


def binary_columns(
    logits: NDArray[np.floating], labels: NDArray, task: Task
) -> list[tuple[NDArray, NDArray[np.bool_]]]:
    """The binary problems behind a task: (scores, is_positive) per class (one against the rest) or label, without
    records whose label is missing.

    Shapes: logits (N, K); labels (N,) or (N, L).
    """
    if task == "binary":
        return [(logits[:, 0], labels == 1)]
    if task == "multiclass":
        shifted = logits - logits.max(axis=1, keepdims=True)
        shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
        return [(shares[:, k], labels == k) for k in range(logits.shape[1])]
    known = ~np.isnan(labels)
    return [(logits[known[:, k], k], labels[known[:, k], k] == 1) for k in range(logits.shape[1])]


def binary_auroc(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
    """Mann-Whitney AUROC with midranks for ties; NaN if only one class is present."""
    num_positive = int(is_positive.sum())
    num_negative = len(is_positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def auroc(logits: NDArray[np.floating], labels: NDArray, task: Task) -> float:
    """AUROC of logits (N, K): plain for binary, mean over classes or labels that have both outcomes otherwise."""
    values = [binary_auroc(scores, positive) for scores, positive in binary_columns(logits, labels, task)]
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")
