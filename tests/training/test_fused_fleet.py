"""Blocks of a fleet on the fused engine against the same models one by one on Opacus."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dptrain.cohorts.membership import draw_membership
from dptrain.config import AugmentSpec, FleetConfig, ModelConfig, PrivateRecipe
from dptrain.errors import ConfigError
from dptrain.training.arms import arm_from_label
from dptrain.training.engines import choose_engine, say_fallback
from dptrain.training.fleet import FleetData, train_fleet_block, train_fleet_model
from dptrain.training.speed import SpeedConfig
from dptrain.training.stacked_optimizer import StackedOptimizer

_spec = importlib.util.spec_from_file_location("fleet_cases", Path(__file__).with_name("test_fleet.py"))
cases = importlib.util.module_from_spec(_spec)
sys.modules["fleet_cases"] = cases
_spec.loader.exec_module(cases)

ROWS = draw_membership(0, 4, 45)


@pytest.fixture(scope="module")
def data() -> FleetData:
    return FleetData.build(cases.small_cohort(), "patient")


def config(**private):
    base = cases.small_config()
    recipe = dataclasses.replace(base.training.private, **private)
    return dataclasses.replace(base, training=dataclasses.replace(base.training, private=recipe))


def block(data, label, mech, settings, indices=(0, 1, 2, 3), **speed):
    rows = ROWS[list(indices)]
    return train_fleet_block(settings, data, arm_from_label(label), mech, indices, rows, SpeedConfig(**speed))


@pytest.mark.parametrize("label", ["none", "matched", "clip"])
@pytest.mark.parametrize(
    "private",
    [
        {},
        {"schedule": "cosine", "momentum": 0.8, "weight_decay": 0.01, "averaging": 0.9},
        {"optimizer": "adam", "learning_rate": 0.05, "weight_decay": 0.1, "max_records_per_patient": 1},
        {"augment": AugmentSpec(noise=0.3), "copies": 2, "max_batch_records": 7},
    ],
)
def test_a_block_equals_its_models_one_by_one(data, label, private):
    settings = config(**private)
    if private.get("augment"):
        settings = dataclasses.replace(
            settings, training=dataclasses.replace(settings.training, augment=private["augment"], batch_size=5)
        )
    mech = None if label == "none" else cases.mechanism(clipping_norm=0.2)
    together = block(data, label, mech, settings, width=3, max_rows=40)
    for index, ours in enumerate(together):
        alone = train_fleet_model(settings, data, arm_from_label(label), mech, index, ROWS[index])
        assert np.allclose(ours.logits, alone.logits, atol=2e-5)
        assert np.allclose(ours.train_loss, alone.train_loss, atol=1e-5)
        assert np.allclose(ours.utility, alone.utility, atol=0.02)
        assert np.array_equal(ours.steps, alone.steps)
        if label == "clip":
            keep = ("num_sampled", "num_empty", "num_steps", "noise_stream", "divisors", "clipping_norms")
            assert {key: ours.ledger[key] for key in keep} == {key: alone.ledger[key] for key in keep}
            assert ours.ledger["largest_share"] == pytest.approx(alone.ledger["largest_share"], rel=1e-4)


def test_noise_is_each_models_own_and_redrawn_alike(data):
    mech = cases.mechanism(noise_multiplier=3.0)
    once, again = (block(data, "eps=8", mech, config()) for _ in range(2))
    clip = block(data, "clip", cases.mechanism(), config())
    moved = [noisy.logits - clean.logits for noisy, clean in zip(once, clip, strict=True)]
    for first, second in zip(once, again, strict=True):
        assert np.array_equal(first.logits, second.logits)
    assert len({result.ledger["noise_stream"] for result in once}) == 4
    for k in range(3):
        assert abs(np.corrcoef(moved[k].ravel(), moved[k + 1].ravel())[0, 1]) < 0.99
        assert not np.allclose(moved[k], moved[k + 1], atol=1e-2)


def test_the_models_around_change_rounding_only(data):
    mech = cases.mechanism(noise_multiplier=1.0)
    together = block(data, "eps=8", mech, config(), width=4)
    alone = block(data, "eps=8", mech, config(), indices=(2,), width=1)[0]
    assert np.allclose(together[2].logits, alone.logits, atol=1e-4)


def test_training_leaves_the_global_random_state_alone(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    block(data, "eps=8", cases.mechanism(noise_multiplier=1.0), config())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("recipe", [
    PrivateRecipe(learning_rate=0.3, num_steps=5),
    PrivateRecipe(learning_rate=0.3, num_steps=5, momentum=0.9, weight_decay=0.1, schedule="cosine"),
    PrivateRecipe(learning_rate=0.3, num_steps=5, optimizer="adam", weight_decay=0.2, schedule="cosine"),
])  # fmt: skip
def test_the_stacked_optimizer_is_pytorchs(recipe):
    from dptrain.training.loop import build_optimizer, set_learning_rate

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    model = nn.Module()
    model.weight = nn.Parameter(values.clone())
    theirs, ours = build_optimizer(recipe, model), StackedOptimizer(recipe, values)
    for index in range(1, 6):
        gradient = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        set_learning_rate(theirs, recipe, index)
        model.weight.grad = gradient.clone()
        theirs.step()
        ours.step(gradient)
        assert torch.allclose(values, model.weight, atol=1e-12, rtol=0)


class Twice(nn.Module):
    """A layer that is called twice: per-record norms from two calls would miss their product."""

    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.inner, self.head = nn.Linear(input_shape[0], input_shape[0]), nn.Linear(input_shape[0], num_outputs)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Around(nn.Module):
    """Reads a parameter past its layer."""

    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.head = nn.Linear(input_shape[0], num_outputs)

    def forward(self, x):
        return self.head(x) + self.head.bias.sum()


class Recurrent(nn.Module):
    """A layer without a rule."""

    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.cell, self.head = nn.GRUCell(input_shape[0], 4), nn.Linear(4, num_outputs)

    def forward(self, x):
        return self.head(self.cell(x))


@pytest.mark.parametrize(
    ("name", "words"),
    [("Twice", "called twice"), ("Around", "does not fit"), ("Recurrent", r"cell \(GRUCell\) has parameters and no")],
)
def test_what_it_does_not_know_goes_to_opacus_with_the_reason(caplog, name, words):
    sys.modules["fused_fleet_models"] = sys.modules[__name__]
    settings = dataclasses.replace(config(), model=ModelConfig(f"fused_fleet_models:{name}", {}))
    choice = choose_engine(settings, (5,), 1, "binary")
    assert choice.name == "opacus"
    assert any(re.search(words, reason) for reason in choice.reasons), choice.reasons
    say_fallback(settings, choice)
    assert re.search(rf"trained by the Opacus engine, .*{words}", caplog.text)
    with pytest.raises(ConfigError, match=r"fleet\.engine=fused cannot train"):
        choose_engine(dataclasses.replace(settings, fleet=FleetConfig(4, engine="fused")), (5,), 1, "binary")


@pytest.mark.parametrize(
    ("model", "shape", "stackable"),
    [
        (ModelConfig("mlp"), (5,), True),
        (ModelConfig("tab_resnet"), (5,), True),
        (ModelConfig("small_cnn"), (1, 28, 28), False),
        (ModelConfig("resnet1d"), (12, 100), False),
        (ModelConfig("wrn", {"weight_standardization": True}), (1, 28, 28), False),
        (ModelConfig("vit"), (1, 16, 16), False),
        (ModelConfig("ecg_transformer"), (12, 100), False),
    ],
)
def test_every_model_of_the_house_is_fused(model, shape, stackable):
    choice = choose_engine(dataclasses.replace(config(), model=model), shape, 1, "binary")
    assert (choice.name, choice.stackable, choice.reasons) == ("fused", stackable, ())


class Standardizing(nn.Module):
    """Cannot stand a record of zeros."""

    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(input_shape[0], 4), nn.Tanh(), nn.Linear(4, num_outputs))

    def forward(self, x):
        return self.head((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))


@pytest.mark.parametrize("label", ["none", "matched", "clip"])
def test_padding_is_something_that_the_model_can_stand(data, label):
    """Rows of weight 0 must not be NaN: 0 times NaN is NaN."""
    sys.modules["fused_fleet_models"] = sys.modules[__name__]
    settings = dataclasses.replace(config(), model=ModelConfig("fused_fleet_models:Standardizing", {}))
    mech = None if label == "none" else cases.mechanism(clipping_norm=0.2)
    for result in block(data, label, mech, settings, width=3):
        assert np.isfinite(result.logits).all()


def test_a_model_without_records_in_a_pass_keeps_its_sum():
    from dptrain.privacy.fused.engine import Given, UnitBatch
    from dptrain.privacy.fused.stack import Stack
    from dptrain.training.fused import plain_gradient
    from dptrain.training.losses import binary_loss

    models = [Standardizing((5,), 1) for _ in range(2)]
    batches = []
    for num in (3, 0):
        features = torch.randn(num, 5, generator=torch.Generator().manual_seed(num))
        owner = np.arange(num)
        batches.append(UnitBatch(Given(features, torch.zeros(num, dtype=torch.int64)), owner, owner))
    stack = Stack(models)
    plain_gradient(stack, binary_loss, batches, [1.0, 1.0], 10**6)
    assert stack.gradient[0].isfinite().all()
    assert float(stack.gradient[0].norm()) > 0
    assert not stack.gradient[1].any()


class Residual(nn.Module):
    """What its forward pass reads after a normalisation depends on how it is called: `fx` sees the other way."""

    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.relu, self.head = nn.ReLU(), nn.Linear(4 * input_shape[0], num_outputs)

    def forward(self, x, residual=None):
        h = self.norm(self.conv(x[:, None]))
        h = torch.tanh(h) if residual is None else self.relu(h)
        return self.head(h.flatten(1))


class Own(nn.Module):
    """A layer of the model has another forward pass than its class."""

    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.body, self.relu = nn.Linear(input_shape[0], 4), nn.ReLU()
        self.relu.forward = torch.sin
        self.head = nn.Linear(4, num_outputs)

    def forward(self, x):
        return self.head(self.relu(self.body(x)))


@pytest.mark.parametrize(("name", "words"), [("Residual", "differ by"), ("Own", "a forward pass of its own")])
def test_what_cannot_be_followed_goes_to_opacus(name, words):
    sys.modules["fused_fleet_models"] = sys.modules[__name__]
    settings = dataclasses.replace(config(), model=ModelConfig(f"fused_fleet_models:{name}", {}))
    choice = choose_engine(settings, (5,), 1, "binary")
    assert choice.name == "opacus"
    assert any(words in reason for reason in choice.reasons), choice.reasons
