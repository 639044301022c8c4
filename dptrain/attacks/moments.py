"""What the reference models say about every record: count, mean and squares of the IN and of the OUT signals.

Sums over all models are kept, and the values of a target and its twin are taken out of them: O(MN) time, O(N) memory,
and never a loop over records. Signals are centred on each record's mean over all models first, so that sums of squares
lose no digits to a large common offset. float32 signals stay float32 in memory; all arithmetic is float64, on pieces of
the records that fit into a processor's cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import (
    BoolArray,
    FloatArray,
    Floats,
    IntArray,
    checked_floats,
    checked_membership,
)
from dptrain.attacks.gaussian import Moments
from dptrain.attacks.twins import find_twins, units_of_twins

_BLOCK_VALUES = 1 << 19
"""Signals converted to float64 at one time while the sums are made."""

PIECE_RECORDS = 1 << 15
"""Records of a piece: long enough that numpy's own time per call does not show, short enough for the cache."""


@dataclass(frozen=True)
class References:
    """Sums over all models, from which some can be taken out. Index 0 is OUT, 1 is IN."""

    signals: Floats
    membership: BoolArray
    unit_M: IntArray
    centre_N: FloatArray
    count_2N: IntArray
    sum_2N: FloatArray
    square_2N: FloatArray

    @classmethod
    def of(cls, signals_MN: npt.ArrayLike, membership_MN: npt.ArrayLike) -> "References":
        """Raises ValueError: shapes that do not fit, or signals that are not finite."""
        signals = checked_floats(signals_MN, "signals")
        num_models, num_records = signals.shape
        membership = checked_membership(membership_MN, (num_models, num_records))
        centre_N = np.empty(num_records)
        count_2N = np.empty((2, num_records), dtype=np.int64)
        sum_2N, square_2N = np.empty((2, num_records)), np.empty((2, num_records))
        for records in slices(num_records, max(1, _BLOCK_VALUES // num_models)):
            value_MC = signals[:, records].astype(np.float64)
            centre_N[records] = value_MC.mean(axis=0)
            value_MC -= centre_N[records]
            member_MC = membership[:, records]
            count_2N[1, records] = member_MC.sum(axis=0)
            inside_MC = value_MC * member_MC
            value_MC -= inside_MC
            for side, side_MC in enumerate((value_MC, inside_MC)):
                sum_2N[side, records] = side_MC.sum(axis=0)
                square_2N[side, records] = np.einsum("mc,mc->c", side_MC, side_MC)
        count_2N[0] = num_models - count_2N[1]
        return cls(signals, membership, units_of_twins(find_twins(membership)), centre_N, count_2N, sum_2N, square_2N)

    @property
    def num_models(self) -> int:
        return int(self.signals.shape[0])

    @property
    def num_records(self) -> int:
        return int(self.signals.shape[1])

    def units(self, targets: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield, unit by unit, places in `targets` of models that share their references, and the unit's models.

        A target and its twin have the same references: all others.

        Raises:
            ValueError: a unit that leaves fewer than 2 references.
        """
        unit_T = self.unit_M[targets]
        for unit in np.unique(unit_T):
            models = np.flatnonzero(self.unit_M == unit)
            num_references = self.num_models - models.size
            if num_references < 2:
                raise ValueError(
                    f"num_models={self.num_models} leaves {num_references} reference models for target {models[0]} "
                    "(its twin is never one); expected at least 2. Train at least 4 models, or use the threshold "
                    "attack."
                )
            yield np.flatnonzero(unit_T == unit), models

    def centred(self, model: int, records: slice) -> FloatArray:
        return np.asarray(self.signals[model, records] - self.centre_N[records], dtype=np.float64)

    def without(self, models: Sequence[int] | IntArray, records: slice) -> tuple[Moments, Moments]:
        """Return the IN and OUT moments of these records over all models but `models`."""
        count, total, square = self.count_2N[:, records], self.sum_2N[:, records], self.square_2N[:, records]
        count, total, square = count.copy(), total.copy(), square.copy()
        taken_2C = np.empty_like(total)
        for model in models:
            value_C = self.centred(int(model), records)
            member_C = self.membership[model, records]
            np.multiply(value_C, member_C, out=taken_2C[1])
            np.subtract(value_C, taken_2C[1], out=taken_2C[0])
            count[1] -= member_C
            count[0] -= ~member_C
            total -= taken_2C
            taken_2C *= taken_2C
            square -= taken_2C
        filled = np.maximum(count, 1)
        mean = total / filled
        deviation = np.maximum(square - total * mean, 0.0) * (count > 1)
        return Moments(count[1], mean[1], deviation[1]), Moments(count[0], mean[0], deviation[0])


def slices(num_records: int, step: int = PIECE_RECORDS) -> Iterator[slice]:
    """Yield pieces of at most `step` records, in order."""
    for start in range(0, num_records, step):
        yield slice(start, min(start + step, num_records))
