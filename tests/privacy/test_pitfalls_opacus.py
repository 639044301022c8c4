"""What plain Opacus 1.6 does with models, losses, batches and records, measured, and what dptrain does with the same.

Each test has two halves: Opacus shows the failure, dptrain refuses it or does it right. `docs/pitfalls.md` is the table
of these tests; sampling, accounting and seeds are in `test_pitfalls_accounting.py`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dptrain.privacy.sampling import poisson_batches
from dptrain.training.losses import multiclass_loss
from tests.privacy.plain_opacus import (
    FEATURES,
    findings,
    make_private,
    mechanism,
    network,
    opacus_sensitivity,
    opacus_sum,
    ours,
    records,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import GradSampleModule
    from opacus.layers import DPGRU
    from opacus.utils.batch_memory_manager import BatchMemoryManager
    from opacus.validators import ModuleValidator

pytestmark = pytest.mark.filterwarnings("ignore")


def test_ghost_clipping_with_one_output_column_does_not_clip():
    """Clip factors (B,) times losses (B, 1) broadcast to (B, B): every record is scaled by the sum of all factors."""
    features, labels = records(64)
    column = labels.float()[:, None]
    for loss, scale in ((nn.BCEWithLogitsLoss, 10.0), (nn.MSELoss, 1.0)):
        hooks = opacus_sensitivity(network, loss, scale * features, column)
        ghost = opacus_sensitivity(network, loss, scale * features, column, mode="ghost")
        assert hooks <= 1 + 1e-5
        assert ghost > 30, ghost

    def column_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, labels.float()[:, None], reduction="none")

    found = findings(network(), column_loss)
    assert "shape (8, 1)" in found["loss"].what
    assert "shape (records,)" in found["loss"].advice
    with pytest.raises(ValueError, match="one loss per record"):
        ours(network(), features, labels, range(64), mechanism(), loss=column_loss)
    assert not findings(network())


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_class_weights_with_reduction_mean_tie_the_batch_together(mode):
    """`CrossEntropyLoss(weight)` divides by the batch's sum of weights. One patient of the heavy class shrinks all
    others; with many patients at the clipping norm the sensitivity tends to the ratio of the weights, here 6."""
    weight = torch.tensor([1.0, 6.0])
    features, _ = records(1)
    features, labels = features.repeat(512, 1), torch.zeros(512, dtype=torch.long)
    labels[0] = 1

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(FEATURES, 2)

    def norm_of_one() -> float:
        model = build()
        functional.cross_entropy(model(features[1:2]), labels[1:2]).backward()
        return float(torch.cat([param.grad.flatten() for param in model.parameters()]).norm())

    sums = [
        opacus_sum(
            build(), nn.CrossEntropyLoss(weight=weight), features[start:], labels[start:],
            clipping_norm=norm_of_one(), mode=mode,
        )
        for start in (0, 1)
    ]  # fmt: skip
    assert 5.8 < float((sums[0] - sums[1]).norm()) / norm_of_one() < 6.0

    def as_used(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, weight=weight)

    def per_record_but_normalised(logits: Tensor, labels: Tensor) -> Tensor:
        return multiclass_loss(logits, labels) * weight[labels] / weight[labels].mean()

    def per_record(logits: Tensor, labels: Tensor) -> Tensor:
        return multiclass_loss(logits, labels) * weight[labels]

    assert "no class weights that are normalised over the batch" in findings(build(), as_used)["loss"].advice
    assert "independence" in findings(build(), per_record_but_normalised)
    assert not findings(build(), per_record)


def test_a_loss_over_the_batch_has_no_bound():
    """Dice as an example of all that is one number per batch (Cox, contrastive): without the only positive patient
    nobody has a gradient, with it everybody has one."""

    def dice(logits: Tensor, labels: Tensor) -> Tensor:
        share = torch.sigmoid(logits[:, 0])
        return 1 - 2 * (share * labels).sum() / (share.sum() + labels.sum() + 1)

    features, _ = records(64)
    labels = torch.zeros(64, dtype=torch.long)
    labels[0] = 1
    assert opacus_sensitivity(network, lambda: dice, features, labels, clipping_norm=1e-3) > 30
    assert "loss" in findings(network(), dice)
    assert "independence" in findings(network(), lambda z, y: dice(z, y).expand(len(y)))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.BatchNorm1d(16, affine=False),
        lambda: nn.BatchNorm1d(16).requires_grad_(False),
        lambda: nn.BatchNorm1d(16, affine=False, track_running_stats=False),
    ],
    ids=["affine=False", "frozen", "no running statistics"],
)
def test_batch_norm_without_trainable_parameters_passes_opacus(layer):
    features, labels = records(64)
    features[0] *= 30  # one unusual patient

    def build() -> nn.Module:
        return network(layer())

    assert ModuleValidator.is_valid(build())
    assert not ModuleValidator.is_valid(network(nn.BatchNorm1d(16))), "the ordinary kind is refused"
    loss = lambda: lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 0], y.float())  # noqa: E731
    assert opacus_sensitivity(build, loss, features, labels) > 2.5
    leaving = []
    for kept in (features, features[1:]):
        model = build()
        opacus_sum(model, loss(), kept, labels[-len(kept) :])
        leaving.append(model[1].running_mean)
    if leaving[0] is not None:
        assert not torch.equal(leaving[0], leaving[1]), "statistics of the patients are in the model, without noise"
    found = findings(build(), records=(features[:8], labels[:8]))
    assert {"independence", "buffers"} & set(found)
    assert all("GroupNorm" in found[name].advice for name in {"independence", "buffers"} & set(found))
    assert not findings(network(nn.GroupNorm(4, 16)))


class KeepsAMean(nn.Module):
    """A home-made BatchNorm: a frozen parameter collects the mean in training and is subtracted in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.data.mul_(0.9).add_(0.1 * x.detach().mean(0))
            return x
        return x - self.mean


