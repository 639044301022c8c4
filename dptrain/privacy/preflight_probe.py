"""What the preflight drives and with which batches: steps of an engine on copies of a model, and what reaches the
optimizer in them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from dptrain.privacy.engine import RecordLoss
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream


class StepEngine(Protocol):
    """What the preflight drives: `PrivateEngine`, or a model of a block of the fused engine (`BlockProbe`)."""

    @property
    def ledger(self) -> Ledger:
        """What was entered."""

    def step(
        self, features: Tensor, labels: Tensor, owner: Tensor, units: NDArray[np.int64], max_records: int
    ) -> float:
        """One step; the optimizer's own `step` is called with the gradient in place."""


EngineFactory = Callable[..., StepEngine]


class _Capture(Optimizer):
    """An optimizer that keeps the gradient it is handed and leaves the weights alone."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {})
        self.seen: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> None:
        self.seen.append(
            [
                torch.zeros_like(param) if param.grad is None else param.grad.detach().clone()
                for group in self.param_groups
                for param in group["params"]
            ]
        )


@dataclass(frozen=True)
class ProbeBatch:
    features: Tensor
    labels: Tensor
    owner: Tensor
    units: NDArray[np.int64]

    def keep(self, units: list[int]) -> ProbeBatch:
        """The same batch with these units only."""
        rows = torch.cat([torch.nonzero(self.owner == unit).flatten() for unit in units]) if units else self.owner[:0]
        owner = torch.cat([torch.full((int((self.owner == u).sum()),), i) for i, u in enumerate(units)] or [rows])
        return ProbeBatch(self.features[rows], self.labels[rows], owner, self.units[units])

    def apart(self) -> ProbeBatch:
        """The same records, each a unit of its own: engines may go another way where no unit has several."""
        every = torch.arange(len(self.owner))
        return dataclasses.replace(self, owner=every, units=every.numpy())

    def repeat(self, copies: int) -> ProbeBatch:
        """So many copies of every unit, each a unit of its own."""
        num_units = len(self.units)
        shift = torch.arange(copies).repeat_interleave(len(self.owner)) * num_units
        return ProbeBatch(
            torch.cat([self.features] * copies),
            torch.cat([self.labels] * copies),
            self.owner.repeat(copies) + shift,
            np.tile(self.units, copies),
        )


class Probe:
    """Runs engine steps on copies of the model."""

    def __init__(
        self, model: nn.Module, record_loss: RecordLoss, mechanism: Mechanism, engine: EngineFactory, num_units: int
    ) -> None:
        self.model, self.record_loss, self.mechanism = model, record_loss, mechanism
        self._engine, self._num_units = engine, num_units
        self._gradients: Tensor | None = None

    def steps(
        self,
        batches: list[ProbeBatch],
        clipping_norm: float,
        sigma: float = 0.0,
        seed: int = 0,
        max_records: int = 10**9,
    ) -> tuple[list[Tensor], Ledger]:
        """What reaches the optimizer in each step, flat and times the divisor: (clipped sum + noise)."""
        model = copy.deepcopy(self.model).train()
        params = [param for param in model.parameters() if param.requires_grad]
        mechanism = dataclasses.replace(
            self.mechanism, clipping_norm=clipping_norm, noise_multiplier=sigma, num_steps=len(batches)
        )
        capture = _Capture(params)
        members = np.ones(self._num_units, dtype=bool)
        engine = self._engine(model, self.record_loss, capture, mechanism, NoiseStream(seed), members)
        for batch in batches:
            engine.step(batch.features, batch.labels, batch.owner, batch.units, max_records)
        if len(capture.seen) != len(batches):
            raise RuntimeError(f"{len(capture.seen)} updates reached the weights in {len(batches)} steps")
        divisor = self.mechanism.expected_batch_size
        return [torch.cat([part.double().flatten() for part in seen]) * divisor for seen in capture.seen], engine.ledger

    def sum(self, batch: ProbeBatch, clipping_norm: float, max_records: int = 10**9) -> Tensor:
        """Noiseless clipped sum of one step."""
        return self.steps([batch], clipping_norm, max_records=max_records)[0][-1]

    def sums(self, batches: list[ProbeBatch], clipping_norm: float) -> list[Tensor]:
        """Noiseless clipped sums of several steps of one engine."""
        return self.steps(batches, clipping_norm)[0]

    def autograd(self, batch: ProbeBatch) -> Tensor:
        """(units, d) mean gradient of each unit of the whole batch, by plain autograd, record by record, no hooks."""
        if self._gradients is None:
            self._gradients = self._autograd(batch)
        return self._gradients

    def _autograd(self, batch: ProbeBatch) -> Tensor:
        model = copy.deepcopy(self.model).train()
        params = [param for param in model.parameters() if param.requires_grad]
        rows = []
        for unit in range(len(batch.units)):
            mine = torch.nonzero(batch.owner == unit).flatten()
            total = torch.zeros(sum(param.numel() for param in params), dtype=torch.float64)
            for row in mine.tolist():
                loss = self.record_loss(model(batch.features[row : row + 1]), batch.labels[row : row + 1]).sum()
                grads = torch.autograd.grad(loss, params, allow_unused=True)
                total += torch.cat(
                    [
                        (torch.zeros_like(param) if grad is None else grad).double().flatten()
                        for param, grad in zip(params, grads, strict=True)
                    ]
                )
            rows.append(total / len(mine))
        return torch.stack(rows)


def without_dropout(model: nn.Module) -> nn.Module:
    """A copy whose dropout layers let everything through in train mode too."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model
