"""One loss per record, for each task. Nothing here is normalised over a batch: a loss that divides by the batch's size
or weights ties records together and breaks the sensitivity bound (a weighted PyTorch cross-entropy does).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dptrain.cohorts.cohort import Task


def binary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of logits (R, 1) and labels (R,) in {0, 1}; returns (R,)."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")


def multiclass_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (R, K) and classes (R,); returns (R,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def multilabel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over labels of binary cross-entropy, logits and labels (R, L); a missing label (NaN) costs nothing."""
    known = ~labels.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        logits, torch.where(known, labels, 0.0).to(logits.dtype), reduction="none"
    )
    return torch.where(known, losses, 0.0).sum(1)


RECORD_LOSSES: dict[Task, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": binary_loss,
    "multiclass": multiclass_loss,
    "multilabel": multilabel_loss,
}