def test_statistics_in_a_frozen_parameter_leave_without_noise():
    features, labels = records(64)
    model = network(KeepsAMean())
    opacus_sum(model, lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 0], y.float()), features, labels)
    expected = 0.1 * network()[0](features).mean(0)
    assert torch.allclose(model[1].mean, expected, atol=1e-6), "the patients' mean, exactly"
    assert "1.mean" in findings(network(KeepsAMean()))["buffers"].what


def test_break_inside_the_batch_memory_manager_mixes_two_batches():
    """Eight identical records at q=1 in passes of four. A loop that breaks after one pass leaves its clipped sum
    behind: the next noisy step holds 12 contributions of 8 patients, so four count twice under one noise."""
    features, labels = records(1)
    features, labels = 100 * features.repeat(8, 1), labels.repeat(8)
    engine, model, optimizer, loader = make_private(network(), features, labels)

    def walk(stop_after: int) -> None:
        with BatchMemoryManager(data_loader=loader, max_physical_batch_size=4, optimizer=optimizer) as passes:
            for index, (x, y) in enumerate(passes):
                optimizer.zero_grad()
                functional.binary_cross_entropy_with_logits(model(x)[:, 0], y.float()).backward()
                optimizer.step()
                if index + 1 == stop_after:
                    break

    walk(stop_after=1)
    assert engine.accountant.history == []
    walk(stop_after=99)
    assert [steps for _, _, steps in engine.accountant.history] == [1], "one step is accounted"
    total = torch.cat([param.summed_grad.flatten() for param in optimizer.params]).norm()
    assert float(total) == pytest.approx(12, rel=1e-4)

    mech = mechanism(noise_multiplier=0.0, sampling_rate=1.0)
    cut, engine = ours(network(), features, labels, range(8), mech, max_records=4)
    assert float(cut.norm()) == pytest.approx(8, rel=1e-4)
    assert engine.ledger.findings(mech) == []
    interrupted = engine.ledger.findings(mechanism(noise_multiplier=0.0, sampling_rate=1.0, num_steps=2))
    assert "1 noisy steps ran, 2 are accounted." in interrupted


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_one_broken_record_destroys_all_weights(mode, value):
    features, labels = records(8)
    features[3] = value
    loss = nn.CrossEntropyLoss()
    _, model, optimizer, *rest = make_private(network(outputs=2), features, labels, sigma=1.0, mode=mode)
    (rest[0] if mode == "ghost" else loss)(model(features), labels).backward()
    optimizer.step()
    assert all(bool(param.isnan().all()) for param in model.parameters())

    mech = mechanism(noise_multiplier=0.0)
    kept = torch.arange(8) != 3
    broken, engine = ours(network(outputs=2), features, labels, range(8), mech, loss=multiclass_loss)
    without, _ = ours(network(outputs=2), features[kept], labels[kept], range(7), mech, loss=multiclass_loss)
    assert torch.allclose(broken, without, atol=1e-5)
    assert engine.ledger.num_nonfinite == 1
    assert not findings(network())


