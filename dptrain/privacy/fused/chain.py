"""Networks that are a chain of linear layers with or without ReLU, on a CPU: model after model, without autograd.

All activations and gradients of one model's batch stay in a core's cache, a whole pass is a few compiled calls
(`chain_kernels.py`), and a batch is not padded at all. Where every unit has one record, clipping and the weighted sum
are one call with the backward pass; otherwise the whole network is one entry, which is clipped by the code that clips
every other model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.privacy.engine import RecordLoss
from dptrain.privacy.fused import chain_kernels
from dptrain.privacy.fused.batches import UnitBatch
from dptrain.privacy.fused.kernels import gather
from dptrain.privacy.fused.tape import Outer, Segments, clip_weights


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
    """What the passes of one model leave, for units of several records."""

    shape: ChainShape
    inputs: NDArray[np.floating]
    """(N, D)"""
    outputs: NDArray[np.floating]
    """Of all layers, see `chain_kernels.py`."""
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
        """Rows of zeros."""
        chain_kernels.mask(self.shape.dims, self.inputs, self.outputs, self.grads, keep.numpy())

    def add_weighted(self, weight: Tensor) -> None:
        """One product per layer; `weight` is float64."""
        shape, weights = self.shape, weight.numpy()
        chain_kernels.add_weighted(
            shape.dims, shape.has_bias, self.inputs, self.outputs, self.grads, weights, self.total
        )

    def _layers(self) -> list[tuple[Tensor, Tensor, bool]]:
        """(inputs (N, D), gradients of the outputs (N, O), whether there is a bias), views."""
        rows, place, below, found = len(self.inputs), 0, self.inputs, []
        for outs, has_bias in zip(self.shape.dims[1:], self.shape.has_bias, strict=True):
            part = slice(place, place + rows * outs)
            found.append((torch.from_numpy(below), torch.from_numpy(self.grads[part].reshape(rows, outs)), has_bias))
            below, place = self.outputs[part].reshape(rows, outs), part.stop
        return found


class Workspace:
    """Arrays of one pass, used again by the next: a fresh page costs more than the arithmetic on it."""

    def __init__(self, shape: ChainShape, dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype, self._capacity = shape, dtype, -1
        self._units = int(shape.dims[1:].sum())

    def pass_of(self, rows: int) -> Pass:
        """Arrays for so many rows, with what an earlier pass left in them."""
        if rows > self._capacity:
            self._capacity = rows + rows // 8
            self._inputs, self._outputs, self._grads = (
                np.empty(self._capacity * width, self._dtype) for width in (self._shape.dims[0], *[self._units] * 2)
            )
            self._squares = np.empty(self._capacity * len(self._shape.relu))
            self._losses = np.empty(self._capacity, self._dtype)
        inputs = self._inputs[: rows * self._shape.dims[0]].reshape(rows, -1)
        squares = self._squares[: rows * len(self._shape.relu)].reshape(-1, rows)
        outputs, grads = self._outputs[: rows * self._units], self._grads[: rows * self._units]
        return Pass(inputs, outputs, grads, squares, self._losses[:rows])


class Pass(NamedTuple):
    """What a forward pass of N rows leaves, and where the backward pass writes."""

    inputs: NDArray[np.floating]
    """(N, D)"""
    outputs: NDArray[np.floating]
    """Of all layers, see `chain_kernels.py`."""
    grads: NDArray[np.floating]
    """The same; those of the last layer are filled."""
    input_squares: NDArray[np.float64]
    """(L, N)"""
    losses: NDArray[np.floating]
    """(N,)"""


class Chain:
    """One model of a stack: `values` and `gradient` (P,) are its rows of the stack's, `workspace` is shared with models
    whose passes do not overlap this one's."""

    def __init__(self, shape: ChainShape, values: Tensor, gradient: Tensor, workspace: Workspace) -> None:
        self._shape, self._workspace = shape, workspace
        self._values, self._gradient = values.numpy(), gradient.numpy()

    def add_clipped(
        self, batch: UnitBatch, start: int, stop: int, record_loss: RecordLoss, clipping_norm: float
    ) -> tuple[float, int]:
        """Add the clipped gradients of the units of records [start, stop), whole units, to the model's sum. Returns the
        sum of finite losses and the number of records whose gradient is not finite."""
        if start == stop:
            return 0.0, 0
        shape, segments = self._shape, None
        if not batch.is_single:
            segments = Segments.build(batch.owner[None, start:stop], torch.device("cpu"))
        ran = self._forward(batch, start, stop, record_loss)
        if segments is None:
            return chain_kernels.clipped_sum(
                self._values, shape.dims, shape.has_bias, shape.relu, ran.inputs, ran.outputs, ran.grads,
                ran.input_squares, ran.losses, clipping_norm, self._gradient,
            )  # fmt: skip
        entry = self._backward(ran)
        factors, finite = clip_weights([entry], clipping_norm, segments, False)
        entry.add_weighted(factors)
        return chain_kernels.tally(ran.losses, finite.numpy())

    def add_plain(
        self, batch: UnitBatch, start: int, stop: int, record_loss: RecordLoss
    ) -> NDArray[np.floating]:
        """Add the gradients of the losses of records [start, stop), divided by the records of their unit, to the
        model's sum. Returns losses (N,), which the next pass overwrites."""
        if start == stop:
            return np.zeros(0)
        ran = self._forward(batch, start, stop, record_loss)
        self._backward(ran).add_weighted(torch.ones(stop - start, dtype=torch.float64))
        return ran.losses

    def _forward(self, batch: UnitBatch, start: int, stop: int, record_loss: RecordLoss) -> Pass:
        """Losses of records [start, stop), and gradients by the logits of the sum of losses, each divided by the number
        of records of its unit."""
        shape, ran = self._shape, self._workspace.pass_of(stop - start)
        features, labels, rows = batch.records.tables()
        if features.dtype != self._values.dtype:
            raise TypeError(
                f"Records are {features.dtype}, the model's weights {self._values.dtype}; both must have one type. "
                "Convert the records, or the model."
            )
        rows = rows[start:stop]
        if len(rows) != stop - start:
            raise ValueError(
                f"A batch has {len(batch.records)} records, but owners of {len(batch.owner)}; there must be one owner "
                "for each record."
            )
        gather(features, rows, ran.inputs)
        chain_kernels.forward(
            self._values, shape.dims, shape.has_bias, shape.relu, ran.inputs, ran.outputs, ran.input_squares
        )
        last = len(rows) * int(shape.dims[-1])
        logits, grads = (each[-last:].reshape(len(rows), -1) for each in (ran.outputs, ran.grads))
        shares = 1.0 if batch.is_single else batch.shares[start:stop]
        weights = np.full(len(rows), shares, self._values.dtype)
        _losses(record_loss, logits, labels[rows], weights, ran.losses, grads)
        return ran

    def _backward(self, ran: Pass) -> ChainEntry:
        shape, squares = self._shape, np.empty(len(ran.losses))
        chain_kernels.backward(
            self._values, shape.dims, shape.has_bias, shape.relu, ran.outputs, ran.grads, ran.input_squares, squares
        )
        return ChainEntry(shape, ran.inputs, ran.outputs, ran.grads, torch.from_numpy(squares), self._gradient)


def _losses(
    record_loss: Any,
    logits: NDArray[np.floating],
    labels: NDArray[Any],
    weights: NDArray[np.floating],
    losses: NDArray[np.floating],
    grads: NDArray[np.floating],
) -> None:
    """Writes `losses` (N,) of logits (N, O) and the gradient of their weighted sum, `grads` (N, O).

    A loss that knows its gradient for whole labels says so with an attribute
    `row_gradients(logits, labels, weights, losses, grads)`, which writes the last two.
    """
    known = getattr(record_loss, "row_gradients", None)
    if known is not None and labels.dtype == np.int64:
        known(logits, labels, weights, losses, grads)
        return
    leaf = torch.from_numpy(logits).requires_grad_()
    with torch.enable_grad():
        found = record_loss(leaf, torch.from_numpy(labels))
        check_losses(found, len(logits))
        grads[:] = torch.autograd.grad(found, leaf, torch.from_numpy(weights))[0].numpy()
    losses[:] = found.detach().numpy()


def check_losses(losses: Tensor, num_rows: int) -> None:
    """Raises ValueError unless there is one loss per record."""
    if losses.shape != (num_rows,):
        raise ValueError(f"record_loss gave shape {tuple(losses.shape)}, expected one loss per record ({num_rows},).")
