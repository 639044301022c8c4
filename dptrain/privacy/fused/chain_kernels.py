"""The arithmetic of `chain.py` in compiled loops: elementwise work and norms are one pass through a core's cache each.

Shapes: N rows (records), L layers with `dims` (L+1,) units, P parameters in the order of `named_parameters()` (weight
(out, in) and, where `has_bias` (L,), bias (out,) of one layer after the other). What belongs to all layers lies in one
array, layer after layer: `outputs` and `grads` are (N * sum(dims[1:]),). A layer is followed by ReLU where `relu` (L,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.compiled import compiled
from dptrain.privacy.fused.kernels import clip_factors, row_squares
from dptrain.privacy.fused.products import flip, product
from dptrain.tiles import LANES

Array = NDArray[np.floating]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
ADDED_UP = 512
"""Rows that are added up one after the other: longer sums of equal numbers lose more digits than the ledger allows."""


@compiled
def forward(
    values: Array, dims: Ints, has_bias: Flags, relu: Flags, inputs: Array, outputs: Array, squares: Array
) -> None:
    """Writes `outputs` for `inputs` (N, dims[0]), and squares (L, N) of the norms of each layer's inputs."""
    rows = inputs.shape[0]
    zero = values.dtype.type(0)
    flipped = np.empty(values.size, values.dtype)
    parameter, place, below = 0, 0, inputs
    for layer in range(relu.size):
        ins, outs = dims[layer], dims[layer + 1]
        row_squares(below, squares[layer])
        weight = values[parameter : parameter + outs * ins].reshape(outs, ins)
        parameter += outs * ins
        z = outputs[place : place + rows * outs].reshape(rows, outs)
        place += rows * outs
        if outs < LANES:
            for n in range(rows):
                for o in range(outs):
                    total = zero
                    for i in range(ins):
                        total += below[n, i] * weight[o, i]
                    z[n, o] = total
        else:
            turned = flipped[: ins * outs]
            flip(weight, turned.reshape(ins, outs))
            product(below.reshape(-1), ins, np.int64(1), turned, ins, outs, z.reshape(-1))
        bias = values[parameter : parameter + outs] if has_bias[layer] else np.zeros(outs, values.dtype)
        parameter += outs if has_bias[layer] else 0
        for n in range(rows):
            if relu[layer]:
                for d in range(outs):
                    value = z[n, d] + bias[d]
                    # NaN stays.
                    z[n, d] = zero if value <= zero else value
            else:
                for d in range(outs):
                    z[n, d] += bias[d]
        below = z


@compiled
def backward(
    values: Array,
    dims: Ints,
    has_bias: Flags,
    relu: Flags,
    outputs: Array,
    grads: Array,
    input_squares: Array,
    squares: Array,
) -> None:
    """Fills `grads`, whose last layer holds the gradient by the logits, with the gradients of each layer's outputs
    before ReLU; squares (N,) of the norm of each row's gradient by all parameters, from `input_squares` (L, N)."""
    rows = squares.size
    zero = values.dtype.type(0)
    parameter, place = values.size, grads.size
    squares[:] = 0.0
    size = np.empty_like(squares)
    for layer in range(relu.size - 1, -1, -1):
        ins, outs = dims[layer], dims[layer + 1]
        place -= rows * outs
        g = grads[place : place + rows * outs].reshape(rows, outs)
        if relu[layer]:
            z = outputs[place : place + rows * outs].reshape(rows, outs)
            for n in range(rows):
                for d in range(outs):
                    g[n, d] = zero if z[n, d] <= zero else g[n, d]
        row_squares(g, size)
        extra = 1.0 if has_bias[layer] else 0.0
        for n in range(rows):
            squares[n] += (input_squares[layer, n] + extra) * size[n]
        parameter -= outs * ins + (outs if has_bias[layer] else 0)
        if layer > 0:
            weight = values[parameter : parameter + outs * ins]
            product(g.reshape(-1), outs, np.int64(1), weight, outs, ins, grads[place - rows * ins : place])


@compiled
def add_weighted(
    dims: Ints, has_bias: Flags, inputs: Array, outputs: Array, grads: Array, weights: Array, total: Array
) -> None:
    """total (P,) += sum over rows of each row's gradient times weights (N,). Leaves weighted rows in `grads`."""
    rows = inputs.shape[0]
    product_ = np.empty(total.size, total.dtype)
    parameter, place, below = 0, 0, inputs.reshape(-1)
    for layer in range(has_bias.size):
        ins, outs = dims[layer], dims[layer + 1]
        g = grads[place : place + rows * outs]
        after = parameter + outs * ins
        found = product_[: outs * ins]
        for first in range(0, rows, ADDED_UP):
            last = min(first + ADDED_UP, rows)
            part, bias = g[first * outs : last * outs], np.zeros(outs, total.dtype)
            _weigh(part.reshape(last - first, outs), weights[first:last], bias)
            product(part, np.int64(1), outs, below[first * ins : last * ins], last - first, ins, found)
            for i in range(found.size):
                total[parameter + i] += found[i]
            if has_bias[layer]:
                for d in range(outs):
                    total[after + d] += bias[d]
        below = outputs[place : place + rows * outs]
        place += rows * outs
        parameter = after + (outs if has_bias[layer] else 0)


@compiled
def _weigh(rows: Array, weights: Array, total: Array) -> None:
    """Multiplies rows (N, D) by weights (N,) and adds them to total (D,)."""
    for n in range(rows.shape[0]):
        weight = total.dtype.type(weights[n])
        for d in range(rows.shape[1]):
            value = rows[n, d] * weight
            rows[n, d] = value
            total[d] += value


@compiled
def mask(dims: Ints, inputs: Array, outputs: Array, grads: Array, keep: Flags) -> None:
    """Zeros in what belongs to the rows that are not kept (N,): both factors of every layer, as 0 times infinity is
    not 0."""
    rows = keep.size
    for n in range(rows):
        if keep[n]:
            continue
        inputs[n, :] = 0
        place = 0
        for layer in range(1, dims.size):
            outs = dims[layer]
            outputs[place + n * outs : place + (n + 1) * outs] = 0
            grads[place + n * outs : place + (n + 1) * outs] = 0
            place += rows * outs


@compiled
def clipped_sum(
    values: Array,
    dims: Ints,
    has_bias: Flags,
    relu: Flags,
    inputs: Array,
    outputs: Array,
    grads: Array,
    input_squares: Array,
    losses: Array,
    clipping_norm: float,
    total: Array,
) -> tuple[float, int]:
    """Backward pass of rows that are a unit each, and total (P,) += the sum of their clipped gradients. Returns the sum
    of the finite losses (N,) and the number of rows whose gradient is not finite, which contribute 0."""
    rows = losses.size
    squares, factors, finite = np.empty(rows), np.empty(rows), np.empty(rows, np.bool_)
    backward(values, dims, has_bias, relu, outputs, grads, input_squares, squares)
    if not clip_factors(squares, clipping_norm, factors, finite):
        mask(dims, inputs, outputs, grads, finite)
    add_weighted(dims, has_bias, inputs, outputs, grads, factors, total)
    return tally(losses, finite)


@compiled
def tally(losses: Array, finite: Flags) -> tuple[float, int]:
    """Sum of the finite losses (N,), and number of rows that are not finite."""
    total, bad = 0.0, 0
    for n in range(losses.size):
        total += losses[n] if np.isfinite(losses[n]) else 0.0
        bad += not finite[n]
    return total, bad
