"""Float32: units whose parts nearly cancel are scaled down too much rather than too little; units stand together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dptrain.errors import PrivacyError
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.fused import tape
from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.fused.tape import Outer, Segments, Stored, clip_weights
from dptrain.privacy.mechanism import Mechanism
from dptrain.training.losses import binary_loss

WIDTH = 64


def cancelling(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, tokens, WIDTH) inputs and gradients whose products add up to rounding errors of what is added."""
    generator = torch.Generator().manual_seed(seed)
    a = 1000 * torch.randn(WIDTH, generator=generator)
    g = 1000 * torch.randn(WIDTH, generator=generator)
    inputs = a.expand(rows, tokens, WIDTH) * (1 + 1e-7 * torch.randn(rows, tokens, WIDTH, generator=generator))
    signs = torch.tensor([1.0, -1.0]).repeat(rows * tokens // 2).view(rows, tokens, 1)
    return inputs.contiguous(), (signs * g).contiguous()


def outer_in_a_record(seed):
    inputs, grads = cancelling(1, 4, seed)
    return Outer(inputs, grads, torch.zeros(1, WIDTH, WIDTH), torch.zeros(1, WIDTH)), None


def outer_in_a_unit(seed):
    inputs, grads = cancelling(4, 1, seed)
    owner = Segments.build(np.zeros((1, 4), dtype=np.int64), torch.device("cpu"))
    return Outer(inputs, grads, torch.zeros(1, WIDTH, WIDTH), torch.zeros(1, WIDTH)), owner


def stored_in_a_unit(seed):
    inputs, grads = cancelling(4, 1, seed)
    rows = torch.bmm(grads.mT, inputs).view(4, -1)
    owner = Segments.build(np.zeros((1, 4), dtype=np.int64), torch.device("cpu"))
    return Stored(rows, torch.zeros(1, WIDTH * WIDTH)), owner


def largest_contribution(make, seeds=20) -> float:
    largest = 0.0
    for seed in range(seeds):
        entry, segments = make(seed)
        factors, _ = clip_weights([entry], 1.0, segments, False)
        entry.add_weighted(factors)
        if isinstance(entry, Stored):
            squares = float(entry.total.double().square().sum())
        else:
            squares = float(entry.weight_sum.double().square().sum() + entry.bias_sum.double().square().sum())
        largest = max(largest, squares**0.5)
    return largest


@pytest.mark.parametrize("make", [outer_in_a_record, outer_in_a_unit, stored_in_a_unit])
def test_parts_that_cancel_stay_below_the_clipping_norm(make):
    assert largest_contribution(make) <= 1 + 1e-5


@pytest.mark.parametrize("make", [outer_in_a_record, outer_in_a_unit])
def test_without_the_charge_they_do_not(make, monkeypatch):
    """Mutant: the test above can fail."""
    monkeypatch.setattr(tape, "charged", lambda squares, parts: squares.clamp_(min=0.0))
    assert largest_contribution(make) > 1.01


def test_a_unit_in_two_places_is_refused():
    model = nn.Linear(3, 1)
    mech = Mechanism("patient", 0.5, 0.0, 1.0, 1, 4.0, 1e-3)
    owner, units = np.array([0, 1, 0]), np.arange(2)
    features, labels = torch.randn(3, 3), torch.zeros(3, dtype=torch.int64)
    fused = FusedEngine(Stack([model]), binary_loss, mech, [torch.Generator()], np.ones((1, 2), bool))
    with pytest.raises(PrivacyError, match="ordered by their units"):
        fused.step([UnitBatch(Given(features, labels), owner, units)], 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    opacus = PrivateEngine(model, binary_loss, optimizer, mech, torch.Generator(), np.ones(2, bool))
    with pytest.raises(PrivacyError, match="ordered by their units"):
        opacus.step(features, labels, torch.from_numpy(owner), units, 10)
