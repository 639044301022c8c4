"""Chains of linear layers: the compiled loops equal the rules of the layers under autograd, in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dptrain.privacy.fused.chain import chain_shape
from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream
from dptrain.training.fused import plain_gradient
from dptrain.training.losses import binary_loss, multiclass_loss, multilabel_loss

DIVISOR = 4.0


def network(dims, biases, relu) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for ins, outs, bias, active in zip(dims[:-1], dims[1:], biases, relu, strict=True):
        layers.append(nn.Linear(ins, outs, bias=bias, dtype=torch.float64))
        if active:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def stacks(models):
    """One with the loops, one without."""
    ours, rules = (Stack([copy.deepcopy(model) for model in models]) for _ in range(2))
    assert len(ours.chains) == len(models)
    rules.chains = []
    return ours, rules


def draw_batches(rng, dims, sizes, labels, bad):
    batches = []
    for row in sizes:
        owner = np.repeat(np.arange(len(row)), row)
        features = torch.from_numpy(rng.standard_normal((len(owner), dims[0])))
        if bad is not None and len(owner):
            features[rng.integers(len(owner)), 0] = bad
        batches.append(UnitBatch(Given(features, labels(rng, len(owner))), owner, np.arange(len(row))))
    return batches


def _classes(num):
    return lambda rng, n: torch.from_numpy(rng.integers(0, num, n))


TASKS = {
    "binary": (binary_loss, 1, _classes(2)),
    "multiclass": (multiclass_loss, 3, _classes(3)),
    "multilabel": (multilabel_loss, 2, lambda rng, n: torch.from_numpy(rng.integers(0, 2, (n, 2)).astype(float))),
    "a loss of one's own": (lambda z, y: (z[:, 0] - y) ** 2, 1, _classes(2)),
}


@given(data=st.data(), task=st.sampled_from(sorted(TASKS)), seed=st.integers(0, 2**31),
       clipping_norm=st.sampled_from([1e-3, 0.5, 1e3]), max_rows=st.sampled_from([1, 5, 2**62]),
       bad=st.sampled_from([None, None, np.nan, np.inf, 1e200]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_loops_equal_rules(data, task, seed, clipping_norm, max_rows, bad):
    loss, outputs, labels = TASKS[task]
    hidden = data.draw(st.lists(st.integers(1, 5), max_size=3))
    dims = [data.draw(st.integers(1, 4)), *hidden, outputs]
    flags = st.lists(st.booleans(), min_size=len(dims) - 1, max_size=len(dims) - 1)
    sizes = data.draw(st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=3))
    torch.manual_seed(seed)
    biases, relu = data.draw(flags), data.draw(flags)
    models = [network(dims, biases, relu) for _ in sizes]
    rng = np.random.default_rng(seed)
    batches = draw_batches(rng, dims, sizes, labels, bad)
    mechanism = Mechanism("patient", 0.5, 0.0, clipping_norm, 1, DIVISOR, 1e-3)
    found = []
    for stack in stacks(models):
        noises = [NoiseStream(row) for row in range(len(models))]
        engine = FusedEngine(stack, loss, mechanism, noises, np.ones((len(models), 5), bool), max_rows)
        updates, losses = engine.step(batches, 10**6)
        found.append((updates.numpy(), losses.numpy(), [ledger.num_nonfinite for ledger in engine.ledgers]))
    (ours, our_losses, our_bad), (theirs, their_losses, their_bad) = found
    assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-12 * clipping_norm)
    assert our_bad == their_bad
    if bad is None:
        assert np.allclose(our_losses, their_losses, equal_nan=True)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, 1e200])
@pytest.mark.parametrize("several", [False, True])
def test_loops_of_wide_networks_equal_rules(several, bad):
    """Layers wider than a vector, a tile of them, and neither a multiple of one nor of the other."""
    torch.manual_seed(0)
    dims = [37, 150, 64, 19, 3]
    models = [network(dims, [True, False, True, True], [True, True, False, False]) for _ in range(2)]
    sizes = [[1 + several * (unit % 3) for unit in range(num)] for num in (45, 31)]
    batches = draw_batches(np.random.default_rng(0), dims, sizes, _classes(3), bad)
    mechanism = Mechanism("patient", 0.5, 0.0, 0.5, 1, DIVISOR, 1e-3)
    found = []
    for stack in stacks(models):
        noises = [NoiseStream(row) for row in range(len(models))]
        engine = FusedEngine(stack, multiclass_loss, mechanism, noises, np.ones((2, 45), bool), 60)
        updates, losses = engine.step(batches, 10**6)
        assert float(updates.norm()) > 0
        found.append((updates.numpy(), losses.numpy(), [ledger.num_nonfinite for ledger in engine.ledgers]))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-10, atol=1e-12)
    assert found[0][2] == found[1][2]
    if bad is None:
        assert np.allclose(found[0][1], found[1][1])


@pytest.mark.parametrize("max_rows", [1, 2**62])
def test_plain_sums_equal_rules(max_rows):
    torch.manual_seed(0)
    models = [network([3, 4, 2, 3], [True, False, True], [True, True, False]) for _ in range(2)]
    batches = draw_batches(np.random.default_rng(0), [3], [[1, 2, 1], [3]], _classes(3), None)
    found = []
    for stack in stacks(models):
        losses = plain_gradient(stack, multiclass_loss, batches, [2.0, 3.0], max_rows)
        found.append((stack.gradient.numpy(), losses))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert np.allclose(found[0][1], found[1][1])


def _hooked():
    model = nn.Sequential(nn.Linear(2, 1))
    model[0].register_forward_hook(lambda *_: None)
    return model


def _again():
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2, 1),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(2, 1)),
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)),
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 1)),
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(2, 1)),
        lambda: nn.Sequential(nn.Flatten()),
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1))),
        _hooked,
        _again,
    ],
)
def test_other_networks_are_no_chains(make):
    assert chain_shape(make()) is None


def test_what_a_chain_is():
    shape = chain_shape(network([4, 3, 2], [False, True], [True, False]))
    assert shape.dims.tolist() == [4, 3, 2]
    assert shape.has_bias.tolist() == [False, True]
    assert shape.relu.tolist() == [True, False]


@pytest.mark.parametrize("shape", [(10, 5), (10, 12), (10, 2, 4)])
def test_records_of_another_size_are_refused(shape):
    """Compiled loops would read the next patient's values, or memory that is nobody's."""
    stack = Stack([nn.Sequential(nn.Linear(4 if len(shape) == 3 else 8, 1))])
    batch = UnitBatch(Given(torch.zeros(shape), torch.zeros(10)), np.arange(10), np.arange(10))
    with pytest.raises(ValueError, match="another number of values"):
        stack.chains[0].add_plain(batch, 0, 10, binary_loss)


def test_a_batch_with_fewer_records_than_owners_is_refused():
    stack = Stack([nn.Sequential(nn.Linear(2, 1))])
    batch = UnitBatch(Given(torch.zeros(3, 2), torch.zeros(3)), np.arange(5), np.arange(5))
    with pytest.raises(ValueError, match="3 records, but owners of 5"):
        stack.chains[0].add_clipped(batch, 0, 5, binary_loss, 1.0)


class _Doubling(torch.autograd.Function):
    """A loss whose backward pass writes to what it is given."""

    @staticmethod
    def forward(ctx, logits):
        return logits[:, 0].clone()

    @staticmethod
    def backward(ctx, weights):
        return weights.mul_(2.0)[:, None]


def test_a_loss_that_writes_to_its_weights_changes_no_later_step():
    stack = Stack([nn.Sequential(nn.Linear(2, 1))])
    batch = UnitBatch(Given(torch.ones(3, 2), torch.zeros(3)), np.arange(3), np.arange(3))
    sums = []
    for _ in range(2):
        stack.gradient.zero_()
        stack.chains[0].add_plain(batch, 0, 3, lambda logits, labels: _Doubling.apply(logits))
        sums.append(stack.gradient.clone())
    assert torch.equal(*sums)


def test_records_of_another_type_are_refused():
    stack = Stack([nn.Sequential(nn.Linear(2, 1))])
    batch = UnitBatch(Given(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2)), np.arange(2), np.arange(2))
    with pytest.raises(TypeError, match=r"float64.*float32"):
        stack.chains[0].add_plain(batch, 0, 2, binary_loss)
