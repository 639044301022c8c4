"""Training one model: the skeleton that every arm shares, and the three kinds of step.

`train_model` walks a fixed number of steps, sets the learning rate, calls the arm's step and evaluates at fixed steps.
Nothing is chosen by looking at the evaluations: the last weights (or their running average) are the model.

* usual: shuffled minibatches of records (arm `none`);
* matched: the private recipe's Poisson batches of units, without clipping and noise;
* private: the same batches through `PrivateEngine` (arms `clip` and `eps=...`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.config import PrivateRecipe, TrainingConfig
from dptrain.privacy.engine import PrivateEngine, RecordLoss
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.sampling import poisson_batches
from dptrain.privacy.secure_random import SecureStream
from dptrain.privacy.units import UnitIndex
from dptrain.progress import step_done
from dptrain.training.augment import Augmenter

Step = Callable[[], float]
Evaluate = Callable[[nn.Module], float]
UnitBatch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Record rows (R,), position of each record's unit (R,), sampled units (B,)."""


@dataclass(frozen=True)
class TrainedModel:
    """What is left of a training."""

    model: nn.Module
    """The model that is evaluated and attacked, in eval mode."""
    steps: NDArray[np.int64]
    """(E,) steps at which the curves were taken."""
    train_loss: NDArray[np.float64]
    """(E,) mean of the steps' mean record losses since the last evaluation; NaN if no record was sampled."""
    utility: NDArray[np.float64]
    """(E,) performance on the test patients."""
    ledger: dict[str, Any] | None
    """What ran, for private arms."""


def evaluation_steps(num_steps: int, num_evaluations: int) -> NDArray[np.int64]:
    """Up to `num_evaluations` steps, evenly spaced, ending with the last."""
    return np.unique(np.ceil(np.linspace(0, num_steps, num_evaluations + 1)[1:]).astype(np.int64))


def build_optimizer(recipe: TrainingConfig | PrivateRecipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable parameters."""
    params = [param for param in model.parameters() if param.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(params, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)
    return torch.optim.SGD(
        params, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, foreach=True
    )


def usual_steps(
    model: nn.Module,
    record_loss: RecordLoss,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    rows: NDArray[np.int64],
    recipe: TrainingConfig,
    rng: np.random.Generator,
    vary: Augmenter,
) -> Step:
    """Minibatches of the member records `rows`, reshuffled every epoch."""

    def batches() -> Iterator[Tensor]:
        while True:
            order = torch.from_numpy(rng.permutation(rows))
            yield from order.split(recipe.batch_size)

    stream = batches()

    def step() -> float:
        batch = next(stream)
        optimizer.zero_grad(set_to_none=True)
        inputs, targets, _ = vary(features[batch], labels[batch], batch)
        loss = record_loss(model(inputs), targets).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def matched_steps(
    model: nn.Module,
    record_loss: RecordLoss,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    batches: Iterator[UnitBatch],
    divisor: float,
    vary: Augmenter,
) -> Step:
    """The private recipe with clipping and noise off: mean gradient per unit, summed, divided by the public divisor."""

    def step() -> float:
        rows, owner, units = next(batches)
        num_units = len(units)
        optimizer.zero_grad(set_to_none=True)
        if not num_units:
            for param in model.parameters():
                param.grad = torch.zeros_like(param) if param.requires_grad else None
            optimizer.step()
            return math.nan
        batch = torch.from_numpy(rows)
        inputs, targets, unit = vary(features[batch], labels[batch], torch.from_numpy(owner))
        losses = record_loss(model(inputs), targets)
        weights = (1.0 / torch.bincount(unit, minlength=num_units))[unit].to(losses.dtype)
        (losses * weights).sum().div(divisor).backward()
        optimizer.step()
        return float(losses.detach().mean())

    return step


def private_steps(
    engine: PrivateEngine,
    features: Tensor,
    labels: Tensor,
    batches: Iterator[UnitBatch],
    max_batch_records: int,
    vary: Augmenter,
) -> Step:
    """Noisy steps of the engine on the same batches."""

    def step() -> float:
        rows, owner, units = next(batches)
        batch = torch.from_numpy(rows)
        inputs, targets, unit = vary(features[batch], labels[batch], torch.from_numpy(owner))
        loss = engine.step(inputs, targets, unit, units, max_batch_records)
        return loss if len(units) else math.nan

    return step


def unit_batches(
    mechanism: Mechanism,
    units: UnitIndex,
    is_member: NDArray[np.bool_],
    max_records: int | None,
    rng: np.random.Generator | SecureStream,
) -> Iterator[UnitBatch]:
    """Poisson batches as (record rows, position of each record's unit, sampled units)."""
    records_rng = rng.spawn(1)[0]
    for sampled in poisson_batches(mechanism, is_member, rng):
        rows, owner = units.gather(sampled, max_records, records_rng)
        yield rows, owner, sampled


def weight_average(model: nn.Module, recipe: TrainingConfig | PrivateRecipe) -> nn.Module | None:
    """Where the running average of weights goes; made before an engine hangs its hooks on the model."""
    return copy.deepcopy(model).requires_grad_(False) if recipe.averaging else None


def train_model(
    model: nn.Module,
    recipe: TrainingConfig | PrivateRecipe,
    optimizer: torch.optim.Optimizer,
    step: Step,
    num_evaluations: int,
    evaluate: Evaluate,
    average: nn.Module | None,
) -> TrainedModel:
    """Walk exactly `recipe.num_steps` steps; see the module's docstring.

    `average` is a copy of the untrained model without hooks (`weight_average`), or None to take the last weights.
    """
    steps = evaluation_steps(recipe.num_steps, num_evaluations)
    due = set(steps.tolist())
    losses: list[float] = []
    train_loss: list[float] = []
    utility: list[float] = []
    model.train()
    for index in range(1, recipe.num_steps + 1):
        set_learning_rate(optimizer, recipe, index)
        losses.append(step())
        step_done()
        if average is not None:
            average_weights(average, model, recipe, index)
        if index in due:
            model.eval()
            utility.append(evaluate(average if average is not None else model))
            model.train()
            kept = [loss for loss in losses if not math.isnan(loss)]
            train_loss.append(float(np.mean(kept)) if kept else math.nan)
            losses.clear()
    final = average if average is not None else model
    return TrainedModel(final.eval(), steps, np.array(train_loss), np.array(utility), None)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: TrainingConfig | PrivateRecipe, index: int) -> None:
    """Set the rate of step `index`, counted from 1."""
    if recipe.schedule == "cosine":
        rate = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (index - 1) / recipe.num_steps))
        for group in optimizer.param_groups:
            group["lr"] = rate


@torch.no_grad()
def average_weights(
    average: nn.Module, model: nn.Module, recipe: TrainingConfig | PrivateRecipe, index: int
) -> None:
    """Exponential moving average of weights after step `index` (post-processing of what was released: costs no
    privacy). Early steps have a smaller decay, or the untrained weights would stay in it."""
    decay = min(recipe.averaging, index / (index + 9))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value.detach(), 1 - decay)
