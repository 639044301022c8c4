"""Batches of several models, and the rows of one pass that they fill.

Poisson batches have different sizes. A pass has as many rows for every model, a multiple of `PAD`; rows that no record
fills repeat one with weight 0. Nothing is ever left out to make a batch fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dptrain.privacy.fused import kernels
from dptrain.privacy.fused.layout import is_on_cpu
from dptrain.privacy.fused.transfer import to_device

PAD = 16
"""Rows of a pass are a multiple of this: every new shape costs a library that compiles its kernels."""


class Records(Protocol):
    """The records of one model's batch, in the order of their units."""

    def __len__(self) -> int:
        """R."""

    def fill(self, start: int, stop: int, features: Tensor, labels: Tensor) -> None:
        """Write records [start, stop), at least one, to the first rows of `features` and `labels`, and record `start`
        to all rows behind them. (Zeros may be a record that the model cannot stand, and 0 times NaN is NaN.)"""

    def like(self, num: int) -> tuple[Tensor, Tensor]:
        """Arrays for `num` records, not filled: features (num, ...), labels (num, ...)."""

    def tables(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        """On a CPU: features (M, D) and labels (M, ...) of records, and which of them (R,) are in the batch."""


class Resident:
    """Arrays of all records, from which batches are picked by row."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels
        self.arrays = (_table(features), labels.numpy()) if is_on_cpu(features) else None
        """On a CPU: features (N, D) and labels (N, ...), views."""

    def pick(self, rows: NDArray[np.int64], features: Tensor, labels: Tensor) -> None:
        """Write the records at `rows` (R,), at least one, to the first R rows, and the first of them to the others."""
        if self.arrays is not None:
            for array, out in zip(self.arrays, (features, labels), strict=True):
                kernels.gather(array.reshape(len(array), -1), rows, out.numpy().reshape(len(out), -1))
            return
        padded = np.concatenate([rows, np.full(len(features) - len(rows), rows[0])])
        index = to_device(padded, self.features.device)
        torch.index_select(self.features, 0, index, out=features)
        torch.index_select(self.labels, 0, index, out=labels)


@dataclass(frozen=True)
class Rows:
    """Records of resident arrays."""

    resident: Resident
    index: NDArray[np.int64]
    """(R,)"""

    def __len__(self) -> int:
        return len(self.index)

    def fill(self, start: int, stop: int, features: Tensor, labels: Tensor) -> None:
        """Gathered straight into place."""
        self.resident.pick(self.index[start:stop], features, labels)

    def like(self, num: int) -> tuple[Tensor, Tensor]:
        """Uninitialised."""
        return _empty(self.resident.features, num), _empty(self.resident.labels, num)

    def tables(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        """Views of the resident arrays."""
        assert self.resident.arrays is not None
        return *self.resident.arrays, self.index


@dataclass(frozen=True)
class Given:
    """Records that were made for this step (augmented ones)."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def fill(self, start: int, stop: int, features: Tensor, labels: Tensor) -> None:
        """Copied."""
        for source, out in ((self.features, features), (self.labels, labels)):
            out[: stop - start] = source[start:stop]
            out[stop - start :] = source[start]

    def like(self, num: int) -> tuple[Tensor, Tensor]:
        """Uninitialised."""
        return _empty(self.features, num), _empty(self.labels, num)

    def tables(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        """All of what was made."""
        return _table(self.features.detach()), self.labels.numpy(), np.arange(len(self))


@dataclass(frozen=True)
class UnitBatch:
    """What one model's step is made from."""

    records: Records
    owner: NDArray[np.int64]
    """(R,) position of each record's unit in `units`, ascending."""
    units: NDArray[np.int64]
    """(B,) sampled units."""

    @cached_property
    def is_single(self) -> bool:
        """Whether every unit has one record, and the units ascend."""
        return kernels.ascends(self.owner)

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(R,) one over the number of records of each record's unit."""
        found: NDArray[np.float64] = 1.0 / np.bincount(self.owner)[self.owner]
        return found


@dataclass(frozen=True)
class Packed:
    """Rows of one pass, model after model."""

    features: Tensor
    """(K B, ...)"""
    labels: Tensor
    """(K B, ...)"""
    weights: Tensor
    """(K B,) one over the number of records of the row's unit in the whole batch; 0 for padding."""
    num_models: int
    """K."""


def pack(batches: Sequence[UnitBatch], ranges: Sequence[tuple[int, int]]) -> Packed:
    """Rows [start, stop) of each model's records, padded to one multiple of `PAD`."""
    rows = rows_of(ranges)
    num = len(batches)
    features, labels = batches[0].records.like(num * rows)
    weights = np.zeros((num, rows), _numpy_type(features))
    for model, (batch, (start, stop)) in enumerate(zip(batches, ranges, strict=True)):
        mine = slice(model * rows, (model + 1) * rows)
        part = (features, labels) if num == 1 else (features[mine], labels[mine])
        if start == stop:
            for array in part:
                array.zero_()
            continue
        batch.records.fill(start, stop, *part)
        weights[model, : stop - start] = 1.0 if batch.is_single else batch.shares[start:stop]
    return Packed(features, labels, to_device(weights.ravel(), features.device), num)


def rows_of(ranges: Sequence[tuple[int, int]]) -> int:
    """Rows of each model in a pass: the longest range, up to a multiple of `PAD`."""
    return max(-(-max(stop - start for start, stop in ranges) // PAD) * PAD, PAD)


def owners(batches: Sequence[UnitBatch], ranges: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """(K, B) position of each row's unit in its model's batch; -1 for padding."""
    found = np.full((len(batches), rows_of(ranges)), -1, dtype=np.int64)
    for row, batch, (start, stop) in zip(found, batches, ranges, strict=True):
        row[: stop - start] = batch.owner[start:stop]
    return found


def cut_at_units(owner: NDArray[np.int64], max_records: int) -> list[tuple[int, int]]:
    """Consecutive [start, stop) ranges of at most `max_records` records that never split a unit; one empty range for
    an empty batch."""
    if len(owner) <= max_records:
        return [(0, len(owner))]
    ends = np.append(np.flatnonzero(np.diff(owner)) + 1, len(owner))
    ranges, start = [], 0
    while start < len(owner):
        fitting = ends[(ends > start) & (ends <= start + max_records)]
        stop = int(fitting[-1] if len(fitting) else ends[ends > start][0])
        ranges.append((start, stop))
        start = stop
    return ranges


def _table(records: Tensor) -> NDArray[Any]:
    """(N, ...) -> (N, D), a view where the memory allows one."""
    table: NDArray[Any] = records.numpy().reshape(len(records), -1)
    return table


def _empty(records: Tensor, num: int) -> Tensor:
    return records.new_empty((num, *records.shape[1:]))


def _numpy_type(features: Tensor) -> str:
    dtype = features.dtype if features.is_floating_point() else torch.get_default_dtype()
    return str(dtype).removeprefix("torch.")
