"""The tape: what a backward pass leaves per record, its norms, and the sum that clip weights turn it into.

A layer writes one `Entry` per pass. The squared norms of all entries add up to the squared norm of each unit's
gradient; then every entry is asked once for its weighted sum. Nothing is differentiated twice ("book-keeping", Bu et
al. 2023, arXiv 2210.00038).

Two kinds of entry are enough. `Outer` keeps the two factors of a linear layer's gradient, which is never built: the
squared norm of sum_t g_t a_t^T is sum_{t,s} (g_t . g_s)(a_t . a_s) (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022,
arXiv 2110.05679, section 4). `Stored` keeps the gradient of every record.

Shapes: K models, B records of each in a pass (padding included), N = K B rows, model after model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dptrain.privacy.fused import kernels
from dptrain.privacy.fused.layout import is_on_cpu
from dptrain.privacy.fused.transfer import to_device

ROUNDINGS = 4.0
"""Roundings of the dtype, relative to what was added up, that are charged to the squared norm of a sum of one part: a
unit whose records or tokens cancel is then scaled down too much rather than too little. With computed gradient G + e,
where |e| is at most 2 eps S and S >= |G| is the sum of the parts' norms, (|G| + |e|)^2 <= |G|^2 + 4 eps S^2 up to terms
in eps^2. A sum of n parts is rounded n times: twice, for its norm and for the clipped sum, by n eps S / 2 at most."""


@dataclass(frozen=True)
class Segments:
    """Which rows form a unit, for passes in which some unit has several records."""

    unit: Tensor
    """(N,) number of the unit of each row over all models; padding has a unit of its own at the end."""
    num: int
    """Units of all models, and one more for the padding."""
    counts: NDArray[np.int64]
    """(num,) rows of each unit; 0 for the padding."""
    first: NDArray[np.int64]
    """(num - 1,) first row of each unit."""

    @classmethod
    def build(cls, owner_KB: NDArray[np.int64], device: torch.device) -> Segments | None:
        """From the position of each row's unit in its model's batch, ascending, -1 for padding; None if every unit has
        one record."""
        owner = owner_KB.ravel()
        real = owner >= 0
        first = np.ones_like(owner_KB, dtype=bool)
        first[:, 1:] = owner_KB[:, 1:] != owner_KB[:, :-1]
        starts = first.ravel() & real
        if starts.sum() == real.sum():
            return None
        unit = np.cumsum(starts) - 1
        num = int(starts.sum()) + 1
        unit[~real] = num - 1
        return cls(to_device(unit, device), num, np.bincount(unit[real], minlength=num), np.flatnonzero(starts))

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """(M,), (M,) every two rows of the same unit, once."""
        left, right = [], []
        for size in np.unique(self.counts[self.counts > 1]):
            begin = self.first[np.flatnonzero(self.counts[:-1] == size)]
            i, j = np.triu_indices(size, 1)
            left.append((begin[:, None] + i).ravel())
            right.append((begin[:, None] + j).ravel())
        device = self.unit.device
        return to_device(np.concatenate(left), device), to_device(np.concatenate(right), device)

    @cached_property
    def roundings(self) -> Tensor:
        """(num,) what `charged` charges to each unit's sum."""
        return to_device(ROUNDINGS * np.maximum(self.counts, 1), self.unit.device)

    def add_up(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (num, ...) sums over the rows of each unit."""
        return rows.new_zeros((self.num, *rows.shape[1:])).index_add_(0, self.unit, rows)


class Entry(Protocol):
    """What one layer's backward pass left."""

    def record_norms(self) -> Tensor:
        """(N,) squared norm of each row's gradient, float64."""

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """(num,) squared norm of each unit's gradient, float64; `record_norms` are this entry's own."""

    def mask(self, keep: Tensor) -> None:
        """Set the gradients of the rows that are not kept (N,) to zero, whatever they hold."""

    def add_weighted(self, weight: Tensor) -> None:
        """Add the sum of the rows' gradients times `weight` (N,) to the sum of each model."""


@dataclass
class Outer:
    """Gradient sum_t g_t a_t^T of a linear layer over the T tokens of a row, and sum_t g_t of its bias."""

    inputs: Tensor
    """a: (N, T, D)."""
    grads: Tensor
    """g: (N, T, O)."""
    weight_sum: Tensor
    """(K, O, D) sum of each model; added to."""
    bias_sum: Tensor | None
    """(K, O)."""

    def record_norms(self) -> Tensor:
        """Without building the gradient: one number per record for T = 1, a T x T Gram matrix otherwise."""
        inputs, grads = self._token_norms()
        if inputs.shape[1] == 1:
            return inputs.mul_(grads)[:, 0]
        own = self._products(self.inputs, self.grads, self.inputs, self.grads)
        own += self._lost(inputs.sqrt().sum(1), grads.sqrt().sum(1))
        return charged(own, inputs.mul_(grads).sqrt_().sum(1), self.grads.dtype)

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """Records of a unit, two by two."""
        left, right = segments.pairs
        cross = self._products(self.inputs[left], self.grads[left], self.inputs[right], self.grads[right])
        total = segments.add_up(record_norms).index_add_(0, segments.unit[left], cross, alpha=2.0)
        inputs, grads = self._token_norms()
        if inputs.shape[1] > 1:
            total += self._lost(*(segments.add_up(each.sqrt().sum(1)) for each in (inputs, grads)))
        parts = segments.add_up(inputs.mul_(grads).sqrt_().sum(1))
        return charged(total, parts, self.grads.dtype, segments.roundings)

    def _token_norms(self) -> tuple[Tensor, Tensor]:
        """(N, T) squared norms |a_t|^2 [+ 1] and |g_t|^2, whose product is that of a token's part."""
        inputs, grads = squared_norms(self.inputs), squared_norms(self.grads)
        return inputs.add_(1.0) if self.bias_sum is not None else inputs, grads

    def _lost(self, inputs: Tensor, grads: Tensor) -> Tensor:
        """(M,) what products of tokens may lose because they are too small for the dtype; `inputs` and `grads` (M,) are
        the sums of norms of a record's or unit's tokens. One of two factors may be tiny because the other is huge."""
        tiny = torch.finfo(self.grads.dtype).tiny
        return (inputs.square() * self.grads.shape[2] + grads.square() * self.inputs.shape[2]).mul_(tiny)

    def _products(self, a: Tensor, g: Tensor, b: Tensor, h: Tensor) -> Tensor:
        """(M,) sum over tokens t, s of (a_t . b_s [+ 1]) (g_t . h_s)."""
        if a.shape[1] == 1:
            # In the dtype a product of two large numbers could be infinite.
            inputs, grads = ((x.double() * y.double()).sum((1, 2)) for x, y in ((a, b), (g, h)))
            return (inputs + 1) * grads if self.bias_sum is not None else inputs * grads
        inputs, grads = torch.bmm(a, b.mT), torch.bmm(g, h.mT)
        if self.bias_sum is not None:
            inputs = inputs + 1
        return (inputs * grads).sum((1, 2), dtype=torch.float64)

    def mask(self, keep: Tensor) -> None:
        """Both factors: 0 times infinity is not 0."""
        self.inputs = self.inputs.masked_fill(~keep.view(-1, 1, 1), 0.0)
        self.grads = self.grads.masked_fill(~keep.view(-1, 1, 1), 0.0)

    def add_weighted(self, weight: Tensor) -> None:
        """One product per model."""
        models, outs = self.weight_sum.shape[:2]
        grads = (self.grads * weight.view(-1, 1, 1)).view(models, -1, outs)
        self.weight_sum.baddbmm_(grads.mT, self.inputs.reshape(models, grads.shape[1], -1))
        if self.bias_sum is not None:
            self.bias_sum.add_(grads.sum(1))


@dataclass
class Stored:
    """The gradient of every row."""

    rows: Tensor
    """(N, P)."""
    total: Tensor
    """(K, P) sum of each model; added to."""

    def record_norms(self) -> Tensor:
        """Squared norms of rows."""
        return squared_norms(self.rows)

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """Squared norms of the units' sums."""
        parts = segments.add_up(record_norms.sqrt())
        return charged(squared_norms(segments.add_up(self.rows)), parts, self.rows.dtype, segments.roundings)

    def mask(self, keep: Tensor) -> None:
        """Rows of zeros."""
        self.rows = self.rows.masked_fill(~keep[:, None], 0.0)

    def add_weighted(self, weight: Tensor) -> None:
        """One matrix-vector product per model."""
        models = len(self.total)
        rows = self.rows.view(models, -1, self.rows.shape[1])
        self.total.unsqueeze(1).baddbmm_(weight.view(models, 1, -1), rows)


def squared_norms(rows: Tensor) -> Tensor:
    """(..., D) -> (...) in float64: float32 loses 1e-4 of a million equal values, and squares leave its range. Infinite
    above `kernels.LARGEST`."""
    if not is_on_cpu(rows):
        squares = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64).square_()
        return squares.masked_fill_(~(squares <= kernels.LARGEST), math.inf)
    # torch would copy the rows to float64 first.
    flat = rows.reshape(-1, rows.shape[-1])
    found = torch.empty(len(flat), dtype=torch.float64)
    kernels.row_squares(flat.numpy(), found.numpy())
    return found.view(rows.shape[:-1])


