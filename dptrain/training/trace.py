"""One usual training with its traces: the loss of every record at evenly spaced steps, and now and then the size of its
gradient. What `dptrain screen` ranks patients by."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dptrain.cohorts.cohort import Cohort
from dptrain.config import Config
from dptrain.models.registry import build_model
from dptrain.privacy.units import UnitIndex
from dptrain.seeding import numpy_stream, stream_seed
from dptrain.training.augment import Augmenter
from dptrain.training.fleet import predict
from dptrain.training.loop import build_optimizer, train_model, usual_steps, weight_average
from dptrain.training.losses import RECORD_LOSSES
from dptrain.training.utility import auroc

NUM_GRADIENTS = 5
"""At so many of the points the gradients are taken too: each costs as much as a step per record."""
GRADIENT_VALUES = 2**24
"""Gradients held at a time, in numbers."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trace:
    """Traces of the R training records, in the order of `rows`."""

    rows: NDArray[np.int64]
    """(R,) rows of the cohort."""
    steps: NDArray[np.int64]
    """(E,)"""
    losses_ER: NDArray[np.float32]
    """(E, R) in eval mode, without augmentation."""
    gradients_GR: NDArray[np.float32] | None
    """(G, R) norms of each record's gradient; None for a network whose gradients cannot be taken record by record."""
    logits: NDArray[np.float32]
    """(N, K) of the finished model on every record of the cohort."""
    utility: float
    """Performance on the test patients."""


def traced_training(config: Config, cohort: Cohort, num_points: int) -> Trace:
    """Train one model with the usual recipe on all training patients, in streams of its own."""
    record_loss = RECORD_LOSSES[cohort.task]
    features, labels = torch.from_numpy(np.array(cohort.features)), torch.from_numpy(np.array(cohort.labels))
    rows = UnitIndex.build(cohort.patient, cohort.train_patients, "record").records
    test = np.flatnonzero(cohort.is_test[cohort.patient])
    recipe, draw = config.training, config.screen.seed
    losses: list[NDArray[np.float32]] = []
    gradients: list[NDArray[np.float32]] = []
    due = set(np.ceil(np.linspace(0, num_points, NUM_GRADIENTS + 1)[1:]).astype(int).tolist())

    def evaluate(current: nn.Module) -> float:
        logits = predict(current, features)
        losses.append(record_loss(torch.from_numpy(logits[rows]), labels[rows]).numpy().astype(np.float32))
        if len(losses) in due and (gradients or len(losses) == min(due)):
            norms = _gradient_norms(current, features[rows], labels[rows], record_loss)
            if norms is not None:
                gradients.append(norms)
        return auroc(logits[test], np.asarray(cohort.labels)[test], cohort.task)

    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(config.seed, "init", "screen", draw))
        model = build_model(config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)
        torch.manual_seed(stream_seed(config.seed, "dropout", "screen", draw))
        vary = Augmenter(
            recipe.augment, 1, torch.Generator().manual_seed(stream_seed(config.seed, "augmentation", "screen", draw))
        )
        optimizer = build_optimizer(recipe, model)
        step = usual_steps(
            model,
            record_loss,
            optimizer,
            features,
            labels,
            rows,
            recipe,
            numpy_stream(config.seed, "batches", "screen", draw),
            vary,
        )
        average = weight_average(model, recipe)
        trained = train_model(model, recipe, optimizer, step, num_points, evaluate, average)
    return Trace(
        rows,
        trained.steps,
        np.stack(losses),
        np.stack(gradients) if gradients else None,
        predict(trained.model, features),
        float(trained.utility[-1]),
    )


def _gradient_norms(model: nn.Module, features: Tensor, labels: Tensor, record_loss) -> NDArray[np.float32] | None:  # type: ignore[no-untyped-def]
    """(R,) norm of each record's gradient with respect to all trainable weights."""
    training = model.training
    model.eval()
    params = {name: value.detach() for name, value in model.named_parameters()}
    wanted = {name for name, value in model.named_parameters() if value.requires_grad} or set(params)
    fixed = {name: value for name, value in params.items() if name not in wanted} | dict(model.named_buffers())
    free = {name: params[name] for name in wanted}

    def one_loss(weights: dict[str, Tensor], record: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**weights, **fixed}, (record[None],))
        return record_loss(logits, label[None]).sum()

    per_record = vmap(grad(one_loss), in_dims=(None, 0, 0))
    size = max(1, GRADIENT_VALUES // max(1, sum(value.numel() for value in free.values())))
    try:
        parts = []
        for some, wanted_labels in zip(features.split(size), labels.split(size), strict=True):
            found = per_record(free, some, wanted_labels)
            parts.append(sum(value.flatten(1).square().sum(1) for value in found.values()).sqrt())  # type: ignore[union-attr]
    except (RuntimeError, NotImplementedError, TypeError) as error:
        log.warning("No gradients record by record for %s: %s", type(model).__name__, str(error).splitlines()[0])
        return None
    finally:
        model.train(training)
    return torch.cat(parts).numpy().astype(np.float32)


def without_canaries(config: Config) -> Config:
    """A screen plants none."""
    return dataclasses.replace(config, audit=dataclasses.replace(config.audit, canaries=0))
