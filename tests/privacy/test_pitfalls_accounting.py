"""What plain Opacus 1.6 does with sampling, accounting and seeds, measured, and what dptrain does in the same place.

`docs/pitfalls.md` is the table of these tests; models, losses and batches are in `test_pitfalls_opacus.py`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import io
import os
import re
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dptrain.cohorts.membership import draw_membership
from dptrain.errors import PrivacyError, StudyError
from dptrain.privacy.accounting import account, reported_epsilon
from dptrain.privacy.calibration import calibrate_noise
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.prv import MAX_POINTS, prv_bounds
from dptrain.privacy.sampling import poisson_batches
from dptrain.privacy.secure_random import SecureStream
from dptrain.privacy.verify import void_reasons
from dptrain.study.folder import StudyFolder
from dptrain.study.runner import begin_arm
from dptrain.training import fleet
from dptrain.training.arms import Arm, arm_from_label, private_arm
from dptrain.training.losses import binary_loss
from tests.privacy.plain_opacus import make_private, mechanism, network, records
from tests.training.test_fleet import small_cohort, small_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import PrivacyEngine
    from opacus.accountants import GaussianAccountant, PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV
    from opacus.accountants.utils import get_noise_multiplier
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler

pytestmark = pytest.mark.filterwarnings("ignore")
DELTA = 1e-5


def spent(accountant, sampling_rate: float, noise_multiplier: float, num_steps: int) -> float:
    """Epsilon by one of Opacus's accountants."""
    accountant.history = [(noise_multiplier, sampling_rate, num_steps)]
    return accountant.get_epsilon(DELTA)


def walk(model, optimizer, loader) -> None:
    """One pass over a loader, as in every Opacus tutorial."""
    for features, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(features), labels).backward()
        optimizer.step()


def our_run(batches, mech, noise=None) -> PrivateEngine:
    """Steps of dptrain's engine over the given batches of units; one record per unit."""
    noise = noise or torch.Generator().manual_seed(1)
    features, labels = records(200)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = PrivateEngine(model, binary_loss, optimizer, mech, noise, np.ones(200, dtype=bool))
    for units in batches:
        engine.step(features[units], labels[units], torch.arange(len(units)), units, 10**6)
    return engine


def shuffled_epsilon_at_least(noise_multiplier: float, num_steps: int) -> float:
    """Lower bound on epsilon at DELTA of one epoch of shuffled batches, one of which holds the attacked patient.

    Everybody else's gradient is -C. Then the sum of the patient's batch is 2C above the others with the patient and C
    above them without (his gradient zeroed), and the attacker looks at the largest of the T noisy sums (Chua et al.
    2024, arXiv 2403.17673, section 3). For every event E, epsilon >= ln((P(E) - delta) / Q(E)).
    """
    limits = np.linspace(0, 12 * noise_multiplier, 4000)

    def log_below(shift: float) -> np.ndarray:
        others = (num_steps - 1) * norm.logcdf(limits / noise_multiplier)
        return others + norm.logcdf((limits - shift) / noise_multiplier)

    with_patient, without = -np.expm1(log_below(2.0)), -np.expm1(log_below(1.0))
    useful = (with_patient > DELTA) & (without > 0)
    return float(np.log((with_patient[useful] - DELTA) / without[useful]).max())


def test_shuffled_batches_are_accounted_as_poisson():
    features, labels = records(64)
    epsilons, seen = [], []
    for poisson in (True, False):
        engine, model, optimizer, loader = make_private(
            network(outputs=2), features, labels, sigma=1.0, batch_size=16, poisson_sampling=poisson
        )
        walk(model, optimizer, loader)
        epsilons.append(engine.get_epsilon(DELTA))
        seen.append(sum(len(y) for _, y in loader))
    assert epsilons[0] == epsilons[1]
    assert seen[1] == 64, "every record exactly once per epoch: not Poisson"
    claimed = spent(PRVAccountant(), 1 / 1000, 0.6, 1000)
    assert 1.4 < claimed < 1.5
    assert shuffled_epsilon_at_least(0.6, 1000) > 5 * claimed

    mech = mechanism(sampling_rate=0.25, num_steps=40)
    poisson_run = our_run(poisson_batches(mech, np.ones(200, dtype=bool), np.random.default_rng(0)), mech)
    assert poisson_run.ledger.findings(mech) == []
    shuffled = DataLoader(torch.arange(200), batch_size=50, shuffle=True)
    run = our_run([np.sort(batch.numpy()) for _ in range(10) for batch in shuffled], mech)
    with pytest.raises(PrivacyError, match="numbers of units per step vary less"):
        run.ledger.check(mech)


