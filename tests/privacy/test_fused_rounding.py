"""Float32: units whose parts nearly cancel are scaled down too much rather than too little; units stand together."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dptrain.errors import PrivacyError
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.fused import kernels, tape
from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.fused.tape import Outer, Segments, Stored, clip_weights
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream
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
        entry.add_weighted(factors.float())
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
    monkeypatch.setattr(tape, "charged", lambda squares, *others: squares.clamp_(min=0.0))
    assert largest_contribution(make) > 1.01


def tiny_gradients_of_huge_inputs(seed):
    """Two tokens: in float32 the product of their gradients is 0, that of their inputs 4e36."""
    inputs, grads = torch.full((1, 2, 4), 1e18), torch.full((1, 2, 4), 1.2e-23)
    return Outer(inputs, grads, torch.zeros(1, 4, 4), torch.zeros(1, 4)), None


def test_tokens_whose_products_are_too_small_for_float32(monkeypatch):
    """As behind a patch embedding with a normalisation, whose gradients shrink as its inputs grow."""
    clipping_norm = 1e-5
    found = []
    for charge in (Outer._lost, lambda self, inputs, grads: torch.zeros_like(inputs)):
        monkeypatch.setattr(Outer, "_lost", charge)
        entry, _ = tiny_gradients_of_huge_inputs(0)
        factors, _ = clip_weights([entry], clipping_norm, None, False)
        entry.add_weighted(factors.float())
        found.append(float(entry.weight_sum.double().norm()) / clipping_norm)
    sound, mutant = found
    assert sound <= 1 + 1e-5
    assert mutant > 2


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


def contribution(model, features, labels, owner, clipping_norm) -> float:
    """Norm of what the first unit adds to the clipped sum of all, over C."""
    sums = []
    for keep in (np.arange(len(owner)), np.flatnonzero(owner > 0)):
        mech = Mechanism("patient", 0.5, 0.0, clipping_norm, 1, 1.0, 1e-3)
        engine = FusedEngine(Stack([copy.deepcopy(model)]), binary_loss, mech, [NoiseStream(0)], np.ones((1, 9), bool))
        batch = UnitBatch(Given(features[keep], labels[keep]), owner[keep], np.unique(owner[keep]))
        sums.append(engine.step([batch], 10**6)[0][0].double())
    return float((sums[0] - sums[1]).norm()) / clipping_norm


def test_a_unit_whose_norm_is_no_number_adds_nothing():
    """Two records of 1.7e19 cancel in the first layer; their squares leave the range of float32."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 5.5]]))
        model[2].bias.fill_(-5.5)
    features = torch.tensor([[0.0, 3.0], [1.7e19, 1.0], [1.7e19, 1.0], [0.3, 0.2]])
    labels = torch.tensor([0, 0, 1, 1])
    moved = contribution(model, features, labels, np.array([0, 0, 0, 1]), 0.1)
    assert moved <= 1 + 1e-5


@pytest.mark.parametrize("make", [nn.Linear, lambda *size: nn.Sequential(nn.Linear(*size))], ids=["rules", "loops"])
def test_records_of_a_unit_whose_product_is_infinite(make):
    """Both are below 2^100; their product, -4e40, is not a number of float32."""
    model = make(2, 1)
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        layer.weight[0, 0] = 0.0
    features = torch.tensor([[1e28, 0.0], [-1e12, 0.0]])
    moved = contribution(model, features, torch.ones(2, dtype=int), np.zeros(2, int), 1.0)
    assert 0.9 < moved <= 1 + 1e-5


def test_a_product_that_is_minus_infinity_is_no_small_norm():
    """Clamped to 0, it would leave the unit unclipped."""
    squares = torch.tensor([-np.inf, -1e-9, 4.0], dtype=torch.float64)
    found = tape.charged(squares, torch.zeros(3, dtype=torch.float64), torch.float32)
    assert found.tolist() == [np.inf, 0.0, 4.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -1e-300])
def test_the_factor_of_what_is_no_norm_is_zero(value):
    squares, factors, finite = np.array([4.0, value, 0.0]), np.empty(3), np.empty(3, bool)
    assert not kernels.clip_factors(squares, 1.0, factors, finite)
    assert factors == pytest.approx([0.5, 0.0, 1.0], rel=1e-5)
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "owner, single", [([0, 0, 2], False), ([0, 2], True), ([], True), ([0], True), ([0, 1, 1], False)]
)
def test_units_of_one_record_are_told_by_their_owners(owner, single):
    batch = UnitBatch(Given(torch.zeros(len(owner), 1), torch.zeros(len(owner))), np.array(owner, int), np.arange(3))
    assert batch.is_single is single


