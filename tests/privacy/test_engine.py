"""The engine against a slow, obvious twin: one autograd call per record, explicit mean, clip and sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dptrain.errors import PrivacyError
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.mechanism import Mechanism
from dptrain.training.losses import binary_loss, multiclass_loss, multilabel_loss

OWNER = np.array([0, 0, 0, 1, 2, 2, 3])


def mechanism(**changes: object) -> Mechanism:
    values: dict = {
        "unit": "patient",
        "sampling_rate": 0.5,
        "noise_multiplier": 0.0,
        "clipping_norm": 0.3,
        "num_steps": 1,
        "expected_batch_size": 5.0,
        "delta": 1e-3,
    }
    return Mechanism(**(values | changes))


def network(outputs: int = 1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, outputs)).double()


def records(num: int = len(OWNER), seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num, 4, generator=generator, dtype=torch.float64)
    return features, (torch.rand(num, generator=generator) < 0.5).long()


def run_step(model, features, labels, owner, mech, *, loss=binary_loss, max_records=10_000, noise_seed=0, steps=1):
    """Weights after `steps` plain gradient steps of size 1 through the engine."""
    noise = torch.Generator().manual_seed(noise_seed)
    engine = PrivateEngine(model, loss, torch.optim.SGD(model.parameters(), lr=1.0), mech, noise, np.ones(8, bool))
    units = np.arange(len(np.unique(owner)))
    for _ in range(steps):
        engine.step(features, labels, torch.from_numpy(owner), units, max_records)
    trained = engine.close()
    return torch.cat([param.detach().flatten() for param in trained.parameters()]), engine


def obvious_update(model, features, labels, owner, clipping_norm, loss=binary_loss) -> torch.Tensor:
    """Sum over patients of the clipped mean of the patient's record gradients, one record at a time."""
    total = torch.zeros(sum(param.numel() for param in model.parameters()), dtype=torch.float64)
    for unit in np.unique(owner):
        gradients = []
        for row in np.flatnonzero(owner == unit):
            model.zero_grad()
            loss(model(features[row : row + 1]), labels[row : row + 1]).sum().backward()
            gradients.append(torch.cat([param.grad.flatten() for param in model.parameters()]))
        mean = torch.stack(gradients).mean(0)
        total += mean * min(1.0, clipping_norm / (float(mean.norm()) + 1e-6))
    return total


@pytest.mark.parametrize("clipping_norm", [1e6, 0.3, 0.01])
def test_patient_gradients_are_clipped_once_per_patient(clipping_norm):
    features, labels = records()
    start = torch.cat([param.detach().flatten() for param in network().parameters()])
    expected = start - obvious_update(network(), features, labels, OWNER, clipping_norm) / 5.0
    after, _ = run_step(network(), features, labels, OWNER, mechanism(clipping_norm=clipping_norm))
    assert torch.allclose(after, expected, atol=1e-12, rtol=0)


def test_the_unit_matters():
    """Mutant: clipping every record instead of the patient gives another sum, so the test above can fail."""
    features, labels = records()
    by_patient, _ = run_step(network(), features, labels, OWNER, mechanism())
    by_record, _ = run_step(network(), features, labels, np.arange(len(OWNER)), mechanism())
    assert float((by_patient - by_record).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("loss", "outputs", "labels"),
    [
        (multiclass_loss, 3, torch.tensor([0, 1, 2, 0, 1, 2, 0])),
        (multilabel_loss, 2, torch.tensor([[0.0, 1], [1, np.nan], [np.nan, np.nan], [1, 1], [0, 0], [1, 0], [0, 1]])),
    ],
)
def test_other_tasks_equal_the_twin(loss, outputs, labels):
    features, _ = records()
    start = torch.cat([param.detach().flatten() for param in network(outputs).parameters()])
    expected = start - obvious_update(network(outputs), features, labels, OWNER, 0.3, loss) / 5.0
    after, _ = run_step(network(outputs), features, labels, OWNER, mechanism(), loss=loss)
    assert torch.allclose(after, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("max_records", [1, 2, 3, 4, 6])
def test_cutting_a_batch_changes_nothing(max_records):
    """Also with noise: a cut batch gets its noise once."""
    features, labels = records()
    mech = mechanism(noise_multiplier=1.0)
    whole, _ = run_step(network(), features, labels, OWNER, mech)
    cut, engine = run_step(network(), features, labels, OWNER, mech, max_records=max_records)
    assert torch.allclose(whole, cut, atol=1e-12, rtol=0)
    assert engine.ledger.num_steps == 1


def test_a_nan_record_contributes_nothing_but_still_counts_in_its_patients_mean():
    features, labels = records()
    broken = features.clone()
    broken[1] = torch.nan
    after, engine = run_step(network(), broken, labels, OWNER, mechanism(clipping_norm=1e6))
    start = torch.cat([param.detach().flatten() for param in network().parameters()])
    kept = np.array([0, 2, 3, 4, 5, 6])
    weights = {0: 2 / 3, 1: 1.0, 2: 1.0, 3: 1.0}
    expected = sum(
        weights[unit] * obvious_update(network(), features[rows], labels[rows], np.zeros(len(rows)), 1e6)
        for unit in weights
        for rows in [kept[OWNER[kept] == unit]]
    )
    assert torch.isfinite(after).all()
    assert torch.allclose(after, start - expected / 5.0, atol=1e-12, rtol=0)
    assert engine.ledger.num_nonfinite == 1


def test_an_empty_batch_is_a_noised_step():
    features, labels = records(0)
    mech = mechanism(noise_multiplier=2.0, num_steps=3)
    empty = np.zeros(0, dtype=np.int64)
    before = torch.cat([param.detach().flatten() for param in network().parameters()])
    after, engine = run_step(network(), features, labels, empty, mech, steps=3)
    assert torch.isfinite(after).all()
    assert float((after - before).abs().max()) > 0
    assert (engine.ledger.num_steps, engine.ledger.num_empty, engine.ledger.num_sampled) == (3, 3, 0)


def test_noise_has_the_accounted_spread():
    """Update of an empty batch = noise / divisor; its spread must be sigma C / divisor (4 standard errors)."""
    model = nn.Linear(200, 100).double()
    before = torch.cat([param.detach().flatten() for param in model.parameters()])
    mech = mechanism(noise_multiplier=1.7, clipping_norm=0.4, expected_batch_size=8.0)
    features = torch.zeros(0, 200, dtype=torch.float64)
    after, _ = run_step(model, features, torch.zeros(0), np.zeros(0, dtype=np.int64), mech)
    noise = after - before
    expected = 1.7 * 0.4 / 8.0
    assert abs(float(noise.std()) / expected - 1) < 4 / np.sqrt(2 * len(noise))
    assert abs(float(noise.mean())) < 4 * expected / np.sqrt(len(noise))


def test_noise_is_fresh_in_every_step_and_stream():
    features, labels = records(0)
    empty = np.zeros(0, dtype=np.int64)
    mech = mechanism(noise_multiplier=1.0)
    once, _ = run_step(network(), features, labels, empty, mech)
    again, _ = run_step(network(), features, labels, empty, mech)
    other, _ = run_step(network(), features, labels, empty, mech, noise_seed=1)
    twice, _ = run_step(network(), features, labels, empty, mech, steps=2)
    start = torch.cat([param.detach().flatten() for param in network().parameters()])
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)
    assert not torch.allclose(twice - once, once - start)


