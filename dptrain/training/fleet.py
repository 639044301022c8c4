"""Fleets: train the models of a block, each from its own streams of the seed tree.

A model's result depends on the configuration, the cohort, its row of the membership matrix and its index alone, never
on the worker or on what was trained before. Models that share a pass of the fused engine share its shapes, so the last
bits depend on which these are; a study fixes that when it is created.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.cohorts.cohort import Cohort
from dptrain.config import AugmentSpec, Config
from dptrain.models.registry import build_model
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.fused.engine import FusedEngine
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream
from dptrain.privacy.units import UnitIndex
from dptrain.seeding import numpy_stream, stream_seed
from dptrain.training import fused
from dptrain.training.arms import Arm
from dptrain.training.augment import Augmenter
from dptrain.training.engines import choose_engine
from dptrain.training.loop import (
    TrainedModel,
    build_optimizer,
    matched_steps,
    private_steps,
    train_model,
    unit_batches,
    usual_steps,
    weight_average,
)
from dptrain.training.losses import RECORD_LOSSES
from dptrain.training.speed import SpeedConfig, set_libraries
from dptrain.training.utility import auroc

EVALUATION_BATCH, EVALUATION_VALUES = 8192, 2**21
"""Records that are predicted together, and numbers in them, at most: a layer of a network for images of 64 x 64 pixels
has 16 times as many, and memory that a process gets for the first time is slow."""


@dataclass(frozen=True)
class ModelResult:
    """What the study keeps of one model of a fleet."""

    logits: NDArray[np.float32]
    """(N, K) on every record, training and test."""
    steps: NDArray[np.int64]
    """(E,)"""
    train_loss: NDArray[np.float64]
    """(E,)"""
    utility: NDArray[np.float64]
    """(E,)"""
    ledger: dict[str, Any] | None
    """What ran; None without clipping."""


@dataclass(frozen=True)
class FleetData:
    """The cohort as tensors, and its units; made once per worker and shared by its models."""

    cohort: Cohort
    features: Tensor
    labels: Tensor
    units: UnitIndex
    test_rows: NDArray[np.int64]

    @classmethod
    def build(cls, cohort: Cohort, unit: str, device: str = "cpu") -> FleetData:
        """Units over the training patients; patient units are numbered like the columns of the membership. On a GPU
        all records are resident."""
        return cls(
            cohort,
            _as_tensor(cohort.features).to(device),
            _as_tensor(cohort.labels).to(device),
            UnitIndex.build(cohort.patient, cohort.train_patients, unit),  # type: ignore[arg-type]
            np.flatnonzero(cohort.is_test[cohort.patient]),
        )

    def on_cpu(self) -> FleetData:
        """The same for an engine that runs there."""
        return dataclasses.replace(self, features=self.features.cpu(), labels=self.labels.cpu())

    def unit_membership(self, members: NDArray[np.bool_], unit: str) -> NDArray[np.bool_]:
        """(P_train,) patients -> (U,) units."""
        if unit == "patient":
            return members
        return self.record_membership(members)[self.units.records]

    def record_membership(self, members: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(P_train,) patients -> (N,) records; test records are never members."""
        everyone = np.zeros(self.cohort.num_patients, dtype=bool)
        everyone[self.cohort.train_patients] = members
        return everyone[self.cohort.patient]


def train_fleet_block(
    config: Config,
    data: FleetData,
    arm: Arm,
    mechanism: Mechanism | None,
    indices: Sequence[int],
    members_BM: NDArray[np.bool_],
    speed: SpeedConfig | None = None,
) -> list[ModelResult]:
    """Train the models `indices` (B of them) of an arm; row b of `members_BM` (B, P_train) is the membership of model
    `indices[b]`. One result per model, in their order.

    The fused engine takes `speed.width` models at a time where their layers gain from it; what it does not know is
    trained model by model with Opacus. Which models share a pass changes rounding, nothing else.
    """
    speed = speed or SpeedConfig()
    cohort = data.cohort
    choice = choose_engine(config, tuple(cohort.features.shape[1:]), cohort.num_outputs, cohort.task)
    if choice.name == "opacus":
        return [
            train_fleet_model(config, data.on_cpu(), arm, mechanism, index, members)
            for index, members in zip(indices, members_BM, strict=True)
        ]
    set_libraries(speed, is_plain=arm.kind in ("none", "matched"))
    width = speed.width if choice.stackable or speed.device != "cpu" else 1
    results = []
    for start in range(0, len(indices), width):
        some = indices[start : start + width]
        members = members_BM[start : start + width]
        results += _train_together(config, data, arm, mechanism, some, members, speed, not choice.stackable)
    return results


