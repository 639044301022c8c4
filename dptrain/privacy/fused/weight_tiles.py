"""The weight gradient of a convolution for every record, from arrays whose channels lie last.

For a row of the kernel, what the kernel sees at one output position is one run of numbers (columns and input channels
lie side by side), so the gradient is a sum over positions of outer products: run times output channels. A tile of it
stays in vector registers for all positions of a record: a few numbers of the run, each times one vector of output
channels (`dptrain/tiles.py`). Records never meet: each has its own sums, which start at zero.

Tiles that do not fit overlap the one before and write the same numbers again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.compiled import compiled
from dptrain.tiles import HAS_WIDE_VECTORS, LANES, tile

Array = NDArray[np.floating]

HIGH, MIDDLE, LOW = (24, 8, 3) if HAS_WIDE_VECTORS else (10, 5, 3)
"""Numbers of the run in a tile; with its vector of output channels the highest fits the registers."""


def weight_gradients(
    inputs: Array, grads: Array, kernel: tuple[int, int], stride: list[int], padding: list[int], dilation: list[int]
) -> Array:
    """(N, rows, columns, in, out) from inputs (N, H, W, in) and the outputs' gradients (N, H', W', out), out >= LANES,
    both C-contiguous. Zero padding, one group of channels."""
    if inputs.dtype != grads.dtype:
        raise TypeError(f"Inputs are {inputs.dtype}, gradients {grads.dtype}.")
    channels = inputs.shape[3]
    found = np.empty((len(inputs), *kernel, channels, grads.shape[3]), inputs.dtype)
    length = kernel[1] * channels if dilation[1] == 1 else channels
    runs = range(kernel[1] * channels // length)
    tiles = [
        (run * dilation[1] * channels + start, run * length + start, height)
        for run in runs
        for start, height in _cover(length)
    ]
    lanes = [min(start, grads.shape[3] - LANES) for start in range(0, grads.shape[3], LANES)]
    vertical, horizontal = zip(stride, padding, strict=True)
    _fill(inputs, grads, found, np.array(tiles), np.array(lanes), vertical, horizontal, dilation[0])
    return found


def _cover(length: int) -> list[tuple[int, int]]:
    """Tiles (start, height) that cover a run with little twice: high ones, then lower ones for what is left."""
    tiles, start = [], 0
    for height, least in ((HIGH, MIDDLE + 1), (MIDDLE, LOW + 1), (LOW, 2), (1, 1)):
        while length - start >= (least if length >= height else height):
            start = min(start, length - height)
            tiles.append((start, height))
            start += height
    return tiles


_high, _middle, _low, _single = (tile(height, side_by_side=True) for height in (HIGH, MIDDLE, LOW, 1))


@compiled
def _fill(
    inputs: Array, grads: Array, found: Array, tiles: NDArray[np.int64], lanes: NDArray[np.int64],
    vertical: tuple[int, int], horizontal: tuple[int, int], dilation: int,
) -> None:  # fmt: skip
    """Rows of `tiles`: offset of the first number from that of the position, row of the gradient, height. `vertical`
    and `horizontal`: stride and padding along an axis."""
    (down, above), (right, beside) = vertical, horizontal
    num, height, width, channels = inputs.shape
    _, rows, columns, outs = grads.shape
    wide = (width + 2 * beside) * channels
    border = np.zeros((height + 2 * above, width + 2 * beside, channels), inputs.dtype)
    flat, by_record, is_padded = border.reshape(-1), 0, above + beside > 0
    if not is_padded:
        flat, by_record = inputs.reshape(-1), height * width * channels
    gradient, target = grads.reshape(-1), found.reshape(-1)
    length = found.shape[2] * channels
    size, at_steps, by_steps = (rows, columns), (down * wide, right * channels), (columns * outs, outs)
    for n in range(num):
        if is_padded:
            border[above : above + height, beside : beside + width] = inputs[n]
        for row in range(found.shape[1]):
            base = n * by_record + row * dilation * wide
            for t in range(len(tiles)):
                at, to, high = base + tiles[t, 0], (n * found.shape[1] + row) * length + tiles[t, 1], tiles[t, 2]
                for lane in lanes:
                    by = n * rows * columns * outs + lane
                    if high == HIGH:
                        _high(flat, at, 1, at_steps, gradient, by, by_steps, target, to * outs + lane, outs, size)
                    elif high == MIDDLE:
                        _middle(flat, at, 1, at_steps, gradient, by, by_steps, target, to * outs + lane, outs, size)
                    elif high == LOW:
                        _low(flat, at, 1, at_steps, gradient, by, by_steps, target, to * outs + lane, outs, size)
                    else:
                        _single(flat, at, 1, at_steps, gradient, by, by_steps, target, to * outs + lane, outs, size)
