"""DP-SGD steps of K models at once. Same units, clipping, noise and ledger as `PrivateEngine`, which it must equal.

What differs is how: one backward pass of all records, norms from what it leaves, clip weights folded into one more
product. A unit's gradient is the mean of its records' (the losses are weighted with one over the unit's records), it is
clipped once, records whose gradient is not finite or longer than 2^100 contribute 0, an empty batch is zero plus noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dptrain.errors import PrivacyError
from dptrain.privacy.engine import RecordLoss, check_ascending, stream_name
from dptrain.privacy.fused import kernels
from dptrain.privacy.fused.batches import Given, UnitBatch, cut_at_units, owners, pack
from dptrain.privacy.fused.layout import is_on_cpu
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.fused.tape import Segments, clip_weights
from dptrain.privacy.fused.transfer import to_device
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream

__all__ = ["FusedEngine", "Given", "UnitBatch", "cut_at_units", "mean_losses", "pack"]
PENDING = 32
"""Steps after which what was measured in them is entered in the ledgers."""


class FusedEngine:
    """Turns Poisson batches of K models into noisy gradients, and keeps K ledgers.

    Parameters
    ----------
    stack: the models.
    record_loss: one loss per record.
    mechanism: what is accounted, the same for all K.
    noises: K streams that nothing else uses, one per model: NoiseStream, or generators of the stack's device.
    is_members: (K, U) units that can be sampled, for the ledgers.
    max_rows: rows of one pass (all models together) at most; a unit is never split.
    """

    def __init__(
        self,
        stack: Stack,
        record_loss: RecordLoss,
        mechanism: Mechanism,
        noises: Sequence[torch.Generator | NoiseStream],
        is_members: NDArray[np.bool_],
        max_rows: int = 2**62,
    ) -> None:
        self.stack, self.mechanism = stack, mechanism
        self.noise_multiplier = mechanism.noise_multiplier
        self.clipping_norm = mechanism.clipping_norm
        self.divisor = mechanism.expected_batch_size
        self._ledgers = [Ledger(row, stream_name(noise)) for row, noise in zip(is_members, noises, strict=True)]
        self._pending: list[_Entered] = []
        if len(self._ledgers) != stack.num_models:
            raise ValueError(f"{len(self._ledgers)} noise streams for {stack.num_models} models.")
        self._record_loss, self._noises = record_loss, list(noises)
        self._max_rows = max_rows
        self._noise = torch.zeros_like(stack.values[:1] if is_on_cpu(stack.values) else stack.values)
        self._is_inside_step = False

    @property
    def ledgers(self) -> list[Ledger]:
        """K, of all steps so far."""
        self._write_down()
        return self._ledgers

    def step(self, batches: Sequence[UnitBatch], max_records: int) -> tuple[Tensor, Tensor]:
        """(K, P) what each optimizer is to receive, (clipped sum + noise) / expected_batch_size, and (K,) each model's
        mean record loss (NaN for an empty batch; not private). Does not wait for a GPU, but once in `PENDING` steps.

        `max_records` bounds the records of one model in a pass, unless a single unit has more.
        """
        if self._is_inside_step:
            raise PrivacyError("The last step failed half-way. This engine cannot go on; start the training again.")
        for batch in batches:
            if not batch.is_single:
                check_ascending(batch.owner)
        self._is_inside_step = True
        stack = self.stack
        stack.gradient.zero_()
        limit = max(min(max_records, self._max_rows // stack.pass_width), 1)
        cuts = [cut_at_units(batch.owner, limit) for batch in batches]
        passes = [
            self._clipped_pass(batches, [cut[index] if index < len(cut) else (0, 0) for cut in cuts])
            for index in range(max(map(len, cuts)))
        ]
        sums = passes[0] if len(passes) == 1 else torch.stack(passes).sum(0)
        noised, norms = self._add_noise()
        used = (self.noise_multiplier, self.clipping_norm, self.divisor)
        self._pending.append(_Entered([batch.units.copy() for batch in batches], used, sums[1], norms))
        if len(self._pending) >= PENDING:
            self._write_down()
        self._is_inside_step = False
        return noised, mean_losses(sums[0], batches)

    def _clipped_pass(self, batches: Sequence[UnitBatch], ranges: list[tuple[int, int]]) -> Tensor:
        """Add the clipped sums of these records to `stack.gradient`; returns (2, K): each model's sum of losses and
        number of records that are not finite."""
        stack = self.stack
        if stack.chains:
            found = [
                chain.add_clipped(batch, *span, self._record_loss, self.clipping_norm)
                for chain, batch, span in zip(stack.chains, batches, ranges, strict=True)
            ]
            return torch.from_numpy(np.array(found, dtype=np.float64).T)
        packed = pack(batches, ranges)
        stack.tape.private = True
        segments = None
        if not all(batch.is_single for batch in batches):
            segments = Segments.build(owners(batches, ranges), stack.values.device)
        losses = stack.forward_backward(packed.features, packed.labels, packed.weights, self._record_loss)
        with torch.no_grad():
            factors, finite = clip_weights(stack.tape.entries, self.clipping_norm, segments, not is_on_cpu(losses))
            factors = factors.to(stack.values.dtype)
            for entry in stack.tape.entries:
                entry.add_weighted(factors)
            stack.tape.clear()
            real = packed.weights > 0
            rows = torch.stack(
                [losses.nan_to_num(0.0, 0.0, 0.0).masked_fill(~real, 0.0), (real & ~finite).to(losses.dtype)]
            )
            return rows.view(2, len(batches), -1).sum(2, dtype=torch.float64)

    def _draw(self, model: int) -> Tensor:
        """(P,) noise of one model from its own generator; on a CPU until the next call."""
        row = self._noise[model % len(self._noise)]
        scale = self.noise_multiplier * self.clipping_norm
        if scale > 0:
            row.normal_(0.0, scale, generator=self._noises[model])
        return row

    def _release(self, model: int, sums: Tensor, noised: Tensor) -> None:
        """noised (P,) = (clipped sums (P,) of one model + its noise) / divisor, on a CPU."""
        scale, stream = self.noise_multiplier * self.clipping_norm, self._noises[model]
        if scale > 0 and isinstance(stream, NoiseStream):
            stream.add(sums, scale, self.divisor, noised)
        else:
            torch.add(sums, self._draw(model), out=noised).div_(self.divisor)

    def _add_noise(self) -> tuple[Tensor, Tensor]:
        """(K, P) clipped sums plus noise, divided: what the optimizers receive; and (2, K) norms of the noise that is
        found in them, and of the clipped sums."""
        clipped = self.stack.gradient
        if not is_on_cpu(clipped):
            for model in range(self.stack.num_models):
                self._draw(model)
            noised = torch.add(clipped, self._noise).div_(self.divisor)
            found = torch.add(clipped, noised, alpha=-self.divisor)
            norms = [torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in (found, clipped)]
            return noised, torch.stack(norms)
        noised = torch.empty_like(clipped)
        squares = np.empty((2, self.stack.num_models))
        for model, (row, sums) in enumerate(zip(noised, clipped, strict=True)):
            self._release(model, sums, row)
            squares[:, model] = kernels.noise_squares(row.numpy(), sums.numpy(), self.divisor)
        return noised, torch.from_numpy(np.sqrt(squares))

    def _write_down(self) -> None:
        """Enter pending steps into the ledgers: the only place where a GPU is waited for."""
        pending = list(self._pending)
        if not pending:
            return
        nonfinite_of_steps = torch.stack([entered.nonfinite for entered in pending]).tolist()
        norms_of_steps = torch.stack([entered.norms for entered in pending]).tolist()
        for entered, nonfinite, (noise_norms, sum_norms) in zip(
            pending, nonfinite_of_steps, norms_of_steps, strict=True
        ):
            del self._pending[0]
            for model, ledger in enumerate(self._ledgers):
                ledger.num_nonfinite += int(nonfinite[model])
                ledger.enter(
                    entered.units[model],
                    *entered.used,
                    noise_norms[model],
                    sum_norms[model],
                    self.stack.gradient.shape[1],
                )


@dataclass(frozen=True)
class _Entered:
    """A step that is not yet in the ledgers."""

    units: list[NDArray[np.int64]]
    """Sampled units of each model."""
    used: tuple[float, float, float]
    """Noise multiplier, clipping norm and divisor."""
    nonfinite: Tensor
    """(K,) records that are not finite."""
    norms: Tensor
    """(2, K) norm of the noise that was found, norm of the clipped sum."""


def mean_losses(sums: Tensor, batches: Sequence[UnitBatch]) -> Tensor:
    """(K,) sums of losses over the records of each batch; NaN for an empty one."""
    return sums / to_device(np.array([float(len(batch.owner)) for batch in batches]), sums.device)
