"""The weight gradient of a convolution for every record, from arrays whose channels lie last.

For a row of the kernel, what the kernel sees at one output position is one run of numbers (columns and input channels
lie side by side), so the gradient is a sum over positions of outer products: run times output channels. A tile of it
stays in vector registers for all positions of a record: a few numbers of the run, each times one vector of output
channels. Compilers do not keep an array in registers over two loops, so the tile is written in LLVM's language, in
which the registers have names. Records never meet: each has its own sums, which start at zero.

Tiles that do not fit overlap the one before and write the same numbers again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from dptrain.compiled import compiled

Array = NDArray[np.floating]


def _has_wide_vectors() -> bool:
    try:
        return bool(binding.get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # a processor that LLVM cannot ask
        return False


_HAS_WIDE_VECTORS = _has_wide_vectors()
LANES = 16 if _HAS_WIDE_VECTORS else 8
"""Output channels of a tile."""
HIGH, MIDDLE, LOW = (24, 8, 3) if _HAS_WIDE_VECTORS else (10, 5, 3)
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


def _tile(height: int) -> Callable[..., None]:
    """found[to + k step : ... + LANES] = sum over positions of inputs[at + k] grads[by : by + LANES], k < height; `at`
    and `by` move by their steps from position to position. Flat C-contiguous arrays, nothing is checked."""

    @intrinsic
    def tile(
        _: Any, inputs: Any, at: Any, grads: Any, by: Any, found: Any, to: Any, step: Any, size: Any, at_steps: Any,
        by_steps: Any,
    ) -> Any:  # fmt: skip
        if any(array.layout != "C" or array.ndim != 1 for array in (inputs, grads, found)):
            return None
        pair = types.UniTuple(types.intp, 2)  # type: ignore[no-untyped-call]
        signature = types.void(
            inputs, types.intp, grads, types.intp, found, types.intp, types.intp, pair, pair, pair
        )
        return signature, _generator(height)

    return tile


def _generator(height: int) -> Callable[..., Any]:
    """What writes the two loops over positions, `height` vectors wide."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, at, _, by, _, to, step, *pairs = arguments
        source, weights, target = (
            make_array(signature.args[index])(context, builder, arguments[index]).data  # type: ignore[no-untyped-call]
            for index in (0, 2, 4)
        )
        rows, columns, at_row, at_column, by_row, by_column = (
            builder.extract_value(pair, index) for pair in pairs for index in (0, 1)
        )
        number, index = source.type.pointee, at.type
        vector = ir.VectorType(number, LANES)
        multiply_add = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module,
            ir.FunctionType(vector, [vector] * 3),
            f"llvm.fmuladd.v{LANES}{'f32' if number == ir.FloatType() else 'f64'}",
        )
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)

        def loop(
            count: Any, starts: list[Any], steps: list[Any], sums: list[Any], body: Callable[..., list[Any]]
        ) -> list[Any]:
            """`body(positions, sums)` count >= 1 times; positions move by steps. The sums after the last."""
            before, inside = builder.block, builder.append_basic_block()
            after = builder.append_basic_block()
            builder.branch(inside)
            builder.position_at_end(inside)
            merged = [builder.phi(start.type) for start in (count, *starts, *sums)]
            for phi, start in zip(merged, (count, *starts, *sums), strict=True):
                phi.add_incoming(start, before)
            left, positions, running = merged[0], merged[1 : 1 + len(starts)], merged[1 + len(starts) :]
            totals = body(positions, running)
            remaining = builder.sub(left, ir.Constant(index, 1))
            moved = [builder.add(position, by) for position, by in zip(positions, steps, strict=True)]
            for phi, end in zip(merged, (remaining, *moved, *totals), strict=True):
                phi.add_incoming(end, builder.block)
            builder.cbranch(builder.icmp_signed(">", remaining, ir.Constant(index, 0)), inside, after)
            builder.position_at_end(after)
            return totals

        def position(places: list[Any], sums: list[Any]) -> list[Any]:
            lanes = builder.load(builder.bitcast(builder.gep(weights, [places[1]]), vector.as_pointer()))
            lanes.align = 4
            run, totals = builder.gep(source, [places[0]]), []
            for k, total in enumerate(sums):
                one = builder.load(builder.gep(run, [ir.Constant(index, k)]))
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, one, first), undefined, everywhere
                )
                totals.append(builder.call(multiply_add, [spread, lanes, total]))
            return totals

        def row(places: list[Any], sums: list[Any]) -> list[Any]:
            return loop(columns, places, [at_column, by_column], sums, position)

        zeros = [ir.Constant(vector, [0.0] * LANES)] * height
        totals = loop(rows, [at, by], [at_row, by_row], zeros, row)
        for k, total in enumerate(totals):
            place = builder.gep(target, [builder.add(to, builder.mul(step, ir.Constant(index, k)))])
            builder.store(total, builder.bitcast(place, vector.as_pointer())).align = 4
        return context.get_dummy_value()

    return generate


_high, _middle, _low, _single = _tile(HIGH), _tile(MIDDLE), _tile(LOW), _tile(1)


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
                        _high(flat, at, gradient, by, target, to * outs + lane, outs, size, at_steps, by_steps)
                    elif high == MIDDLE:
                        _middle(flat, at, gradient, by, target, to * outs + lane, outs, size, at_steps, by_steps)
                    elif high == LOW:
                        _low(flat, at, gradient, by, target, to * outs + lane, outs, size, at_steps, by_steps)
                    else:
                        _single(flat, at, gradient, by, target, to * outs + lane, outs, size, at_steps, by_steps)
