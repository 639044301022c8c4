"""Which engine trains a fleet: the fused one if it knows every layer of the model, else Opacus, with the reason."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dptrain.cohorts.cohort import Task
from dptrain.config import Config
from dptrain.errors import ConfigError
from dptrain.models.convolution import WSConv2d, standardize
from dptrain.models.registry import build_model
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.fused import unsupported_layers
from dptrain.privacy.fused.batches import Given, UnitBatch
from dptrain.privacy.fused.convolution import register_convolution
from dptrain.privacy.fused.single import BlockProbe, GpuProbe, LonelyProbe
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.preflight_probe import EngineFactory
from dptrain.training.fused import plain_gradient
from dptrain.training.losses import RECORD_LOSSES

log = logging.getLogger(__name__)
ON_ONE_MODEL = (nn.modules.conv._ConvNd,)
"""Layers that gain nothing from several models at a time on a CPU."""
register_convolution(WSConv2d, standardize)
SAME = 1e-2
"""Losses and gradients of one batch in float32 may differ by this, relative to their norm."""


@dataclass(frozen=True)
class EngineChoice:
    """What trains the models of a fleet."""

    name: str
    """fused or opacus."""
    stackable: bool = False
    """Whether several models go through one pass on a CPU."""
    reasons: tuple[str, ...] = ()
    """Why not fused, layer by layer."""
    on_gpu: bool = False
    """Where the fused engine trains."""

    @property
    def probe(self) -> EngineFactory:
        """What the preflight drives."""
        if self.name == "opacus":
            return PrivateEngine
        if self.on_gpu:
            return GpuProbe
        return BlockProbe if self.stackable else LonelyProbe


def choose_engine(config: Config, shape: tuple[int, ...], num_outputs: int, task: Task) -> EngineChoice:
    """The engine for the model of this configuration on records of this shape.

    Raises ConfigError for fleet.engine=fused with a model that it does not know.
    """
    if config.fleet.engine == "opacus":
        return EngineChoice("opacus", reasons=("fleet.engine=opacus",))
    with torch.random.fork_rng():
        model = build_model(config.model, shape, num_outputs)
    reasons = unsupported_layers(model) or _trial(model, shape, task)
    if reasons and config.fleet.engine == "fused":
        raise ConfigError(
            [
                f"fleet.engine=fused cannot train model.name={config.model.name}. Take fleet.engine=auto, which leaves "
                "such models to Opacus.",
                *(f"  {reason}" for reason in reasons),
            ]
        )
    if reasons:
        return EngineChoice("opacus", reasons=tuple(reasons))
    on_gpu = config.fleet.device == "cuda" or (config.fleet.device == "auto" and torch.cuda.is_available())
    return EngineChoice("fused", _is_stackable(model), on_gpu=on_gpu)


def say_fallback(config: Config, choice: EngineChoice) -> None:
    """Warn where a fleet is slower than it could be."""
    if choice.name == "opacus" and config.fleet.engine == "auto":
        log.warning(
            "Model %s is trained by the Opacus engine, one model after another, which takes 2 to 50 times as long as "
            "the fused engine: %s.",
            config.model.name,
            "; ".join(choice.reasons),
        )


def _is_stackable(model: nn.Module) -> bool:
    """Not with convolutions; nor with dropout, whose masks come from a stream of each model's own."""
    return not any(
        isinstance(module, ON_ONE_MODEL) or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        for module in model.modules()
    )


def _trial(model: nn.Module, shape: tuple[int, ...], task: Task) -> list[str]:
    """Problems that only a pass shows: a parameter used past its layer, a layer that is called twice, a forward pass
    that cannot be followed and gives something else."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(0)
    theirs = None
    with torch.random.fork_rng():
        for features in (torch.randn(3, *shape, generator=generator), torch.zeros(3, *shape)):
            try:
                theirs = _by_autograd(model, features, task)
            except Exception:  # the network takes no such records; the next may do
                continue
            break
        try:
            stack = Stack([copy.deepcopy(model)])
            torch.manual_seed(0)
            batch = UnitBatch(Given(features, _some_labels(model, features, task)), np.arange(3), np.arange(3))
            loss = plain_gradient(stack, RECORD_LOSSES[task], [batch], [1.0], max_rows=3)
        except Exception as error:
            first = str(error).partition("\n")[0]
            return [f"its forward pass does not fit ({type(error).__name__}: {first})"]
    ours = torch.cat([loss.to(stack.gradient), stack.gradient[0]])
    if theirs is None:
        return ["its forward pass takes neither random records nor zeros"]
    far = float((ours - theirs).norm()) / max(float(theirs.norm()), 1e-6)
    return [f"its forward pass does not fit (losses and gradients differ by {far:.2g})"] if not far < SAME else []


def _by_autograd(model: nn.Module, features: Tensor, task: Task) -> Tensor:
    """(1 + P,) mean loss and the gradient of the sum of losses, by autograd."""
    torch.manual_seed(0)
    labels = _some_labels(model, features, task)
    losses = RECORD_LOSSES[task](model(features), labels)
    grads = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, model.parameters(), strict=True)]
    return torch.cat([losses.detach().mean()[None], *(part.flatten() for part in parts)])


def _some_labels(model: nn.Module, features: Tensor, task: Task) -> Tensor:
    with torch.no_grad():
        outputs = model(features)
    return torch.zeros_like(outputs) if task == "multilabel" else torch.zeros(len(features), dtype=torch.int64)
