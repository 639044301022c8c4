"""GroupNorm, and the ReLU after it, in one loop over records forward and one backward.

Shapes: N records, S positions, C channels; a record is one row of S C numbers, channels last, as convolutions read and
write them. Rows of several models follow each other. A record stays in the cache while it is read two or three times.

Loops run over pieces of a row that hold whole positions, so that every piece meets the channels in the same order, and
are written so that LLVM finds vector instructions for them (a slice per piece, no index arithmetic).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.compiled import compiled

Array = NDArray[np.floating]
_PIECE = 512
"""Numbers in a piece, at most, unless a position has more: five arrays as long as a piece stay in the first cache."""
_WHOLE_VECTORS = 16
"""Pieces of so many positions leave no numbers over after the last vector."""


@compiled
def normalize(
    x: Array, scale: Array, shift: Array, groups: int, eps: float, rectify: bool, y: Array, mean: Array, rstd: Array
) -> None:
    """y (N, S C) of x (N, S C) with the scale and shift (K, C) of the row's model; mean and 1 / sd (N, groups)."""
    rows, size = x.shape
    models, channels = scale.shape
    each, count, zero = channels // groups, size // groups, x.dtype.type(0)
    piece = channels * _positions(size // channels, channels)
    sums, gain, offset = np.empty(piece, x.dtype), np.empty(piece, x.dtype), np.empty(piece, x.dtype)
    for n in range(rows):
        model = n // (rows // models)
        sums[:] = zero
        for start in range(0, size, piece):
            _add(x[n, start : start + piece], sums)
        _fold(sums, channels)
        for group in range(groups):
            mean[n, group] = sums[group * each : (group + 1) * each].sum() / count
            offset[group * each : (group + 1) * each] = mean[n, group]
        _repeat(offset, channels)
        sums[:] = zero
        for start in range(0, size, piece):
            _add_squares(x[n, start : start + piece], offset, sums)
        _fold(sums, channels)
        for group in range(groups):
            rstd[n, group] = 1 / np.sqrt(sums[group * each : (group + 1) * each].sum() / count + eps)
        _set_affine(mean[n], rstd[n], scale[model], shift[model], gain, offset)
        for start in range(0, size, piece):
            if rectify:
                _affine_rectified(x[n, start : start + piece], gain, offset, y[n, start : start + piece])
            else:
                _affine(x[n, start : start + piece], gain, offset, y[n, start : start + piece])


@compiled
def normalize_back(
    grads: Array, x: Array, scale: Array, shift: Array, mean: Array, rstd: Array, rectify: bool, need_inputs: bool,
    inner: Array, of_scale: Array, of_shift: Array,
) -> None:  # fmt: skip
    """Gradients of x, into inner (N, S C) if needed, and of every record's scale and shift (N, C)."""
    rows, size = x.shape
    models, channels = scale.shape
    groups = mean.shape[1]
    each, count, zero = channels // groups, size // groups, x.dtype.type(0)
    piece = channels * _positions(size // channels, channels)
    gain, offset, centre = np.empty(piece, x.dtype), np.empty(piece, x.dtype), np.empty(piece, x.dtype)
    straight, product = np.empty(piece, x.dtype), np.empty(piece, x.dtype)
    for n in range(rows):
        model = n // (rows // models)
        if rectify:
            _set_affine(mean[n], rstd[n], scale[model], shift[model], gain, offset)
        else:  # a value that is never cut
            gain[:] = zero
            offset[:] = 1
        for c in range(channels):
            centre[c] = mean[n, c // each]
        _repeat(centre, channels)
        straight[:] = zero
        product[:] = zero
        for start in range(0, size, piece):
            stop = start + piece
            _add_products(grads[n, start:stop], x[n, start:stop], gain, offset, centre, straight, product)
        _fold(straight, channels)
        _fold(product, channels)
        for c in range(channels):
            of_shift[n, c] = straight[c]
            of_scale[n, c] = product[c] * rstd[n, c // each]
        if not need_inputs:
            continue
        for group in range(groups):
            first, second, spread = zero, zero, rstd[n, group]
            for c in range(group * each, (group + 1) * each):
                first += scale[model, c] * of_shift[n, c]
                second += scale[model, c] * of_scale[n, c]
            for c in range(group * each, (group + 1) * each):
                straight[c] = spread * scale[model, c]
                product[c] = -spread * spread * second / count
                centre[c] = -spread * first / count - product[c] * mean[n, group]
        _repeat(straight, channels)
        _repeat(product, channels)
        _repeat(centre, channels)
        for start in range(0, size, piece):
            stop = start + piece
            _combine(
                grads[n, start:stop], x[n, start:stop], gain, offset, straight, product, centre, inner[n, start:stop]
            )


@compiled
def _positions(available: int, channels: int) -> int:
    """Positions of a piece."""
    most = max(1, min(_PIECE // channels, available))
    return most - most % _WHOLE_VECTORS if most > _WHOLE_VECTORS else most


@compiled
def _add(values: Array, sums: Array) -> None:
    for i in range(len(values)):
        sums[i] += values[i]


@compiled
def _add_squares(values: Array, centre: Array, sums: Array) -> None:
    for i in range(len(values)):
        centred = values[i] - centre[i]
        sums[i] += centred * centred


@compiled
def _affine(values: Array, gain: Array, offset: Array, out: Array) -> None:
    for i in range(len(values)):
        out[i] = gain[i] * values[i] + offset[i]


@compiled
def _affine_rectified(values: Array, gain: Array, offset: Array, out: Array) -> None:
    """NaN stays NaN."""
    zero = values.dtype.type(0)
    for i in range(len(values)):
        value = gain[i] * values[i] + offset[i]
        out[i] = zero if value <= zero else value


@compiled
def _add_products(
    grads: Array, values: Array, gain: Array, offset: Array, centre: Array, straight: Array, product: Array
) -> None:
    """Sums of gradients that were not cut, and of their products with centred values."""
    zero = values.dtype.type(0)
    for i in range(len(values)):
        g = zero if gain[i] * values[i] + offset[i] <= zero else grads[i]
        straight[i] += g
        product[i] += g * (values[i] - centre[i])


@compiled
def _combine(
    grads: Array, values: Array, gain: Array, offset: Array, straight: Array, product: Array, constant: Array,
    out: Array,
) -> None:  # fmt: skip
    zero = values.dtype.type(0)
    for i in range(len(values)):
        g = zero if gain[i] * values[i] + offset[i] <= zero else grads[i]
        out[i] = straight[i] * g + product[i] * values[i] + constant[i]


@compiled
def _fold(sums: Array, channels: int) -> None:
    """Leaves in sums[c] what belongs to channel c: the second half of the positions onto the first, again and again."""
    positions = len(sums) // channels
    while positions > 1:
        half = (positions + 1) // 2
        _add(sums[half * channels : positions * channels], sums[: (positions - half) * channels])
        positions = half


@compiled
def _repeat(values: Array, channels: int) -> None:
    """The first position everywhere: one, two, four, ... of them at a time."""
    done = channels
    while done < len(values):
        more = min(done, len(values) - done)
        values[done : done + more] = values[:more]
        done += more


@compiled
def _set_affine(mean: Array, rstd: Array, scale: Array, shift: Array, gain: Array, offset: Array) -> None:
    """y = gain x + offset, position after position."""
    channels = len(scale)
    each = channels // len(mean)
    for c in range(channels):
        gain[c] = rstd[c // each] * scale[c]
        offset[c] = shift[c] - mean[c // each] * gain[c]
    _repeat(gain, channels)
    _repeat(offset, channels)
