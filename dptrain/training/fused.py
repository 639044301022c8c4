"""Training a group of models of a fleet on the fused engine: the three kinds of step, for all of them at once.

The same streams of the seed tree, batches, losses and updates as `loop.py` has for one model; a model differs from the
one trained there by rounding (and, with noise, by the order in which its own stream is drawn).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.privacy.engine import RecordLoss
from dptrain.privacy.fused.batches import Given, Records, Resident, Rows, UnitBatch, cut_at_units, pack
from dptrain.privacy.fused.engine import FusedEngine, mean_losses
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.fused.transfer import to_device
from dptrain.privacy.noise_stream import NoiseStream
from dptrain.progress import step_done
from dptrain.training.augment import Augmenter
from dptrain.training.loop import TrainedModel, evaluation_steps
from dptrain.training.stacked_optimizer import Recipe, StackedOptimizer

StackStep = Callable[[], tuple[Tensor, Tensor]]
"""The gradient (K, P) for the optimizer and (K,) the mean record loss of each model (NaN if it had no records)."""
UnitStream = Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]


def noise_stream(seed: int, device: torch.device) -> torch.Generator | NoiseStream:
    """Noise of one model, drawn where it trains."""
    return NoiseStream(seed) if device.type == "cpu" else torch.Generator(device).manual_seed(seed)


def private_steps(
    engine: FusedEngine,
    features: Tensor,
    labels: Tensor,
    streams: Sequence[UnitStream],
    max_batch_records: int,
    vary: Sequence[Augmenter],
) -> StackStep:
    """Noisy steps on each model's Poisson batches."""
    resident = Resident(features, labels)

    def step() -> tuple[Tensor, Tensor]:
        batches = [_unit_batch(resident, *next(s), v) for s, v in zip(streams, vary, strict=True)]
        return engine.step(batches, max_batch_records)

    return step


def matched_steps(
    stack: Stack,
    record_loss: RecordLoss,
    features: Tensor,
    labels: Tensor,
    streams: Sequence[UnitStream],
    divisor: float,
    max_rows: int,
    vary: Sequence[Augmenter],
) -> StackStep:
    """The same batches without clipping and noise: mean gradient per unit, summed, divided by the public divisor."""
    resident = Resident(features, labels)

    def step() -> tuple[Tensor, Tensor]:
        batches = [_unit_batch(resident, *next(s), v) for s, v in zip(streams, vary, strict=True)]
        means = plain_gradient(stack, record_loss, batches, [divisor] * len(batches), max_rows)
        return stack.gradient, means

    return step


