"""The interval of an attack's mean over targets covers, although targets are each other's references."""

from __future__ import annotations

import numpy as np
import pytest

from dptrain.attacks.protocol import attack_named
from dptrain.attacks.twins import model_units
from dptrain.audit.targets import summarise_attack, summarise_targets
from tests.oracles.simulate import twin_membership

ATTACK = attack_named("lira_online_shrunk").function


def _misses(num_models: int, num_trials: int, leak: float, truth: float | None) -> tuple[float, float]:
    """Fractions of intervals above and below the truth (the mean over all trials if None)."""
    rng = np.random.default_rng(num_models)
    found = []
    for _ in range(num_trials):
        membership = twin_membership(num_models, 60, rng)
        signals = rng.normal(size=membership.shape) + leak * membership
        found.append(summarise_attack(ATTACK(signals, membership), membership, (0.1,)).auc)
    truth = float(np.mean([one.mean for one in found])) if truth is None else truth
    return np.mean([one.low > truth for one in found]), np.mean([one.high < truth for one in found])


@pytest.mark.parametrize("num_models", [8, 16])
def test_without_leakage(num_models: int) -> None:
    above, below = _misses(num_models, 200, 0.0, 0.5)
    # 2.5% on either side; binomial slack of 4 standard deviations at 200 trials is 4.4%.
    assert above < 0.069
    assert below < 0.069


def test_without_the_factor_it_would_not() -> None:
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(200):
        membership = twin_membership(12, 60, rng)
        scores = ATTACK(rng.normal(size=membership.shape), membership)
        auc = summarise_attack(scores, membership, (0.1,)).auc_T
        above += summarise_targets(auc, model_units(membership)).low > 0.5
    assert above / 200 > 0.05


def test_with_leakage_it_is_conservative() -> None:
    above, below = _misses(12, 100, 0.5, None)
    assert above <= 0.06
    assert below <= 0.06


def test_two_pairs_have_no_finite_interval() -> None:
    summary = summarise_targets([0.5, 0.6, 0.7, 0.8], [0, 0, 1, 1], shared_references=True)
    assert summary.low == -np.inf
    assert summary.high == np.inf
    equal = summarise_targets([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1], shared_references=True)
    assert equal.high == np.inf
