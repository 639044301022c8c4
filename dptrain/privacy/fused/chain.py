"""Networks that are a chain of linear layers with or without ReLU, on a CPU: model after model, without autograd.

All activations and gradients of one model's batch stay in a core's cache, a whole pass is a few compiled calls
(`kernels.py`), and a batch is not padded to the size of a neighbour's. The tape gets one entry for the whole network,
which is clipped, masked and weighted by the same code as every other model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.privacy.fused import kernels
from dptrain.privacy.fused.rules import Tape
from dptrain.privacy.fused.tape import Outer, Segments


@dataclass(frozen=True)
class ChainShape:
    """What kind of chain a network is."""

    dims: NDArray[np.int64]
    """(L+1,) units: inputs, then outputs of each linear layer."""
    has_bias: NDArray[np.bool_]
    """(L,)"""
    relu: NDArray[np.bool_]
    """(L,) whether ReLU follows."""


def chain_shape(model: nn.Module) -> ChainShape | None:
    """None if the model is no chain: an `nn.Sequential` of perhaps a Flatten, then Linear layers, each perhaps followed
    by ReLU, without hooks."""
    if type(model) is not nn.Sequential:
        return None
    layers = list(model)
    hooks = [hook for module in model.modules() for hook in (module._forward_hooks, module._forward_pre_hooks)]
    if any(hooks) or len({id(layer) for layer in layers}) < len(layers):
        return None
    if layers and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1):
        layers = layers[1:]
    linear: list[nn.Linear] = []
    relu: list[bool] = []
    for layer in layers:
        if type(layer) is nn.Linear:
            linear.append(layer)
            relu.append(False)
        elif type(layer) is nn.ReLU and linear:
            relu[-1] = True
        else:
            return None
    if not linear:
        return None
    dims = [linear[0].in_features, *(layer.out_features for layer in linear)]
    return ChainShape(np.array(dims), np.array([layer.bias is not None for layer in linear]), np.array(relu))


@dataclass
class ChainEntry:
    """What the backward pass of one model left."""

    shape: ChainShape
    inputs: NDArray[np.floating]
    """(N, D)"""
    outputs: NDArray[np.floating]
    """Of all layers, see `kernels.py`."""
    grads: NDArray[np.floating]
    """Of all layers; weighted by `add_weighted`."""
    squares: Tensor
    """(N,) squared norm of each row's gradient, float64."""
    total: NDArray[np.floating]
    """(P,) sum of the model; added to."""

    def record_norms(self) -> Tensor:
        """As found in the backward pass."""
        return self.squares

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """Layer by layer, as every linear layer's."""
        parts = []
        for below, grads, has_bias in self._layers():
            outer = Outer(below[:, None], grads[:, None], torch.empty(0), torch.empty(0) if has_bias else None)
            parts.append(outer.unit_norms(segments, outer.record_norms()))
        return torch.stack(parts).sum(0)

    def mask(self, keep: Tensor) -> None:
        """Both factors of every layer: 0 times infinity is not 0."""
        gone = ~keep.numpy()
        for below, grads, _ in self._layers():
            below.numpy()[gone] = 0.0
            grads.numpy()[gone] = 0.0

    def add_weighted(self, weight: Tensor) -> None:
        """One product per layer."""
        kernels.add_weighted(
            self.shape.dims, self.shape.has_bias, self.inputs, self.outputs, self.grads, weight.numpy(), self.total
        )

    def _layers(self) -> list[tuple[Tensor, Tensor, bool]]:
        """(inputs (N, D), gradients of the outputs (N, O), whether there is a bias), views."""
        rows, place, below, found = len(self.inputs), 0, self.inputs, []
        for outs, has_bias in zip(self.shape.dims[1:], self.shape.has_bias, strict=True):
            part = slice(place, place + rows * outs)
            found.append((torch.from_numpy(below), torch.from_numpy(self.grads[part].reshape(rows, outs)), has_bias))
            below, place = self.outputs[part].reshape(rows, outs), part.stop
        return found


class Chain:
    """One model of a stack: `values` and `gradient` (P,) are its rows of the stack's."""

    def __init__(self, shape: ChainShape, values: Tensor, gradient: Tensor, tape: Tape) -> None:
        self._shape, self._tape = shape, tape
        self._values, self._gradient = values.numpy(), gradient.numpy()

    def forward_backward(
        self, features: Tensor, labels: Tensor, weights: Tensor, record_loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Losses (N,) of rows (N, ...); leaves an entry on the tape, or the sum of gradients for plain arms.

        May overwrite `features` when the entry is masked.
        """
        shape, values = self._shape, self._values
        inputs = features.detach().numpy().reshape(len(features), -1)
        if inputs.dtype != values.dtype:
            raise TypeError(
                f"Records are {inputs.dtype}, the model's weights {values.dtype}; both must have one type. Convert the "
                "records, or the model."
            )
        rows, num_outputs = len(inputs), int(shape.dims[-1])
        outputs = np.empty(rows * int(shape.dims[1:].sum()), values.dtype)
        grads = np.empty_like(outputs)
        below = np.empty((len(shape.relu), rows))
        kernels.forward(values, shape.dims, shape.has_bias, shape.relu, inputs, outputs, below)
        logits, last = (each[-rows * num_outputs :].reshape(rows, num_outputs) for each in (outputs, grads))
        losses = _loss(record_loss, logits, labels, weights, last)
        squares = np.empty(rows)
        kernels.backward(values, shape.dims, shape.has_bias, shape.relu, outputs, grads, below, squares)
        entry = ChainEntry(shape, inputs, outputs, grads, torch.from_numpy(squares), self._gradient)
        if self._tape.private:
            self._tape.entries.append(entry)
        else:
            entry.add_weighted(torch.ones(rows, dtype=features.dtype))
        return losses


def _loss(
    record_loss: Any, logits: NDArray[np.floating], labels: Tensor, weights: Tensor, grads: NDArray[np.floating]
) -> Tensor:
    """(N,) losses of logits (N, O); writes the gradient of their weighted sum to `grads` (N, O).

    A loss that knows its gradient for whole labels says so with an attribute
    `row_gradients(logits, labels, weights, losses, grads)`, which writes the last two.
    """
    known = getattr(record_loss, "row_gradients", None)
    if known is not None and labels.dtype == torch.int64:
        losses = np.empty(len(logits), logits.dtype)
        known(logits, labels.numpy(), weights.numpy(), losses, grads)
        return torch.from_numpy(losses)
    leaf = torch.from_numpy(logits).requires_grad_()
    with torch.enable_grad():
        found = record_loss(leaf, labels)
        check_losses(found, len(logits))
        grads[:] = torch.autograd.grad(found, leaf, weights)[0].numpy()
    detached: Tensor = found.detach()
    return detached


def check_losses(losses: Tensor, num_rows: int) -> None:
    """Raises ValueError unless there is one loss per record."""
    if losses.shape != (num_rows,):
        raise ValueError(f"record_loss gave shape {tuple(losses.shape)}, expected one loss per record ({num_rows},).")