def test_sampling_rate_and_divisor_are_taken_from_the_data(tmp_path):
    features, labels = records(121)

    def public_numbers(num: int, batch_size: int) -> tuple[float, float]:
        model = network(outputs=2)
        _, _, optimizer, loader = make_private(model, features[:num], labels[:num], batch_size=batch_size)
        return loader.sample_rate, optimizer.expected_batch_size

    assert public_numbers(100, 30) == (0.25, 25), "q=0.30 was asked for"
    assert public_numbers(120, 30) == (0.25, 30)
    assert public_numbers(121, 30) == (0.2, 24), "one patient more moves every weight by a quarter"

    config, mechanisms = small_config(), []
    for num_patients in (60, 61, 80):
        study = StudyFolder.create_or_open(tmp_path / str(num_patients), config, small_cohort(num_patients))
        mechanisms.append(begin_arm(study, Arm("private", 8.0)).mechanism)
    assert mechanisms[0] == mechanisms[1] == mechanisms[2]
    assert mechanisms[0]["sampling_rate"] == config.training.private.sampling_rate == 0.5
    assert mechanisms[0]["expected_batch_size"] == 0.5 * config.data.nominal_patients / 2
    run = our_run([np.arange(100)], mechanism(expected_batch_size=100.0))
    assert any("expected_batch_size" in sentence for sentence in run.ledger.findings(mechanism()))


def test_a_step_is_lost_to_rounding():
    """`int(1 / (1 / n))` is n - 1 for 312 of the loader lengths from 1 to 5000."""
    lost = [n for n in range(1, 5001) if int(1 / (1 / n)) != n]
    assert len(lost) == 312
    assert len(UniformWithReplacementSampler(num_samples=1000, sample_rate=1 / lost[0])) == lost[0] - 1
    for steps in lost[:20]:
        mech = mechanism(sampling_rate=1 / steps, num_steps=steps)
        assert sum(1 for _ in poisson_batches(mech, np.ones(3, dtype=bool), np.random.default_rng(0))) == steps


def test_nothing_stops_after_the_budgeted_epochs():
    features, labels = records(64)
    engine, model = PrivacyEngine(), network(outputs=2)
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(features, labels), batch_size=16),
        target_epsilon=3.0, target_delta=DELTA, epochs=2, max_grad_norm=1.0,
    )  # fmt: skip
    for _ in range(2):
        walk(model, optimizer, loader)
    assert engine.get_epsilon(DELTA) <= 3.0
    for _ in range(8):
        walk(model, optimizer, loader)
    assert engine.get_epsilon(DELTA) > 6.0, "twice the promise, and no error"

    mech = mechanism(sampling_rate=0.25, num_steps=8)
    member = np.ones(200, dtype=bool)
    batches = [*poisson_batches(mech, member, np.random.default_rng(0)), np.arange(50)]
    assert len(batches) == 8 + 1
    with pytest.raises(PrivacyError, match="9 noisy steps ran, 8 are accounted"):
        our_run(batches, mech).ledger.check(mech)


@pytest.mark.parametrize(("noise_multiplier", "epsilon", "points"), [(0.3737, 100, 2**21), (0.1548, 1000, 2**24)])
def test_the_prv_grid_explodes_at_large_epsilon(noise_multiplier, epsilon, points):
    """Time and memory of Opacus's accountant follow the points of its grid, and nothing bounds them. At epsilon 1000 it
    took 36 s and 5 GB here and answered inf."""
    grid = PRVAccountant()._get_domain(
        [PoissonSubsampledGaussianPRV(0.05, noise_multiplier)], [600], eps_error=0.01, delta_error=DELTA / 1000
    )
    assert grid.size > points > MAX_POINTS
    found = account(0.05, noise_multiplier, 600, DELTA)
    assert found.epsilon == pytest.approx(epsilon, rel=1e-3)
    assert found.epsilon <= epsilon