def usual_steps(
    stack: Stack,
    record_loss: RecordLoss,
    features: Tensor,
    labels: Tensor,
    rows: Sequence[NDArray[np.int64]],
    batch_size: int,
    rngs: Sequence[np.random.Generator],
    max_rows: int,
    vary: Sequence[Augmenter],
) -> StackStep:
    """Minibatches of each model's member records, reshuffled every epoch; the mean loss of a batch."""

    def minibatches(mine: NDArray[np.int64], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        while True:
            order = rng.permutation(mine)
            for start in range(0, len(order), batch_size):
                yield order[start : start + batch_size]

    resident = Resident(features, labels)
    streams = [minibatches(mine, rng) for mine, rng in zip(rows, rngs, strict=True)]

    def step() -> tuple[Tensor, Tensor]:
        drawn = [next(stream) for stream in streams]
        every = [np.arange(len(batch)) for batch in drawn]
        batches = [
            _unit_batch(resident, batch, each, each, one)
            for batch, each, one in zip(drawn, every, vary, strict=True)
        ]
        means = plain_gradient(stack, record_loss, batches, [float(len(batch)) for batch in drawn], max_rows)
        return stack.gradient, means

    return step


def train_stack(
    stack: Stack, recipe: Recipe, step: StackStep, num_evaluations: int, evaluate: Callable[[nn.Module], float]
) -> list[TrainedModel]:
    """Walk exactly `recipe.num_steps` steps; the last weights, or their running average, are the models."""
    steps = evaluation_steps(recipe.num_steps, num_evaluations)
    due = set(steps.tolist())
    optimizer = StackedOptimizer(recipe, stack.values)
    average = stack.values.clone() if recipe.averaging else None
    final = stack.models if average is None else _viewing(stack, average)
    for model in final:
        model.eval()
    losses: list[Tensor] = []
    train_loss: list[list[float]] = []
    utility: list[list[float]] = []
    stack.train()
    for index in range(1, recipe.num_steps + 1):
        gradient, means = step()
        optimizer.step(gradient)
        step_done()
        losses.append(means)
        if average is not None:
            average.lerp_(stack.values, 1 - min(recipe.averaging, index / (index + 9)))
        if index in due:
            utility.append([evaluate(model) for model in final])
            train_loss.append(torch.stack(losses).nanmean(0).tolist())
            losses.clear()
    return [
        TrainedModel(model, steps, np.array(loss), np.array(value), None)
        for model, loss, value in zip(final, zip(*train_loss, strict=True), zip(*utility, strict=True), strict=True)
    ]


def _unit_batch(
    resident: Resident,
    rows: NDArray[np.int64],
    owner: NDArray[np.int64],
    units: NDArray[np.int64],
    vary: Augmenter,
) -> UnitBatch:
    if not vary.spec.active:
        return UnitBatch(Rows(resident, rows), owner, units)
    index = to_device(rows, resident.features.device)
    inputs, targets, position = vary(resident.features[index], resident.labels[index], torch.from_numpy(owner))
    records: Records = Given(inputs, targets)
    return UnitBatch(records, position.numpy(), units)


def plain_gradient(
    stack: Stack, record_loss: RecordLoss, batches: Sequence[UnitBatch], divisors: Sequence[float], max_rows: int
) -> Tensor:
    """Leaves sum over units of the mean gradient of the unit's records, divided, in `stack.gradient`; returns (K,)
    means of record losses."""
    stack.gradient.zero_()
    stack.tape.private = False
    limit = max(max_rows // stack.pass_width, 1)
    cuts = [cut_at_units(batch.owner, limit) for batch in batches]
    passes = [
        _plain_pass(stack, record_loss, batches, [cut[index] if index < len(cut) else (0, 0) for cut in cuts])
        for index in range(max(map(len, cuts)))
    ]
    losses = torch.stack(passes).sum(0)
    by = to_device(np.array(divisors), stack.values.device).to(stack.gradient.dtype)
    stack.gradient.div_(by[:, None])
    return mean_losses(losses, batches)


def _plain_pass(
    stack: Stack, record_loss: RecordLoss, batches: Sequence[UnitBatch], ranges: Sequence[tuple[int, int]]
) -> Tensor:
    """Adds the gradients of these records to `stack.gradient`; returns (K,) sums of losses."""
    if stack.chains:
        found = [
            chain.add_plain(batch, *span, record_loss).sum(dtype=np.float64)
            for chain, batch, span in zip(stack.chains, batches, ranges, strict=True)
        ]
        return torch.from_numpy(np.array(found))
    idle = [row for row, (start, stop) in enumerate(ranges) if start == stop]
    if len(idle) == len(batches):
        return torch.zeros(len(batches), dtype=torch.float64, device=stack.values.device)
    packed = pack(batches, ranges)
    before = stack.gradient[idle]
    losses = stack.forward_backward(packed.features, packed.labels, packed.weights, record_loss)
    # What a row of zeros may give (NaN) reaches no model without records.
    stack.gradient[idle] = before
    return losses.masked_fill_(packed.weights == 0, 0.0).view(len(batches), -1).sum(1)


def _viewing(stack: Stack, values: Tensor) -> list[nn.Module]:
    """Copies of the models whose parameters are the rows of `values` (K, P)."""
    models = [copy.deepcopy(model).requires_grad_(False) for model in stack.models]
    for model, row in zip(models, values, strict=True):
        start = 0
        for param in model.parameters():
            param.data = row[start : start + param.numel()].view(param.shape)
            start += param.numel()
    return models
