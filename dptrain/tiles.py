"""A tile of a product of matrices that stays in vector registers while it is added up, for compiled loops.

Compilers do not keep an array in registers over a loop, so the tile is written in LLVM's language, in which registers
have names: a few numbers of one array, each spread over a vector, times a few vectors of another, added to as many sums
as the registers hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array


def _has_wide_vectors() -> bool:
    try:
        return bool(binding.get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # a processor that LLVM cannot ask
        return False


HAS_WIDE_VECTORS = _has_wide_vectors()
LANES = 16 if HAS_WIDE_VECTORS else 8
"""Numbers of a vector."""
WIDTH = 4 if HAS_WIDE_VECTORS else 2
"""Vectors side by side that fit the registers with six numbers beside them."""


def tile(height: int, width: int = 1, side_by_side: bool = False) -> Callable[..., None]:
    """An intrinsic for compiled functions:

        tile(a, at, apart, a_steps, b, by, b_steps, out, to, out_step, size)

    out[to + k out_step + lane] = sum over positions of a[at + k apart] b[by + lane], for k < `height` and
    lane < `width` LANES. Positions are size[0] rows of size[1] columns, at least one each; `at` and `by` move by
    a_steps and b_steps (per row, per column). Arrays are flat and C-contiguous; nothing is checked. `side_by_side` says
    that `apart` is 1.
    """

    @intrinsic
    def multiply(
        _: Any, a: Any, at: Any, apart: Any, a_steps: Any, b: Any, by: Any, b_steps: Any, out: Any, to: Any,
        out_step: Any, size: Any,
    ) -> Any:  # fmt: skip
        if any(array.layout != "C" or array.ndim != 1 for array in (a, b, out)):
            return None
        pair = types.UniTuple(types.intp, 2)  # type: ignore[no-untyped-call]
        place = types.intp
        signature = types.void(a, place, place, pair, b, place, pair, out, place, place, pair)
        return signature, _generator(height, width, side_by_side)

    return multiply


def _generator(height: int, width: int, side_by_side: bool) -> Callable[..., Any]:
    """What writes the two loops over positions around `height` times `width` sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, at, apart, _, _, by, _, _, to, out_step, _ = arguments
        numbers, vectors, target = (
            make_array(signature.args[index])(context, builder, arguments[index]).data  # type: ignore[no-untyped-call]
            for index in (0, 4, 7)
        )
        (a_row, a_column), (b_row, b_column), (rows, columns) = (
            [builder.extract_value(arguments[pair], index) for index in (0, 1)] for pair in (3, 6, 10)
        )
        number, index = numbers.type.pointee, at.type
        vector = ir.VectorType(number, LANES)
        multiply_add = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module,
            ir.FunctionType(vector, [vector] * 3),
            f"llvm.fmuladd.v{LANES}{'f32' if number == ir.FloatType() else 'f64'}",
        )
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)

        def times(step: Any, k: int) -> Any:
            return builder.mul(step, ir.Constant(index, k))

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
            moved = [builder.add(position, step) for position, step in zip(positions, steps, strict=True)]
            for phi, end in zip(merged, (remaining, *moved, *totals), strict=True):
                phi.add_incoming(end, builder.block)
            builder.cbranch(builder.icmp_signed(">", remaining, ir.Constant(index, 0)), inside, after)
            builder.position_at_end(after)
            return totals

        apart_of = [ir.Constant(index, k) if side_by_side else times(apart, k) for k in range(height)]
        heads = [numbers] * height if side_by_side else [builder.gep(numbers, [offset]) for offset in apart_of]

        def position(places: list[Any], sums: list[Any]) -> list[Any]:
            lanes = []
            for w in range(width):
                place = builder.add(places[1], ir.Constant(index, w * LANES))
                lanes.append(builder.load(builder.bitcast(builder.gep(vectors, [place]), vector.as_pointer())))
                lanes[-1].align = 4
            run, totals = builder.gep(numbers, [places[0]]), []
            for k in range(height):
                source = builder.gep(run, [apart_of[k]]) if side_by_side else builder.gep(heads[k], [places[0]])
                one = builder.load(source)
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, one, first), undefined, everywhere
                )
                totals += [
                    builder.call(multiply_add, [spread, lanes[w], sums[k * width + w]]) for w in range(width)
                ]
            return totals

        def row(places: list[Any], sums: list[Any]) -> list[Any]:
            return loop(columns, places, [a_column, b_column], sums, position)

        zeros = [ir.Constant(vector, [0.0] * LANES)] * (height * width)
        totals = loop(rows, [at, by], [a_row, b_row], zeros, row)
        for number_of, total in enumerate(totals):
            k, w = divmod(number_of, width)
            place = builder.add(to, builder.add(times(out_step, k), ir.Constant(index, w * LANES)))
            builder.store(total, builder.bitcast(builder.gep(target, [place]), vector.as_pointer())).align = 4
        return context.get_dummy_value()

    return generate
