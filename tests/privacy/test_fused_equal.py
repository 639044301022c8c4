"""The fused engine against the Opacus engine: same batches, no noise, float64, every layer, model, unit and padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dptrain.config import ModelConfig
from dptrain.errors import PrivacyError
from dptrain.models.convolution import WSConv2d
from dptrain.models.registry import build_model
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.fused import RULES, convolution, norms, unsupported_layers
from dptrain.privacy.fused import batches as batches_module
from dptrain.privacy.fused import engine as fused_engine
from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.mechanism import Mechanism
from dptrain.training import engines  # noqa: F401  (enters the rules of dptrain's own layers)
from dptrain.training.losses import binary_loss, multiclass_loss, multilabel_loss

DIVISOR = 4.0


def mechanism(clipping_norm: float, sigma: float = 0.0, steps: int = 1) -> Mechanism:
    return Mechanism("patient", 0.5, sigma, clipping_norm, steps, DIVISOR, 1e-3)


class Capture(torch.optim.Optimizer):
    """Keeps the gradient it is handed."""

    def __init__(self, params):
        super().__init__(list(params), {})

    def step(self, closure=None):
        self.seen = torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]])


def opacus_update(model, features, labels, owner, mech, loss, max_records=10**6):
    model = copy.deepcopy(model)
    capture = Capture(model.parameters())
    units = np.arange(len(np.unique(owner)))
    engine = PrivateEngine(model, loss, capture, mech, torch.Generator(), np.ones(max(len(units), 1), bool))
    engine.step(features, labels, torch.from_numpy(owner), units, max_records)
    return capture.seen, engine.ledger


def fused_updates(models, batches, mech, loss, max_records=10**6, max_rows=2**62, noises=None, steps=1):
    """(K, P) updates of the models on their (features, labels, owner)."""
    stack = Stack([copy.deepcopy(model) for model in models])
    noises = noises or [torch.Generator().manual_seed(k) for k in range(len(models))]
    num = max(len(np.unique(owner)) for _, _, owner in batches)
    engine = FusedEngine(stack, loss, mech, noises, np.ones((len(models), max(num, 1)), bool), max_rows)
    given_batches = [
        UnitBatch(Given(features, labels), owner, np.arange(len(np.unique(owner))))
        for features, labels, owner in batches
    ]
    for _ in range(steps):
        updates, losses = engine.step(given_batches, max_records)
    return updates, engine.ledgers, losses


def batch(shape, sizes, outputs, seed, task="binary"):
    generator = torch.Generator().manual_seed(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    features = torch.randn(len(owner), *shape, generator=generator, dtype=torch.float64)
    if task == "multilabel":
        labels = (torch.rand(len(owner), outputs, generator=generator) < 0.5).double()
    else:
        labels = torch.randint(0, max(outputs, 2), (len(owner),), generator=generator)
    return features, labels, owner


class Positions(nn.Module):
    """An embedding that is looked up once per record, some entries twice."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(4, 3), nn.Linear(3, 1)

    def forward(self, x):
        index = torch.tensor([0, 2, 2, 3]).expand(len(x), 4)
        return self.head((self.table(index) * x[:, :, None]).tanh().mean(1))