def test_adding_a_patient_moves_the_sum_by_at_most_c():
    features, labels = records()
    mech = mechanism(clipping_norm=0.1)
    everyone, _ = run_step(network(), 50 * features, labels, OWNER, mech)
    fewer, _ = run_step(network(), 50 * features[:6], labels[:6], OWNER[:6], mech)
    assert float((everyone - fewer).norm()) * 5.0 <= 0.1 * (1 + 1e-5)


def test_a_loss_that_is_not_per_record_is_refused():
    features, labels = records()
    with pytest.raises(ValueError, match="one loss per record"):
        run_step(network(), features, labels, OWNER, mechanism(), loss=lambda z, y: binary_loss(z, y)[:, None])


def test_ledger_voids_a_run_that_is_not_the_mechanism():
    features, labels = records()
    _, engine = run_step(network(), features, labels, OWNER, mechanism(noise_multiplier=1.0))
    engine.ledger.check(mechanism(noise_multiplier=1.0))
    for change, word in (
        ({"num_steps": 2}, "noisy steps"),
        ({"noise_multiplier": 1.1}, "noise_multiplier"),
        ({"clipping_norm": 0.2}, "clipping_norm"),
        ({"expected_batch_size": 4.0}, "expected_batch_size"),
        ({"sampling_rate": 1.0}, "units were sampled"),
    ):
        with pytest.raises(PrivacyError, match=word):
            engine.ledger.check(mechanism(**({"noise_multiplier": 1.0} | change)))


def test_a_step_after_one_that_failed_is_refused() -> None:
    """Its first pass may have left a clipped sum behind; Opacus would add it to the next step."""
    engine, features, labels = _two_pass_engine()
    boom = {"armed": True}

    def fail(module, arguments):
        if boom["armed"] and len(arguments[0]) and float(arguments[0][0, 0]) == 2.0:
            raise MemoryError

    engine._module.register_forward_pre_hook(fail)
    owner, units = torch.arange(4), np.arange(4)
    with pytest.raises(MemoryError):
        engine.step(features, labels, owner, units, 2)
    boom["armed"] = False
    with pytest.raises(PrivacyError, match="failed half-way"):
        engine.step(features, labels, owner, units, 2)


def test_the_mean_of_huge_finite_gradients_is_finite() -> None:
    """Added first and divided then, four records of one patient overflow, and 0 * inf makes every weight NaN."""
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    mechanism = Mechanism("patient", 1.0, 0.0, 1.0, 1, 2.0, 1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = PrivateEngine(model, _logistic, optimizer, mechanism, torch.Generator(), np.ones(2, dtype=bool))
    features = torch.tensor([[2e38, 0.0]] * 4 + [[0.0, 1.0]])
    engine.step(features, torch.zeros(5), torch.tensor([0, 0, 0, 0, 1]), np.arange(2), 100)
    assert all(bool(param.isfinite().all()) for param in model.parameters())


def _logistic(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


def _two_pass_engine():
    model = nn.Linear(2, 1)
    mechanism = Mechanism("patient", 1.0, 0.0, 1.0, 2, 4.0, 1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = PrivateEngine(model, _logistic, optimizer, mechanism, torch.Generator(), np.ones(4, dtype=bool))
    return engine, torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), torch.zeros(4)