class Gate(nn.Module):
    """Owns a parameter and takes an optional second input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return x * self.weight + (0 if other is None else torch.tanh(other) * self.weight)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x, x.flip(1))


def test_an_optional_second_input_is_left_out_of_the_gradient():
    features, labels = records(8)
    model = GradSampleModule(network(TwoInputs()))
    functional.binary_cross_entropy_with_logits(model(features)[:, 0], labels.float()).backward()
    weight = dict(model.named_parameters())["_module.1.gate.weight"]
    error = float((weight.grad_sample.mean(0) - weight.grad).norm() / weight.grad.norm())
    assert error > 0.5, "the mean of the per-record gradients should be the gradient"
    found = findings(network(TwoInputs()))
    assert "differs from autograd's gradient" in found["gradients"].what
    assert "no shared optional inputs" in found["gradients"].advice


def convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (convolution, {"mode": "functorch"}),
        (network, {"mode": "ew"}),
        (
            network,
            {
                "clipping": "adaptive", "target_unclipped_quantile": 0.5, "clipbound_learning_rate": 0.2,
                "max_clipbound": 10.0, "min_clipbound": 0.1, "unclipped_num_std": 1.0,
            },
        ),
    ],
    ids=["functorch", "expanded weights", "adaptive clipping"],
)  # fmt: skip
def test_an_empty_poisson_batch_crashes(build, settings):
    features, labels = records(8)
    _, model, optimizer, _ = make_private(build(), features, labels, sigma=1.0, **settings)

    def empty_step() -> None:
        functional.binary_cross_entropy_with_logits(model(features[:0])[:, 0], labels[:0].float()).backward()
        optimizer.step()

    with pytest.raises(RuntimeError):
        empty_step()

    mech = mechanism(sampling_rate=0.01, num_steps=200)
    batches = list(poisson_batches(mech, np.ones(20, dtype=bool), np.random.default_rng(0)))
    assert len(batches) == 200
    assert sum(len(batch) == 0 for batch in batches) > 100
    update, engine = ours(build(), features[:0], labels[:0], [], mechanism())
    assert engine.ledger.num_empty == engine.ledger.num_steps == 1
    assert float(update.std()) == pytest.approx(1.0, rel=0.3), "an empty step is noise, and nothing else"
    assert not findings(build())


def test_a_patient_with_several_records_counts_several_times():
    """Opacus knows records only. dptrain clips a patient once (the default), or says that the unit is a record."""
    features, labels = records(8)
    features, labels = 100 * features, torch.ones(8, dtype=torch.long)
    features[:4], owner = features[0], [0, 0, 0, 0, 1, 2, 3, 4]  # the first patient has four records
    loss = lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 0], y.float())  # noqa: E731
    change = opacus_sum(network(), loss, features, labels) - opacus_sum(network(), loss, features[4:], labels[4:])
    assert float(change.norm()) == pytest.approx(4, rel=1e-4)

    mech = mechanism(noise_multiplier=0.0)
    everyone, _ = ours(network(), features, labels, owner, mech)
    fewer, _ = ours(network(), features[4:], labels[4:], range(4), mech)
    assert float((everyone - fewer).norm()) <= 1 + 1e-4


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = cell(1, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[:, :, None])[0][:, -1])


def test_unsupported_layers_are_named_before_training():
    """`GradSampleModule(nn.GRU)` is built without a word and fails in the first backward pass; only the validator of
    `PrivacyEngine` knows."""
    features, labels = records(8)
    model = GradSampleModule(Recurrent(nn.GRU))
    with pytest.raises(RuntimeError, match="broadcast"):
        functional.binary_cross_entropy_with_logits(model(features)[:, 0], labels.float()).backward()
    found = findings(Recurrent(nn.GRU))
    assert "it failed with RuntimeError" in found["gradients"].what
    assert not findings(Recurrent(DPGRU))
