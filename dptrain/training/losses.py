"""One loss per record, for each task. Nothing here is normalised over a batch: a loss that divides by the batch's size
or weights ties records together and breaks the sensitivity bound (a weighted PyTorch cross-entropy does).

Two of them also have their gradient by hand (`row_gradients`), which the fused engine uses on chains of linear layers;
it must equal autograd's (`tests/training/test_losses.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dptrain.cohorts.cohort import Task
from dptrain.compiled import compiled_as_written

RowGradients = Callable[..., None]
"""(logits (N, O), labels (N,), weights (N,), losses (N,), grads (N, O)): writes losses, and the gradient of the loss of
each row times its weight."""


@dataclass(frozen=True)
class RecordLoss:
    """A loss per record, and perhaps its gradient by hand."""

    function: Callable[[Tensor, Tensor], Tensor]
    row_gradients: RowGradients | None = None
    """For labels of type int64."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(R,) losses of logits (R, K) and labels."""
        return self.function(logits, labels)


@compiled_as_written
def _sigmoid_rows(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating],
    losses: NDArray[np.floating],
    grads: NDArray[np.floating],
) -> None:
    one = logits.dtype.type(1)
    for n in range(logits.shape[0]):
        z = logits[n, 0]
        small = math.exp(-abs(z))
        losses[n] = max(z, one - one) - z * labels[n] + math.log1p(small)
        chance = one / (one + small) if z >= 0 else small / (one + small)
        grads[n] = 0
        grads[n, 0] = (chance - labels[n]) * weights[n]


@compiled_as_written
def _softmax_rows(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating],
    losses: NDArray[np.floating],
    grads: NDArray[np.floating],
) -> None:
    kind = logits.dtype.type
    for n in range(logits.shape[0]):
        label = labels[n]
        if label < 0 or label >= logits.shape[1]:
            raise IndexError("A label is no class of the model (label, number of classes):", label, logits.shape[1])
        highest = logits[n].max()
        total = kind(0)
        for k in range(logits.shape[1]):
            part = math.exp(logits[n, k] - highest)
            grads[n, k] = part
            total += part
        losses[n] = math.log(total) - (logits[n, label] - highest)
        for k in range(logits.shape[1]):
            grads[n, k] = (grads[n, k] / total - kind(k == label)) * weights[n]


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")


def _multiclass(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _multilabel(logits: Tensor, labels: Tensor) -> Tensor:
    known = ~labels.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        logits, torch.where(known, labels, 0.0).to(logits.dtype), reduction="none"
    )
    return torch.where(known, losses, 0.0).sum(1)


binary_loss = RecordLoss(_binary, _sigmoid_rows)
"""Binary cross-entropy of logits (R, 1) and labels (R,) in {0, 1}; returns (R,)."""
multiclass_loss = RecordLoss(_multiclass, _softmax_rows)
"""Cross-entropy of logits (R, K) and classes (R,); returns (R,)."""
multilabel_loss = RecordLoss(_multilabel)
"""Sum over labels of binary cross-entropy, logits and labels (R, L); a missing label (NaN) costs nothing."""

RECORD_LOSSES: dict[Task, RecordLoss] = {
    "binary": binary_loss,
    "multiclass": multiclass_loss,
    "multilabel": multilabel_loss,
}
