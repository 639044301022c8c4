"""Products of matrices that fit a core's cache, in compiled loops.

Tiles of a few rows and vectors of columns stay in registers while they are added up (`dptrain/tiles.py`), and matrices
are read where they lie: libraries copy them into an order of their own first, which costs a sixth of the time at the
sizes of networks for tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.compiled import compiled
from dptrain.tiles import LANES, WIDTH, tile

Array = NDArray[np.floating]
Whole = int | np.int64
"""A compiled caller converts constants: numba would compile once for 1 and again for other numbers."""

HIGH, LOW, BLOCK = 6, 4, 8
"""Rows of a tile, and of a block of a matrix that is flipped."""
_wide_high, _wide_low, _wide_single = tile(HIGH, WIDTH), tile(LOW, WIDTH), tile(1, WIDTH)
_narrow_high, _narrow_low, _narrow_single = tile(HIGH), tile(LOW), tile(1)


@compiled
def product(a: Array, apart: Whole, along: Whole, b: Array, size: int, columns: int, out: Array) -> None:
    """out (rows, columns) = sum over k < size of a[m apart + k along] b[k, n], b (size, columns). Arrays are flat."""
    rows = out.size // columns
    if size == 0:
        out[:] = 0
        return
    if columns < LANES:
        for m in range(rows):
            target = out[m * columns : (m + 1) * columns]
            target[:] = 0
            for k in range(size):
                factor = a[m * apart + k * along]
                for n in range(columns):
                    target[n] += factor * b[k * columns + n]
        return
    column = 0
    while column < columns:
        wide = columns - column >= WIDTH * LANES
        # The last one overlaps the one before, and writes the same numbers again.
        first = column if wide else min(column, columns - LANES)
        _stripe(a, apart, along, b, first, size, out, rows, columns, wide)
        column += WIDTH * LANES if wide else LANES


@compiled
def _stripe(
    a: Array, apart: Whole, along: Whole, b: Array, column: int, size: int, out: Array, rows: int, columns: int,
    wide: bool,
) -> None:  # fmt: skip
    """Columns of `out` from `column` on, as many as a tile is wide."""
    a_steps, b_steps, positions = (0, along), (0, columns), (1, size)
    m = 0
    while m < rows:
        height, start = _next_tile(m, rows)
        at, to = start * apart, start * columns + column
        if wide and height == HIGH:
            _wide_high(a, at, apart, a_steps, b, column, b_steps, out, to, columns, positions)
        elif wide and height == LOW:
            _wide_low(a, at, apart, a_steps, b, column, b_steps, out, to, columns, positions)
        elif wide:
            _wide_single(a, at, apart, a_steps, b, column, b_steps, out, to, columns, positions)
        elif height == HIGH:
            _narrow_high(a, at, apart, a_steps, b, column, b_steps, out, to, columns, positions)
        elif height == LOW:
            _narrow_low(a, at, apart, a_steps, b, column, b_steps, out, to, columns, positions)
        else:
            _narrow_single(a, at, apart, a_steps, b, column, b_steps, out, to, columns, positions)
        m = start + height


@compiled
def _next_tile(done: int, rows: int) -> tuple[int, int]:
    """Height and first row of the next tile: little is written twice."""
    left = rows - done
    if rows >= HIGH and left >= LOW + 1 and left != 2 * LOW:
        return HIGH, min(done, rows - HIGH)
    return (LOW, min(done, rows - LOW)) if rows >= LOW else (1, done)


@compiled
def flip(matrix: Array, flipped: Array) -> None:
    """flipped (ins, outs) of a matrix (outs, ins)."""
    outs, ins = matrix.shape
    whole = outs - outs % BLOCK
    for first in range(0, whole, BLOCK):
        for i in range(ins):
            for o in range(BLOCK):
                flipped[i, first + o] = matrix[first + o, i]
    for i in range(ins):
        for o in range(whole, outs):
            flipped[i, o] = matrix[o, i]