def charged(squares: Tensor, parts: Tensor, dtype: torch.dtype, roundings: Tensor | float = ROUNDINGS) -> Tensor:
    """(M,) squared norms of sums, with `roundings` of what was added up on top; `parts` (M,) sums of the parts' norms,
    which were added up in `dtype`. Infinite where a product was. May write to both."""
    squares = squares.masked_fill_(squares == -math.inf, math.inf)
    return squares.clamp_(min=0.0).add_(parts.square_().mul_(roundings), alpha=torch.finfo(dtype).eps)


def clip_weights(
    entries: Sequence[Entry], clipping_norm: float, segments: Segments | None, always_mask: bool
) -> tuple[Tensor, Tensor]:
    """(N,) what each row's gradient is multiplied by so that no unit's norm exceeds `clipping_norm`, and (N,) bool
    whether its gradient is finite. Rows that are not finite are set to zero in the entries; a unit whose norm is not
    counts as not finite, and its factor is 0.

    `always_mask` avoids asking whether any row is not finite, for which a GPU would have to wait. The factor is that
    of Opacus, min(1, C / (norm + 1e-6)), in float64.
    """
    norms = [entry.record_norms() for entry in entries]
    squares = norms[0] if len(norms) == 1 else torch.stack(norms).sum(0)
    factors, finite, all_finite = _factors(squares, clipping_norm)
    if always_mask or not all_finite:
        for entry in entries:
            entry.mask(finite)
        norms = [norm.masked_fill(~finite, 0.0) for norm in norms]
    if segments is None:
        return factors, finite
    units = [entry.unit_norms(segments, norm) for entry, norm in zip(entries, norms, strict=True)]
    factors, sound, _ = _factors(torch.stack(units).sum(0), clipping_norm)
    return factors[segments.unit], finite & sound[segments.unit]


def _factors(squares: Tensor, clipping_norm: float) -> tuple[Tensor, Tensor, bool]:
    """(M,) factors, 0 where the square is no number from 0 to infinity; (M,) bool where it is; whether all are (False
    where asking would take long)."""
    if not is_on_cpu(squares):
        sound = (squares >= 0) & (squares <= kernels.LARGEST * min(clipping_norm, 1.0) ** 2)
        factors = (clipping_norm / (squares.sqrt() + 1e-6)).clamp_(max=1.0)
        return factors.masked_fill(~sound, 0.0), sound, False
    factors, sound = torch.empty_like(squares), torch.empty(len(squares), dtype=torch.bool)
    all_sound = kernels.clip_factors(squares.numpy(), clipping_norm, factors.numpy(), sound.numpy())
    return factors, sound, all_sound