@pytest.mark.parametrize("clipping_norm", [1e-3, 5e-3])
def test_gradients_whose_squares_underflow_are_clipped(clipping_norm):
    model = nn.Sequential(nn.Linear(4, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1e-25)
        model[2].weight.fill_(5.2e-23)
    moved = contribution(model, torch.full((1, 4), 9e18), torch.zeros(1, dtype=int), np.zeros(1, int), clipping_norm)
    assert moved <= 1 + 1e-5


@pytest.mark.parametrize("make", [nn.Linear, lambda *size: nn.Sequential(nn.Linear(*size))], ids=["rules", "loops"])
@pytest.mark.parametrize("owner", [[0], [0, 0]])
def test_long_rows_of_equal_values_are_clipped(make, owner):
    """Added up in float32 their squares lose 1.5e-5."""
    size = 150_528
    torch.manual_seed(0)
    features = torch.full((len(owner), size), 1.3235)
    moved = contribution(make(size, 1), features, torch.zeros(len(owner), dtype=int), np.array(owner), 0.5)
    assert moved <= 1 + 2e-6


def test_the_ledger_measures_long_sums_of_equal_values():
    clipped, noise = np.full(1_000_000, 1.3235, np.float32), np.zeros(1_000_000, np.float32)
    noised = (clipped + noise) / np.float32(3)
    found, size = kernels.noise_squares(noised, clipped, 3.0)
    assert np.sqrt(size) == pytest.approx(np.linalg.norm(clipped.astype(float)), rel=1e-9)
    assert np.sqrt(found) < 1e-6 * np.sqrt(size)


LARGE = {
    "rules": lambda size: nn.Linear(size, 1, bias=False),
    "loops": lambda size: nn.Sequential(nn.Linear(size, 1, bias=False)),
    "tiles": lambda size: nn.Sequential(nn.Conv1d(1, 16, 1, bias=False), nn.Flatten(), nn.Linear(16 * size, 1)),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("clipping_norm", [1.0, 0.01, 1e-3, 1e-10, 1e-14])
@pytest.mark.parametrize("value", [1e12, 1e18, 1e30, 1e37, 1e38, 2e38])
def test_records_near_the_end_of_float32_are_clipped(name, clipping_norm, value):
    """A clip weight below 1e-38 has few digits."""
    size = 100 if name == "tiles" else 1000
    torch.manual_seed(0)
    model = LARGE[name](size)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1e-30)
    features = value * (0.5 + torch.rand(1, 1, size)) / 1.5
    features = features if name == "tiles" else features[:, 0]
    moved = contribution(model, features, torch.zeros(1, dtype=int), np.zeros(1, int), clipping_norm)
    assert moved <= 1 + 1e-5


def test_a_huge_batch_of_equal_records_keeps_its_epsilon():
    """Added up one after the other, 60 thousand equal numbers are off by 7e-5 in float32, and the ledger objects."""
    torch.manual_seed(2)
    num, clipping_norm = 60_000, 0.01
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))
    mech = Mechanism("patient", 0.5, 0.0, clipping_norm, 1, 1.0, 1e-3)
    features, labels = torch.randn(1, 30).repeat(num, 1), torch.ones(num, dtype=torch.int64)
    engine = FusedEngine(Stack([model]), binary_loss, mech, [NoiseStream(0)], np.ones((1, num), bool))
    engine.step([UnitBatch(Given(features, labels), np.arange(num), np.arange(num))], 10**6)
    assert 0.999 < engine.ledgers[0].largest_share / clipping_norm <= 1 + 1e-5


class Scaled(nn.Module):
    """Gradients of GroupNorm only."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, x):
        return self.norm(x).sum((1, 2))[:, None]


EQUAL_RECORDS = {
    "outer": (lambda: nn.Linear(100, 1), torch.full((100,), 1.3235)),
    "loops": (lambda: nn.Sequential(nn.Linear(100, 1)), torch.full((100,), 1 / 3)),
    "stored": (Scaled, 0.7 * torch.randn(8, 9, generator=torch.Generator().manual_seed(1))),
    "tiles": (lambda: nn.Sequential(nn.Conv1d(1, 16, 4, bias=False), nn.Flatten(), nn.Linear(16, 1)),
              torch.full((1, 4), 1.3235)),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL_RECORDS)
@pytest.mark.parametrize("num", [300, 1500])
def test_a_patient_with_many_equal_records_is_clipped(name, num):
    """Every sum rounds as often as it has parts, here always the same way."""
    make, record = EQUAL_RECORDS[name]
    torch.manual_seed(0)
    features = record.expand(num, *record.shape).contiguous()
    moved = contribution(make(), features, torch.zeros(num, dtype=int), np.zeros(num, int), 0.013)
    assert 0.99 < moved <= 1 + 1e-6


def test_pairs_of_records_are_made_only_where_they_are_needed():
    """100,000 records of one patient have 5e9 pairs."""
    segments = Segments.build(np.zeros((1, 100_000), dtype=np.int64), torch.device("cpu"))
    entry = Stored(torch.full((100_000, 1), 1e-3), torch.zeros(1, 1))
    factors, _ = clip_weights([entry], 1.0, segments, False)
    entry.add_weighted(factors.float())
    assert float(entry.total[0, 0]) <= 1 + 1e-5