@pytest.mark.slow
def test_calibrating_to_epsilon_100_is_slow():
    start = time.perf_counter()
    theirs = get_noise_multiplier(target_epsilon=100, target_delta=DELTA, sample_rate=0.05, steps=600, accountant="prv")
    middle = time.perf_counter()
    ours = calibrate_noise(100, 0.05, 600, DELTA).noise_multiplier
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert middle - start > 5 * (time.perf_counter() - middle)


def test_small_epsilons_are_refused_or_paid_twice():
    with pytest.raises(ValueError, match="too low"):
        get_noise_multiplier(target_epsilon=0.1, target_delta=DELTA, sample_rate=0.05, steps=600, accountant="rdp")
    assert calibrate_noise(0.1, 0.05, 600, DELTA).accounting.epsilon <= 0.1
    ours = calibrate_noise(0.02, 0.05, 600, DELTA)
    theirs = get_noise_multiplier(
        target_epsilon=0.02, target_delta=DELTA, sample_rate=0.05, steps=600, accountant="prv"
    )
    assert theirs > 1.9 * ours.noise_multiplier, "an absolute error of 0.01 is half of the budget"
    assert ours.accounting.epsilon <= 0.02


def test_the_gdp_accountant_understates_epsilon():
    """It is a limit theorem, not a bound; dptrain shows it as an approximation and never as epsilon."""
    certain = prv_bounds(0.01, 0.5, 500, DELTA).lower
    assert spent(GaussianAccountant(), 0.01, 0.5, 500) < 0.8 * certain  # 7.83 and 10.26
    assert account(0.01, 0.5, 500, DELTA).epsilon >= certain
    assert account(0.01, 0.5, 500, DELTA).accountant in ("prv", "pld")


def test_secure_mode_needs_a_package_that_cannot_be_had():
    assert importlib.util.find_spec("torchcsprng") is None
    with pytest.raises(ImportError, match="torchcsprng"):
        PrivacyEngine(secure_mode=True)

    mech = mechanism(sampling_rate=1.0, num_steps=3)
    assert our_run([np.arange(200)] * 3, mech, SecureStream()).ledger.findings(mech) == []


def test_every_shadow_model_of_one_seed_gets_the_same_noise(monkeypatch):
    """Two models whose data differ in one record, noise a thousand times the clipping norm: their difference should be
    all noise, and has none."""
    features, labels = records(64)
    weights = []
    for change in (0, 1):
        labels[0] = change
        torch.manual_seed(0)
        _, model, optimizer, loader = make_private(network(outputs=2), features, labels, sigma=1000.0, batch_size=16)
        walk(model, optimizer, loader)
        weights.append(torch.cat([param.detach().flatten() for param in model.parameters()]))
    noise = 1000 / 16 * (4 * len(weights[0])) ** 0.5
    assert float((weights[0] - network_weights()).norm()) == pytest.approx(noise, rel=0.25)
    assert float((weights[0] - weights[1]).norm()) < 1e-2 * noise

    data, rows = fleet.FleetData.build(small_cohort(), "patient"), draw_membership(0, 4, 45)
    mech = mechanism(num_steps=6, expected_batch_size=11.25, noise_multiplier=2.0)

    def ledgers() -> list[dict]:
        return [
            fleet.train_fleet_model(small_config(), data, arm_from_label(label), mech, model, rows[model]).ledger
            for label in ("eps=8", "eps=3")
            for model in (0, 1)
        ]

    epsilon, _ = reported_epsilon(mech.sampling_rate, 2.0, 6, mech.delta)
    found = ledgers()
    assert shared_noise(found) == []
    assert void_reasons(mech, epsilon, found[:2]) == []
    monkeypatch.setattr(fleet, "stream_seed", lambda root, purpose, *path: root)
    (reason,) = void_reasons(mech, epsilon, ledgers()[:2])
    assert "The difference of two such models has no noise left in it" in reason


