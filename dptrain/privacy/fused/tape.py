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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dptrain.privacy.fused import kernels
from dptrain.privacy.fused.transfer import to_device

ROUNDINGS = 4.0
"""Roundings of the dtype, relative to what was added up, that are charged to the squared norm of a sum: a unit whose
records or tokens cancel is then scaled down too much rather than too little. With computed gradient G + e, where |e| is
at most 2 eps S and S >= |G| is the sum of the parts' norms, (|G| + |e|)^2 <= |G|^2 + 4 eps S^2 up to terms in eps^2."""


@dataclass(frozen=True)
class Segments:
    """Which rows form a unit, for passes in which some unit has several records."""

    unit: Tensor
    """(N,) number of the unit of each row over all models; padding has a unit of its own at the end."""
    num: int
    """Units of all models, and one more for the padding."""
    pairs: tuple[Tensor, Tensor]
    """(M,), (M,) every two rows of the same unit, once."""

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
        counts = np.bincount(unit[real], minlength=num)
        left, right = [], []
        for size in np.unique(counts[counts > 1]):
            begin = np.flatnonzero(starts)[np.flatnonzero(counts[:-1] == size)]
            i, j = np.triu_indices(size, 1)
            left.append((begin[:, None] + i).ravel())
            right.append((begin[:, None] + j).ravel())
        pairs = (np.concatenate(left), np.concatenate(right))
        return cls(
            to_device(unit, device),
            num,
            (to_device(pairs[0], device), to_device(pairs[1], device)),
        )

    def add_up(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (num, ...) sums over the rows of each unit."""
        return rows.new_zeros((self.num, *rows.shape[1:])).index_add_(0, self.unit, rows)


class Entry(Protocol):
    """What one layer's backward pass left."""

    def record_norms(self) -> Tensor:
        """(N,) squared norm of each row's gradient."""

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """(num,) squared norm of each unit's gradient; `record_norms` are this entry's own."""

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
        tokens = self._token_norms()
        if tokens.shape[1] == 1:
            return tokens[:, 0]
        return charged(self._products(self.inputs, self.grads, self.inputs, self.grads), tokens.sqrt().sum(1))

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """Records of a unit, two by two."""
        left, right = segments.pairs
        cross = self._products(self.inputs[left], self.grads[left], self.inputs[right], self.grads[right])
        total = segments.add_up(record_norms).index_add_(0, segments.unit[left], cross, alpha=2.0)
        return charged(total, segments.add_up(self._token_norms().sqrt().sum(1)))

    def _token_norms(self) -> Tensor:
        """(N, T) squared norm of each token's part, |g_t|^2 (|a_t|^2 [+ 1])."""
        inputs = torch.linalg.vector_norm(self.inputs, dim=2).square_()
        grads = torch.linalg.vector_norm(self.grads, dim=2).square_()
        return inputs.add_(1.0).mul_(grads) if self.bias_sum is not None else inputs.mul_(grads)

    def _products(self, a: Tensor, g: Tensor, b: Tensor, h: Tensor) -> Tensor:
        """(M,) sum over tokens t, s of (a_t . b_s [+ 1]) (g_t . h_s)."""
        if a.shape[1] == 1:
            inputs, grads = (a * b).sum((1, 2)), (g * h).sum((1, 2))
            return (inputs + 1) * grads if self.bias_sum is not None else inputs * grads
        inputs, grads = torch.bmm(a, b.mT), torch.bmm(g, h.mT)
        if self.bias_sum is not None:
            inputs = inputs + 1
        return (inputs * grads).sum((1, 2))

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
        return torch.linalg.vector_norm(self.rows, dim=1).square_()

    def unit_norms(self, segments: Segments, record_norms: Tensor) -> Tensor:
        """Squared norms of the units' sums."""
        squares = torch.linalg.vector_norm(segments.add_up(self.rows), dim=1).square_()
        return charged(squares, segments.add_up(record_norms.sqrt()))

    def mask(self, keep: Tensor) -> None:
        """Rows of zeros."""
        self.rows = self.rows.masked_fill(~keep[:, None], 0.0)

    def add_weighted(self, weight: Tensor) -> None:
        """One matrix-vector product per model."""
        models = len(self.total)
        rows = self.rows.view(models, -1, self.rows.shape[1])
        self.total.unsqueeze(1).baddbmm_(weight.view(models, 1, -1), rows)


def charged(squares: Tensor, parts: Tensor) -> Tensor:
    """(M,) squared norms of sums, with `ROUNDINGS` of what was added up on top; `parts` (M,) sums of the parts' norms.
    May write to both."""
    return squares.clamp_(min=0.0).add_(parts.square_(), alpha=ROUNDINGS * torch.finfo(squares.dtype).eps)


def clip_weights(
    entries: Sequence[Entry], clipping_norm: float, segments: Segments | None, always_mask: bool
) -> tuple[Tensor, Tensor]:
    """(N,) what each row's gradient is multiplied by so that no unit's norm exceeds `clipping_norm`, and (N,) bool
    whether its gradient is finite. Rows that are not finite are set to zero in the entries.

    `always_mask` avoids asking whether any row is not finite, for which a GPU would have to wait. The factor is that
    of Opacus, min(1, C / (norm + 1e-6)).
    """
    norms = [entry.record_norms() for entry in entries]
    squares = norms[0] if len(norms) == 1 else torch.stack(norms).sum(0)
    factors, finite, all_finite = _factors(squares, clipping_norm)
    if always_mask or not all_finite:
        for entry in entries:
            entry.mask(finite)
        norms = [norm.masked_fill(~finite, 0.0) for norm in norms]
        factors, _, _ = _factors(squares.masked_fill(~finite, 0.0), clipping_norm)
    if segments is None:
        return factors, finite
    units = [entry.unit_norms(segments, norm) for entry, norm in zip(entries, norms, strict=True)]
    factors, _, _ = _factors(torch.stack(units).sum(0), clipping_norm)
    return factors[segments.unit], finite


def _factors(squares: Tensor, clipping_norm: float) -> tuple[Tensor, Tensor, bool]:
    """(M,) factors, (M,) bool whether finite, and on a CPU whether all are."""
    if squares.is_cuda:
        return (clipping_norm / (squares.sqrt() + 1e-6)).clamp_(max=1.0), squares.isfinite(), False
    factors, finite = torch.empty_like(squares), torch.empty(len(squares), dtype=torch.bool)
    all_finite = kernels.clip_factors(squares.numpy(), clipping_norm, factors.numpy(), finite.numpy())
    return factors, finite, all_finite
