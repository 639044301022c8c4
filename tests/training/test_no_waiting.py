"""A step on a GPU asks for no number and mixes no devices, shown without one.

PyTorch's `meta` device computes shapes and nothing else: whoever asks it for a value (`float(x)`, `if x:`, `nonzero`, a
copy to the host) gets an error, as does a sum of two devices. The engine treats all devices but the CPU alike.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dptrain.config import ModelConfig, PrivateRecipe
from dptrain.models.registry import build_model
from dptrain.privacy.fused import batches as batches_module
from dptrain.privacy.fused import engine as engine_module
from dptrain.privacy.fused import tape
from dptrain.privacy.fused.batches import Resident, Rows, UnitBatch
from dptrain.privacy.fused.engine import FusedEngine
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.mechanism import Mechanism
from dptrain.training import fused
from dptrain.training.losses import multiclass_loss
from dptrain.training.stacked_optimizer import StackedOptimizer

MECHANISM = Mechanism("patient", 0.3, 1.0, 1.0, 10, 8.0, 1e-5)
META = torch.device("meta")
MODELS = {
    "mlp": ({}, (6,)),
    "tab_resnet": ({}, (6,)),
    "small_cnn": ({}, (1, 16, 16)),
    "resnet1d": ({"maps": 8, "depth": 2, "num_groups": 4}, (3, 64)),
    "wrn": ({"depth": 10, "num_groups": 8}, (1, 16, 16)),
    "vit": ({"patch": 4}, (1, 16, 16)),
    "ecg_transformer": ({}, (12, 500)),
}


@pytest.fixture
def on_meta(monkeypatch):
    """Copies without pinned memory, and noise without a generator, which need a GPU's driver."""
    for module in (engine_module, batches_module, tape, fused):
        monkeypatch.setattr(module, "to_device", lambda array, device: torch.from_numpy(array).to(device))
    monkeypatch.setattr(FusedEngine, "_draw", lambda self, model: self._noise[model].normal_())


def stack_and_batches(name, several):
    options, shape = MODELS[name]
    stack = Stack([build_model(ModelConfig(name, options), shape, 2).to(META) for _ in range(3)])
    resident = Resident(torch.empty(40, *shape, device=META), torch.empty(40, dtype=torch.int64, device=META))
    rng = np.random.default_rng(0)
    found = []
    for num_units in (9, 0, 5):
        owner = np.repeat(np.arange(num_units), rng.integers(1, 4, num_units) if several else 1)
        records = Rows(resident, rng.integers(0, 40, len(owner)))
        found.append(UnitBatch(records, owner, np.arange(num_units)))
    return stack, found


@pytest.mark.parametrize("several", [False, True], ids=["one record per unit", "several"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_wait_for_nothing(on_meta, name, several):
    stack, batches = stack_and_batches(name, several)
    engine = FusedEngine(stack, multiclass_loss, MECHANISM, [torch.Generator()] * 3, np.ones((3, 40), bool), 24)
    recipe = PrivateRecipe(optimizer="adam", momentum=0.9, weight_decay=0.1, schedule="cosine")
    optimizer = StackedOptimizer(recipe, stack.values)
    for _ in range(2):
        gradient, losses = engine.step(batches, 10**6)
        optimizer.step(gradient)
    assert gradient.device == losses.device == META
    assert gradient.shape == stack.values.shape
    means = fused.plain_gradient(stack, multiclass_loss, batches, [1.0] * 3, 24)
    assert means.device == stack.gradient.device == META


def test_the_ledger_is_where_a_gpu_is_waited_for(on_meta):
    stack, batches = stack_and_batches("mlp", False)
    engine = FusedEngine(stack, multiclass_loss, MECHANISM, [torch.Generator()] * 3, np.ones((3, 40), bool))
    engine.step(batches, 10**6)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        _ = engine.ledgers


WAITS = {
    "a number": lambda norms: float(norms.sum()),
    "a condition": lambda norms: bool((norms > 0).all()),
    "a size": lambda norms: norms.nonzero(),
    "a copy": lambda norms: norms.cpu(),
    "another device": lambda norms: norms + torch.ones(len(norms)),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_step_that_waits_is_noticed(on_meta, monkeypatch, what):
    sound = engine_module.clip_weights

    def broken(entries, *rest):
        WAITS[what](entries[0].record_norms())
        return sound(entries, *rest)

    monkeypatch.setattr(engine_module, "clip_weights", broken)
    with pytest.raises((RuntimeError, NotImplementedError)):
        test_steps_wait_for_nothing(None, "mlp", False)