def network_weights() -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in network(outputs=2).parameters()])


class Payload:
    """What a pickle may hold: any call at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_checkpoints_run_code_and_forget_the_random_state(tmp_path):
    """The half of dptrain is in `tests/release/test_train.py`; a model of a fleet has no checkpoint, it is trained as
    a whole or again from the start."""
    features, labels = records(16)

    def begin():
        generator = torch.Generator().manual_seed(7)
        return make_private(network(outputs=2), features, labels, sigma=1.0, noise_generator=generator)

    def noise_of_one_step(model, optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(features), labels).backward()
        optimizer.step()
        return torch.cat([(p.grad * optimizer.expected_batch_size - p.summed_grad).flatten() for p in optimizer.params])

    engine, model, optimizer, _ = begin()
    first = noise_of_one_step(model, optimizer)
    file = io.BytesIO()
    engine.save_checkpoint(
        path=file, module=model, optimizer=optimizer, checkpoint_dict={"note": Payload(tmp_path / "code ran")}
    )
    engine, model, optimizer, _ = begin()
    file.seek(0)
    content = engine.load_checkpoint(path=file, module=model, optimizer=optimizer)
    assert (tmp_path / "code ran").exists()
    assert not [key for key in content if "rng" in key or "random" in key or "generator" in key]
    second = noise_of_one_step(model, optimizer)
    assert torch.allclose(first, second, atol=1e-5), "the second step's noise is the first step's"
    assert engine.accountant.history[0][2] == 2, "and two steps are accounted as if they were independent"


def test_its_wheel_takes_the_names_benchmarks_and_examples():
    files = importlib.metadata.distribution("opacus").files
    assert {"benchmarks", "examples"} <= {file.parts[0] for file in files}
    root = Path(__file__).parents[2]
    targets = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert not {"benchmarks", "examples"} & set(targets["wheel"]["only-include"])
    assert not any((root / name).exists() for name in ("benchmarks", "examples"))


def test_the_page_of_pitfalls_names_tests_that_exist():
    root = Path(__file__).parents[2]
    named = set(re.findall(r"\btest_\w+", (root / "docs" / "pitfalls.md").read_text()))
    files = list((root / "tests").rglob("test_*.py"))
    found = {name for file in files for name in [file.stem, *re.findall(r"def (test_\w+)", file.read_text())]}
    assert len(named) > 25
    assert named <= found


CHANGES = {
    "delta": ("privacy", {"delta": 1e-4}),
    "clipping_norm": ("privacy", {"clipping_norm": 0.5}),
    "unit": ("privacy", {"unit": "record"}),
    "sampling_rate": ("private", {"sampling_rate": 0.4}),
    "num_steps": ("private", {"num_steps": 7}),
    "nominal_patients": ("data", {"nominal_patients": 60}),
    "seed": (None, {"seed": 1}),
}


def changed(config, group, values):
    if group is None:
        return dataclasses.replace(config, **values)
    if group == "private":
        recipe = dataclasses.replace(config.training.private, **values)
        return dataclasses.replace(config, training=dataclasses.replace(config.training, private=recipe))
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})


@pytest.mark.parametrize("name", CHANGES)
def test_models_of_other_privacy_settings_are_never_reused(tmp_path, name):
    """Published audits cached models by data set, network and index, and attacked those of the first epsilon for all.
    Here what epsilon can differ by is in the name of the arm's folder, and everything else is refused."""
    config = small_config()
    StudyFolder.create_or_open(tmp_path / "study", config, small_cohort())
    with pytest.raises(StudyError, match=name):
        StudyFolder.create_or_open(tmp_path / "study", changed(config, *CHANGES[name]), small_cohort())
    asked = [{"epsilon": 8.0}, {"epsilon": 3.0}, {"target": "tpr"}, {"target": "tpr", "tpr": 0.2}]
    asked += [{"target": "tpr", "fpr": 0.02}, {"target": "advantage"}, {"target": "advantage", "advantage": 0.3}]
    labels = [private_arm(dataclasses.replace(config.privacy, **one)).label for one in asked]
    assert len(set(labels)) == len(asked)
