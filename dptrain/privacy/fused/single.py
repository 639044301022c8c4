"""One model of a block behind the interface of `PrivateEngine`, for the preflight.

The model under test is the middle one of three. Its neighbours have other weights, other records and other noise: what
reached one model from another would show as a wrong sum.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.privacy.engine import RecordLoss
from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream

PLACE = 1
"""Row of the model under test in a block of several."""


class BlockProbe:
    """Steps of `model` through `optimizer`, made by a `FusedEngine` of `width` models on `device`."""

    width = 3
    engine_type = FusedEngine
    device = "cpu"
    copies = False
    """Whether the stack trains a copy of the model, which gets the model's weights before every step."""

    def __init__(
        self,
        model: nn.Module,
        record_loss: RecordLoss,
        optimizer: torch.optim.Optimizer,
        mechanism: Mechanism,
        noise: NoiseStream,
        is_member: NDArray[np.bool_],
    ) -> None:
        self._place = min(PLACE, self.width - 1)
        device = torch.device(self.device)
        models, noises = [], []
        for row in range(self.width):
            other = row != self._place
            mine = copy.deepcopy(model).to(device) if self.copies else model
            models.append(_neighbour(model, row).to(device) if other else mine)
            noises.append(noise_on(device, NoiseStream(1000 + row) if other else noise))
        self._stack = Stack(models)
        members = np.stack([is_member] * self.width)
        self._engine = self.engine_type(self._stack, record_loss, mechanism, noises, members)
        self._optimizer, self._model = optimizer, model

    @property
    def ledger(self) -> Ledger:
        """Of the model under test."""
        return self._engine.ledgers[self._place]

    def step(
        self, features: Tensor, labels: Tensor, owner: Tensor, units: NDArray[np.int64], max_records: int
    ) -> float:
        """The neighbours get the same records backwards, without the last unit where there are two."""
        values = self._stack.values
        params = list(self._model.parameters())
        if self.copies:
            values[self._place].copy_(torch.cat([param.detach().flatten() for param in params]))
        features, labels = features.to(values.device), labels.to(values.device)
        mine = UnitBatch(Given(features, labels), owner.numpy(), units)
        kept = owner.numpy() < max(len(units) - 1, 1)
        rows = torch.from_numpy(np.flatnonzero(kept)).to(values.device)
        backwards = Given(features.flip(0)[rows], labels.flip(0)[rows])
        other = UnitBatch(backwards, owner.numpy()[kept], units[: max(len(units) - 1, 1)])
        batches = [mine if row == self._place else other for row in range(self.width)]
        gradient, losses = self._engine.step(batches, max_records)
        mine_only = gradient[self._place].to(params[0].device, copy=True)
        start = 0
        for param in params:
            param.grad = mine_only[start : start + param.numel()].view(param.shape)
            start += param.numel()
        self._optimizer.step()
        return float(losses[self._place])


class LonelyProbe(BlockProbe):
    """The same for models that go through a pass alone."""

    width = 1


class GpuProbe(BlockProbe):
    """The same where a study on a GPU trains: other code computes its layers and draws its noise."""

    device = "cuda"
    copies = True


def noise_on(device: torch.device, stream: NoiseStream) -> NoiseStream | torch.Generator:
    """The stream on a CPU; elsewhere a generator of that device, seeded by the stream."""
    if device.type == "cpu":
        return stream
    return torch.Generator(device).manual_seed(int(stream.name[:15], 16))


def _neighbour(model: nn.Module, row: int) -> nn.Module:
    """A copy with other weights."""
    neighbour = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(row)
    with torch.no_grad():
        for param in neighbour.parameters():
            spread = 0.1 * (1.0 + param.detach().abs().mean().cpu())
            param += (spread * torch.randn(param.shape, generator=generator)).to(param)
    return neighbour