def _train_together(
    config: Config,
    data: FleetData,
    arm: Arm,
    mechanism: Mechanism | None,
    indices: Sequence[int],
    members_KP: NDArray[np.bool_],
    speed: SpeedConfig,
    keeps_gradients: bool,
) -> list[ModelResult]:
    """K models in one stack."""
    cohort, seed = data.cohort, config.seed
    record_loss = RECORD_LOSSES[cohort.task]
    recipe = config.training if mechanism is None else config.training.private
    engine = None
    with torch.random.fork_rng():
        models = []
        for index in indices:
            torch.manual_seed(stream_seed(seed, "init", index))
            models.append(build_model(config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs))
        device = data.features.device
        stack = Stack([model.to(device) for model in models])
        max_rows = speed.rows_for(stack.values.shape[1], keeps_gradients)
        # Only a stack of one draws dropout masks.
        torch.manual_seed(stream_seed(seed, "dropout", arm.label, indices[0]))
        if mechanism is None:
            rows = [np.flatnonzero(data.record_membership(members)) for members in members_KP]
            rngs = [numpy_stream(seed, "batches", index) for index in indices]
            vary = [_augmenter(config, config.training.augment, 1, "usual", index) for index in indices]
            step = fused.usual_steps(
                stack, record_loss, data.features, data.labels, rows, config.training.batch_size, rngs, max_rows, vary
            )
        else:
            private = config.training.private
            is_members = np.stack([data.unit_membership(members, mechanism.unit) for members in members_KP])
            max_records = private.max_records_per_patient if mechanism.unit == "patient" else None
            streams = [
                unit_batches(mechanism, data.units, row, max_records, numpy_stream(seed, "sampling", index))
                for index, row in zip(indices, is_members, strict=True)
            ]
            vary = [_augmenter(config, private.augment, private.copies, "private", index) for index in indices]
            if arm.kind == "matched":
                divisor = mechanism.expected_batch_size
                step = fused.matched_steps(
                    stack, record_loss, data.features, data.labels, streams, divisor, max_rows, vary
                )
            else:
                seeds = [stream_seed(seed, "noise", arm.label, index) for index in indices]
                noises = [fused.noise_stream(one, device) for one in seeds]
                engine = FusedEngine(stack, record_loss, mechanism, noises, is_members, max_rows)
                step = fused.private_steps(
                    engine, data.features, data.labels, streams, private.max_batch_records, vary
                )
        trained = fused.train_stack(stack, recipe, step, config.training.num_evaluations, _evaluation(data))
    if engine is not None and mechanism is not None:
        for ledger in engine.ledgers:
            ledger.check(mechanism)
        trained = [
            dataclasses.replace(one, ledger=ledger.to_dict())
            for one, ledger in zip(trained, engine.ledgers, strict=True)
        ]
    return [_result(one, data, arm, index) for one, index in zip(trained, indices, strict=True)]


def train_fleet_model(
    config: Config,
    data: FleetData,
    arm: Arm,
    mechanism: Mechanism | None,
    index: int,
    members: NDArray[np.bool_],
) -> ModelResult:
    """Train model `index` of an arm on the patients of its row `members` (P_train,) and evaluate it on every record."""
    cohort = data.cohort
    record_loss = RECORD_LOSSES[cohort.task]
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(config.seed, "init", index))
        model = build_model(config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)
        torch.manual_seed(stream_seed(config.seed, "dropout", arm.label, index))
        trained = _train(config, data, arm, mechanism, index, members, model, record_loss)
    return _result(trained, data, arm, index)