class ReadTwice(nn.Module):
    """A ReLU is not all that reads the first normalisation; both are followed by the same ReLU layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.GroupNorm(2, 4), nn.GroupNorm(4, 4), nn.ReLU()
        self.head = nn.Linear(24, 1)

    def forward(self, x):
        hidden = self.first(x)
        return self.head((self.relu(self.second(self.relu(hidden) + hidden)) + self.relu(x)).flatten(1))


def sequential(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


LAYERS = {
    "linear": ((5,), sequential(lambda: nn.Linear(5, 1))),
    "linear without bias": ((5,), sequential(lambda: nn.Linear(5, 3, bias=False), nn.Tanh, lambda: nn.Linear(3, 1))),
    "few tokens": ((2, 9), sequential(lambda: nn.Linear(9, 8), nn.Tanh, nn.Flatten, lambda: nn.Linear(16, 1))),
    "many tokens": ((7, 3), sequential(lambda: nn.Linear(3, 2), nn.Tanh, nn.Flatten, lambda: nn.Linear(14, 1))),
    "tokens without bias": ((2, 9), sequential(lambda: nn.Linear(9, 8, bias=False), nn.Flatten,
                                                lambda: nn.Linear(16, 1))),
    "layer norm": ((6,), sequential(lambda: nn.LayerNorm(6), lambda: nn.Linear(6, 1))),
    "layer norm over two axes": ((3, 4), sequential(lambda: nn.LayerNorm((3, 4)), nn.Flatten,
                                                    lambda: nn.Linear(12, 1))),
    "group norm": ((4, 6), sequential(lambda: nn.GroupNorm(2, 4), nn.Tanh, nn.Flatten, lambda: nn.Linear(24, 1))),
    "group norm on vectors": ((8,), sequential(lambda: nn.Linear(8, 4), lambda: nn.GroupNorm(2, 4),
                                               lambda: nn.Linear(4, 1))),
    "conv1d": ((3, 11), sequential(lambda: nn.Conv1d(3, 4, 5, stride=2, padding=1), nn.Tanh, nn.Flatten,
                                   lambda: nn.Linear(20, 1))),
    "dilated conv1d in groups": ((4, 12), sequential(lambda: nn.Conv1d(4, 6, 3, dilation=2, groups=2, bias=False),
                                                     nn.Tanh, nn.Flatten, lambda: nn.Linear(48, 1))),
    "conv2d": ((2, 7, 6), sequential(lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), nn.Tanh,
                                     lambda: nn.Conv2d(3, 2, 3, padding=1), nn.Tanh, nn.Flatten,
                                     lambda: nn.Linear(40, 1))),
    "standardized conv2d": ((2, 5, 5), sequential(lambda: WSConv2d(2, 3, 3), nn.Tanh,
                                                  lambda: WSConv2d(3, 3, 1, bias=False), nn.Flatten,
                                                  lambda: nn.Linear(27, 1))),
    "wide conv1d": ((2, 15), sequential(lambda: nn.Conv1d(2, 19, 5, stride=3, padding=2), nn.Tanh, nn.Flatten,
                                        lambda: nn.Linear(95, 1))),
    "wide conv2d": ((1, 9, 6), sequential(lambda: nn.Conv2d(1, 16, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
                                          nn.Tanh, lambda: nn.Conv2d(16, 17, 3, padding=(2, 1), dilation=(2, 1)),
                                          nn.Tanh, lambda: nn.Conv2d(17, 16, 1, stride=2, bias=False), nn.Flatten,
                                          lambda: nn.Linear(144, 1))),
    "wide conv2d in groups": ((4, 5, 5), sequential(lambda: nn.Conv2d(4, 32, 3, groups=2), nn.Tanh, nn.Flatten,
                                                    lambda: nn.Linear(288, 1))),
    "wide standardized conv2d": ((2, 5, 5), sequential(lambda: WSConv2d(2, 16, (3, 2)), nn.Flatten,
                                                       lambda: nn.Linear(192, 1))),
    "rectified group norm": ((4, 6), sequential(lambda: nn.GroupNorm(2, 4), nn.ReLU, lambda: nn.Conv1d(4, 3, 3),
                                                nn.Flatten, lambda: nn.Linear(12, 1))),
    "group norm read twice": ((4, 6), ReadTwice),
    "embedding": ((4,), Positions),
}  # fmt: skip
MODELS = {
    "linear": ("linear", {"zero_init": False}, (6,), "multiclass"),
    "linear probe": ("linear_probe", {"zero_init": False}, (6,), "binary"),
    "mlp": ("mlp", {"width": 8}, (6,), "multiclass"),
    "mlp on images": ("mlp", {"width": 5, "activation": "gelu"}, (1, 3, 3), "binary"),
    "tab_resnet": ("tab_resnet", {"width": 8, "depth": 2}, (6,), "multilabel"),
    "tab_resnet with group norm": ("tab_resnet", {"width": 8, "depth": 1, "norm": "group"}, (6,), "binary"),
    "small_cnn": ("small_cnn", {"width": 4, "depth": 2}, (1, 9, 9), "multiclass"),
    "wrn": ("wrn", {"depth": 10, "num_groups": 4}, (1, 8, 8), "binary"),
    "standardized wrn": ("wrn", {"depth": 10, "num_groups": 4, "weight_standardization": True}, (1, 8, 8), "binary"),
    "resnet1d": ("resnet1d", {"maps": 4, "depth": 2, "num_groups": 2}, (3, 24), "multilabel"),
    "vit": ("vit", {"patch": 4, "width": 8, "depth": 2, "num_heads": 2}, (1, 8, 8), "multiclass"),
    "vit with a class token": ("vit", {"patch": 4, "width": 8, "depth": 1, "num_heads": 2, "pool": "class"}, (1, 8, 8),
                               "binary"),
    "ecg_transformer": ("ecg_transformer", {"patch": 8, "width": 8, "depth": 1, "num_heads": 2}, (3, 24), "binary"),
}  # fmt: skip
LOSSES = {"binary": (binary_loss, 1), "multiclass": (multiclass_loss, 3), "multilabel": (multilabel_loss, 2)}


def check_equal(models, shape, task, unit_sizes, clipping_norm, seed, max_records=10**6, max_rows=2**62):
    loss, outputs = LOSSES[task]
    batches = [batch(shape, sizes, outputs, seed + k, task) for k, sizes in enumerate(unit_sizes)]
    mech = mechanism(clipping_norm)
    ours, ledgers, _ = fused_updates(models, batches, mech, loss, max_records, max_rows)
    for k, (features, labels, owner) in enumerate(batches):
        theirs, ledger = opacus_update(models[k], features, labels, owner, mech, loss)
        assert float((ours[k] - theirs).norm()) <= 1e-10 * max(float(theirs.norm()), 1e-12), k
        assert ledgers[k].largest_share == pytest.approx(ledger.largest_share, rel=1e-9)
        assert (ledgers[k].num_sampled, ledgers[k].num_empty) == (ledger.num_sampled, ledger.num_empty)


def build(name, seed):
    torch.manual_seed(seed)
    kind, options, shape, task = MODELS[name]
    model = build_model(ModelConfig(kind, options), shape, LOSSES[task][1]).double()
    with torch.no_grad():
        for param in model.parameters():
            param += 0.1 * torch.randn_like(param)
    return model


UNITS = st.lists(st.integers(1, 4), min_size=0, max_size=5)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", LAYERS)
@given(
    unit_sizes=st.lists(UNITS, min_size=1, max_size=3),
    clipping_norm=st.sampled_from([1e6, 0.5, 0.01]),
    seed=st.integers(0, 1000),
    max_records=st.sampled_from([10**6, 3]),
)
@FEW
def test_layers(name, unit_sizes, clipping_norm, seed, max_records):
    shape, make = LAYERS[name]
    torch.manual_seed(seed)
    models = [make().double() for _ in unit_sizes]
    assert unsupported_layers(models[0]) == []
    check_equal(models, shape, "binary", unit_sizes, clipping_norm, seed, max_records, max_rows=5)


@pytest.mark.parametrize("name", MODELS)
def test_float32_is_float64_rounded(name):
    """What fleets train in."""
    _, _, shape, task = MODELS[name]
    loss, outputs = LOSSES[task]
    models = [build(name, seed) for seed in range(2)]
    batches = [batch(shape, [2, 1, 3], outputs, seed, task) for seed in range(2)]
    exact, _, _ = fused_updates(models, batches, mechanism(0.5), loss)
    small = [(x.float(), y.float() if y.is_floating_point() else y, owner) for x, y, owner in batches]
    found, _, _ = fused_updates([copy.deepcopy(model).float() for model in models], small, mechanism(0.5), loss)
    assert found.dtype == torch.float32
    assert float((found - exact).norm()) <= 1e-4 * float(exact.norm())


@pytest.mark.parametrize("name", [name for name in LAYERS if "conv" in name or "group norm" in name])
def test_layers_as_a_gpu_computes_them(name, monkeypatch):
    for module in (convolution, norms):
        monkeypatch.setattr(module, "is_on_cpu", lambda rows: False)
    shape, make = LAYERS[name]
    torch.manual_seed(0)
    units = [[3, 1, 2], [1, 1, 1, 1], []]
    check_equal([make().double() for _ in units], shape, "binary", units, 0.1, seed=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unit_sizes", [[[1] * 5], [[3, 1, 2], [1, 1, 1, 1], []]], ids=["records", "patients"])
@pytest.mark.parametrize("clipping_norm", [1e6, 0.05])
def test_models_of_the_house(name, unit_sizes, clipping_norm):
    models = [build(name, seed) for seed in range(len(unit_sizes))]
    _, _, shape, task = MODELS[name]
    check_equal(models, shape, task, unit_sizes, clipping_norm, seed=1)


def test_every_rule_is_tested():
    seen = {type(module) for name in LAYERS for module in LAYERS[name][1]().modules()}
    assert set(RULES) <= seen


@pytest.mark.parametrize("always_mask", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["mlp", "tab_resnet", "small_cnn", "wrn", "ecg_transformer"])
def test_records_that_are_not_finite_contribute_nothing(monkeypatch, name, value, always_mask):
    """One alone, one beside another record of its patient; neighbours in the pass are untouched."""
    sound = fused_engine.clip_weights
    monkeypatch.setattr(fused_engine, "clip_weights", lambda *args: sound(*args[:3], always_mask))
    _, _, shape, task = MODELS[name]
    loss, outputs = LOSSES[task]
    models = [build(name, seed) for seed in range(2)]
    batches = [batch(shape, [2, 1, 1, 3], outputs, seed, task) for seed in range(2)]
    batches[0][0][[1, 3]] = value
    mech = mechanism(0.05)
    ours, ledgers, losses = fused_updates(models, batches, mech, loss)
    for k, (features, labels, owner) in enumerate(batches):
        theirs, ledger = opacus_update(models[k], features, labels, owner, mech, loss)
        assert float((ours[k] - theirs).norm()) <= 1e-10 * float(theirs.norm())
        assert ledgers[k].num_nonfinite == ledger.num_nonfinite
        assert losses[k].isfinite()
    assert ledgers[1].num_nonfinite == 0


def test_a_gradient_whose_square_overflows_counts_as_not_finite():
    """Opacus drops the patient, this engine the record; neither lets it through."""
    models = [build("mlp", 0)]
    features, labels, owner = batch((6,), [2, 1], 3, 0, "multiclass")
    features[1] = 1e200
    updates, ledgers, _ = fused_updates(models, [(features, labels, owner)], mechanism(0.05), multiclass_loss)
    assert bool(updates.isfinite().all())
    assert float(updates[0].norm()) * DIVISOR <= 2 * 0.05 * (1 + 1e-9)
    assert ledgers[0].num_nonfinite == 1


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "wrn", "vit"])
def test_padding_changes_nothing(monkeypatch, name):
    _, _, shape, task = MODELS[name]
    loss, outputs = LOSSES[task]
    models = [build(name, seed) for seed in range(2)]
    batches = [batch(shape, sizes, outputs, 3, task) for sizes in ([2, 1, 3], [1])]
    results = []
    for pad in (1, 16, 64):
        monkeypatch.setattr(batches_module, "PAD", pad)
        results.append(fused_updates(models, batches, mechanism(0.1), loss)[0])
    for other in results[1:]:
        assert float((results[0] - other).norm()) <= 1e-12 * float(results[0].norm())


def test_a_unit_whose_records_cancel_is_not_under_clipped():
    """Two records with opposite gradients: in float32 the sum over pairs loses the small rest, and may not lose it on
    the side where the unit keeps more than C."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 1, bias=False))
    nn.init.zeros_(model[0].weight)
    row = torch.randn(50) * 1e3
    features = torch.stack([row, row * (1 + 2e-6)])
    labels, owner = torch.tensor([0, 1]), np.array([0, 0])
    for clipping_norm in (1e-3, 1e-2, 1e-1, 1.0):
        updates, _, _ = fused_updates([model], [(features, labels, owner)], mechanism(clipping_norm), binary_loss)
        assert float(updates[0].norm()) * DIVISOR <= clipping_norm * (1 + 1e-5)


def test_a_failed_step_ends_the_engine():
    stack = Stack([nn.Linear(3, 1)])
    engine = FusedEngine(stack, binary_loss, mechanism(1.0), [torch.Generator()], np.ones((1, 2), dtype=bool))
    owner = np.array([0, 1])
    bad = UnitBatch(Given(torch.zeros(2, 4), torch.zeros(2)), owner, owner)
    with pytest.raises(RuntimeError):
        engine.step([bad], 10)
    with pytest.raises(PrivacyError, match="failed half-way"):
        engine.step([UnitBatch(Given(torch.zeros(2, 3), torch.zeros(2)), owner, owner)], 10)


def test_an_unknown_layer_is_refused_by_name():
    with pytest.raises(PrivacyError, match=r"0 \(Bilinear\) has parameters and no rule"):
        Stack([nn.Sequential(nn.Bilinear(2, 2, 1))])
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert unsupported_layers(nn.Sequential(first, second)) == [
        "1 (Linear) shares a parameter with 0 (Linear)"
    ]
