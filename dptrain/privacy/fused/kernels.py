"""Loops that every engine for fleets uses, compiled: gathering, norms, clip factors and noise.

Squared norms are added up in float64: float32 would lose 1e-4 of a million equal values, and squares of large and small
numbers.
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
"""Squared norm above which a row counts as not finite; times C^2 where the clipping norm C is below 1. Its clip weight,
or the weight times a factor of its gradient, would be a float32 below 1e-38, which has few digits: rounded up it lets
the row move the sum by more than C."""


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
    if source.shape[1] != out.shape[1]:
        raise ValueError(
            "Records have another number of values than the model takes (values of a record, values the model takes); "
            "build the model for records of this shape:",
            source.shape[1],
            out.shape[1],
        )
    for position in range(out.shape[0]):
        row = rows[position] if position < rows.size else rows[0]
        if row < 0 or row >= source.shape[0]:
            raise IndexError(
                "A batch names a row that is not among the records (row, number of records); units and records must "
                "be of one cohort:",
                row,
                source.shape[0],
            )
        for d in range(out.shape[1]):
            out[position, d] = source[row, d]


@compiled
def clip_factors(squares: Array, clipping_norm: float, factors: Array, finite: Flags) -> bool:
    """factors (N,) min(1, C / (norm + 1e-6)) of squared norms (N,), 0 where a square is not in [0, `LARGEST`], times
    C^2 for C below 1; finite (N,) says where it is, and the result whether that is so everywhere."""
    bad = 0
    largest = LARGEST * min(clipping_norm, 1.0) ** 2
    for n in range(squares.size):
        finite[n] = 0.0 <= squares[n] <= largest
        factors[n] = min(1.0, clipping_norm / (np.sqrt(squares[n]) + 1e-6)) if finite[n] else 0.0
        bad += not finite[n]
    return bad == 0


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