def _result(trained: TrainedModel, data: FleetData, arm: Arm, index: int) -> ModelResult:
    if trained.ledger is not None and not np.isfinite(_flat_weights(trained.model)).all():
        raise FloatingPointError(f"Model {index} of arm {arm.label} has weights that are not finite.")
    return ModelResult(
        predict(trained.model, data.features), trained.steps, trained.train_loss, trained.utility, trained.ledger
    )


def _evaluation(data: FleetData) -> Callable[[nn.Module], float]:
    """Performance on the test records, which are gathered once."""
    features, labels = data.features[data.test_rows], np.asarray(data.cohort.labels)[data.test_rows]

    def evaluate(model: nn.Module) -> float:
        return auroc(predict(model, features), labels, data.cohort.task)

    return evaluate


def _train(
    config: Config,
    data: FleetData,
    arm: Arm,
    mechanism: Mechanism | None,
    index: int,
    members: NDArray[np.bool_],
    model: nn.Module,
    record_loss: Callable[[Tensor, Tensor], Tensor],
) -> TrainedModel:
    recipe = config.training if mechanism is None else config.training.private
    optimizer = build_optimizer(recipe, model)
    average = weight_average(model, recipe)
    evaluate = _evaluation(data)

    def walk(step: Callable[[], float]) -> TrainedModel:
        return train_model(model, recipe, optimizer, step, config.training.num_evaluations, evaluate, average)

    if mechanism is None:
        rows = np.flatnonzero(data.record_membership(members))
        rng = numpy_stream(config.seed, "batches", index)
        vary = _augmenter(config, config.training.augment, 1, "usual", index)
        return walk(
            usual_steps(model, record_loss, optimizer, data.features, data.labels, rows, config.training, rng, vary)
        )
    is_member = data.unit_membership(members, mechanism.unit)
    max_records = config.training.private.max_records_per_patient if mechanism.unit == "patient" else None
    batches = unit_batches(mechanism, data.units, is_member, max_records, numpy_stream(config.seed, "sampling", index))
    private = config.training.private
    vary = _augmenter(config, private.augment, private.copies, "private", index)
    if arm.kind == "matched":
        return walk(
            matched_steps(
                model, record_loss, optimizer, data.features, data.labels, batches, mechanism.expected_batch_size, vary
            )
        )
    noise = NoiseStream(stream_seed(config.seed, "noise", arm.label, index))
    engine = PrivateEngine(model, record_loss, optimizer, mechanism, noise, is_member)
    step = private_steps(engine, data.features, data.labels, batches, private.max_batch_records, vary)
    trained = walk(step)
    engine.close()
    engine.ledger.check(mechanism)
    return dataclasses.replace(trained, ledger=engine.ledger.to_dict())


def _augmenter(config: Config, spec: AugmentSpec, copies: int, recipe: str, index: int) -> Augmenter:
    """Arms of the same recipe share each model's variants."""
    generator = torch.Generator().manual_seed(stream_seed(config.seed, "augmentation", recipe, index))
    return Augmenter(spec, copies, generator)


@torch.no_grad()
def predict(model: nn.Module, features: Tensor) -> NDArray[np.float32]:
    """(N, K) logits in eval mode; the model's mode is put back."""
    training = model.training
    model.eval()
    num = max(min(EVALUATION_BATCH, EVALUATION_VALUES // max(features[:1].numel(), 1)), 1)
    parts = [model(part) for part in features.split(num)]
    model.train(training)
    return torch.cat(parts).cpu().numpy().astype(np.float32)


def _flat_weights(model: nn.Module) -> NDArray[np.float64]:
    return np.concatenate([param.detach().double().flatten().cpu().numpy() for param in model.parameters()])


def _as_tensor(array: NDArray) -> Tensor:
    """A tensor over the same memory; memory maps opened read-only are fine because nothing writes to it."""
    if not array.flags.writeable:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.from_numpy(array)
    return torch.from_numpy(array)
