"""The arithmetic of `chain.py` in compiled loops: a whole network's pass is one call, and elementwise work and norms
are one pass through a core's cache each.

Shapes: N rows (records), L layers with `dims` (L+1,) units, P parameters in the order of `named_parameters()` (weight
(out, in) and, where `has_bias` (L,), bias (out,) of one layer after the other). What belongs to all layers lies in one
array, layer after layer: `outputs` and `grads` are (N * sum(dims[1:]),). A layer is followed by ReLU where `relu` (L,).

Squared norms are added up in float64: float32 would lose 1e-4 of a million equal values, and squares of large and small
numbers. The products are BLAS's (SciPy's OpenBLAS).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.compiled import compiled

Array = NDArray[np.floating]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


LARGEST = 2.0**200
"""Squared norm above which a row counts as not finite. Its clip weight, or the weight times a factor of its gradient,
would be a float32 below 1e-38, which has few digits: rounded up it lets the row move the sum by more than C."""


@compiled
def row_squares(rows: Array, squares: Array) -> None:
    """squares (N,) of the norms of rows (N, D); infinite above `LARGEST`, and for NaN."""
    for n in range(rows.shape[0]):
        total = 0.0
        for d in range(rows.shape[1]):
            value = np.float64(rows[n, d])
            total += value * value
        squares[n] = total if total <= LARGEST else np.inf


@compiled
def ascends(owner: Ints) -> bool:
    """Whether every number is larger than the one before."""
    falls = 0
    for position in range(1, owner.size):
        falls += owner[position] <= owner[position - 1]
    return falls == 0


@compiled
def gather(source: NDArray[Any], rows: Ints, out: NDArray[Any]) -> None:
    """out (B, D) = source (M, D) at rows (R,), at the first of them behind R."""
    for position in range(out.shape[0]):
        row = rows[position] if position < rows.size else rows[0]
        if row < 0 or row >= source.shape[0]:
            raise IndexError("A row of a batch is not among the records.")
        for d in range(out.shape[1]):
            out[position, d] = source[row, d]


@compiled
def forward(
    values: Array, dims: Ints, has_bias: Flags, relu: Flags, inputs: Array, outputs: Array, squares: Array
) -> None:
    """Writes `outputs` for `inputs` (N, dims[0]), and squares (L, N) of the norms of each layer's inputs."""
    rows = inputs.shape[0]
    zero = values.dtype.type(0)
    parameter, place, below = 0, 0, inputs
    for layer in range(relu.size):
        ins, outs = dims[layer], dims[layer + 1]
        row_squares(below, squares[layer])
        weight = values[parameter : parameter + outs * ins].reshape(outs, ins)
        parameter += outs * ins
        z = outputs[place : place + rows * outs].reshape(rows, outs)
        place += rows * outs
        np.dot(below, weight.T, z)
        if has_bias[layer]:
            bias = values[parameter : parameter + outs]
            parameter += outs
            for n in range(rows):
                for d in range(outs):
                    z[n, d] += bias[d]
        if relu[layer]:
            for n in range(rows):
                for d in range(outs):
                    # NaN stays.
                    z[n, d] = zero if z[n, d] <= zero else z[n, d]
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
            weight = values[parameter : parameter + outs * ins].reshape(outs, ins)
            np.dot(g, weight, grads[place - rows * ins : place].reshape(rows, ins))


@compiled
def add_weighted(
    dims: Ints, has_bias: Flags, inputs: Array, outputs: Array, grads: Array, weights: Array, total: Array
) -> None:
    """total (P,) += sum over rows of each row's gradient times weights (N,). Leaves weighted rows in `grads`."""
    rows = inputs.shape[0]
    parameter, place, below = 0, 0, inputs
    for layer in range(has_bias.size):
        ins, outs = dims[layer], dims[layer + 1]
        g = grads[place : place + rows * outs].reshape(rows, outs)
        after = parameter + outs * ins
        bias = np.zeros(outs, total.dtype)
        for n in range(rows):
            weight = weights[n]
            for d in range(outs):
                value = g[n, d] * weight
                g[n, d] = value
                bias[d] += value
        product = np.dot(g.T, below).reshape(-1)
        for i in range(product.size):
            total[parameter + i] += product[i]
        if has_bias[layer]:
            for d in range(outs):
                total[after + d] += bias[d]
            after += outs
        below = outputs[place : place + rows * outs].reshape(rows, outs)
        place += rows * outs
        parameter = after


@compiled
def clip_factors(squares: Array, clipping_norm: float, factors: Array, finite: Flags) -> bool:
    """factors (N,) min(1, C / (norm + 1e-6)) of squared norms (N,), 0 where a square is not in [0, `LARGEST`];
    finite (N,) says where it is, and the result whether that is so everywhere."""
    bad = 0
    for n in range(squares.size):
        finite[n] = 0.0 <= squares[n] <= LARGEST
        factors[n] = min(1.0, clipping_norm / (np.sqrt(squares[n]) + 1e-6)) if finite[n] else 0.0
        bad += not finite[n]
    return bad == 0


@compiled
def tally(losses: Array, weights: Array, finite: Flags) -> tuple[float, int]:
    """Sum of the finite losses (N,), and number of records that are not finite; rows of weight 0 are padding."""
    total, bad = 0.0, 0
    for n in range(losses.size):
        if weights[n] > 0:
            total += losses[n] if np.isfinite(losses[n]) else 0.0
            bad += not finite[n]
    return total, bad


@compiled
def add_noise(clipped: Array, noise: Array, divisor: float, noised: Array) -> None:
    """noised (P,) = (clipped sum + noise) / divisor."""
    by = noised.dtype.type(divisor)
    for i in range(noised.size):
        noised[i] = (clipped[i] + noise[i]) / by


@compiled
def noise_squares(noised: Array, clipped: Array, divisor: float) -> tuple[float, float]:
    """Squares of the norms of the noise that is in `noised` (P,), times `divisor`, beside the clipped sum (P,), and of
    the clipped sum."""
    noise, total = 0.0, 0.0
    for i in range(noised.size):
        sum_ = np.float64(clipped[i])
        rest = noised[i] * divisor - sum_
        noise += rest * rest
        total += sum_ * sum_
    return noise, total
