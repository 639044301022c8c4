"""The calibrated noise keeps the promise and is the smallest that does, on the grid of four digits."""

from __future__ import annotations

import math

import pytest

from dptrain.privacy.accounting import epsilon_gaussian, reported_epsilon
from dptrain.privacy.calibration import _noise, _rank, calibrate_noise, calibrate_to_advantage, calibrate_to_tpr
from dptrain.privacy.tradeoff import tradeoff

RATE, STEPS, DELTA = 0.05, 600, 1e-5


def test_grid_of_four_digits() -> None:
    for value, expected in [(1.0, 1.0), (1.0001, 1.001), (0.99991, 1.0), (0.37361, 0.3737), (12345.0, 12350.0)]:
        assert _noise(_rank(value)) == expected
    for rank in range(-18_000, 18_000, 37):
        assert _rank(_noise(rank)) == rank
        assert _noise(rank) < _noise(rank + 1)


@pytest.mark.parametrize(
    ("target", "statistics_table"),
    [(0.05, None), (0.5, 8.91), (1.0, 4.77), (3.0, 1.90), (8.0, 1.02), (30.0, 0.576), (100.0, 0.374), (1000.0, None)],
)
def test_smallest_noise_for_epsilon(target: float, statistics_table: float | None) -> None:
    """From 0.05 to 1000. The table was made with Opacus' absolute error of 0.01, which costs 2% of noise at 0.5."""
    calibration = calibrate_noise(target, RATE, STEPS, DELTA)
    noise = calibration.noise_multiplier
    assert calibration.accounting.epsilon <= target
    assert calibration.accounting.noise_multiplier == noise
    assert reported_epsilon(RATE, _noise(_rank(noise) - 1), STEPS, DELTA)[0] > target
    if statistics_table is not None:
        assert noise == pytest.approx(statistics_table, rel=0.01 if target >= 3 else 0.025)


def test_full_batch_uses_the_closed_form() -> None:
    noise = calibrate_noise(1.0, 1.0, 10, DELTA).noise_multiplier
    assert epsilon_gaussian(noise, 10, DELTA) <= 1.0 < epsilon_gaussian(_noise(_rank(noise) - 1), 10, DELTA)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_bad_targets(target: float) -> None:
    with pytest.raises(ValueError, match=f"target_epsilon={target} must be a finite number > 0"):
        calibrate_noise(target, RATE, STEPS, DELTA)


def test_tpr_and_advantage() -> None:
    """The promise is kept and one grid step less breaks it."""
    by_tpr = calibrate_to_tpr(0.05, 0.01, RATE, STEPS)
    assert by_tpr.tradeoff.max_tpr(0.01) <= 0.05
    below = _noise(_rank(by_tpr.noise_multiplier) - 1)
    assert tradeoff(RATE, below, STEPS).max_tpr(0.01) > 0.05
    by_advantage = calibrate_to_advantage(0.1, RATE, STEPS)
    assert by_advantage.tradeoff.max_advantage() <= 0.1
    below = _noise(_rank(by_advantage.noise_multiplier) - 1)
    assert tradeoff(RATE, below, STEPS).max_advantage() > 0.1


def test_bad_risks() -> None:
    with pytest.raises(ValueError, match=r"0 < fpr < tpr < 1"):
        calibrate_to_tpr(0.01, 0.05, RATE, STEPS)
    with pytest.raises(ValueError, match=r"advantage=1.5 must be in \(0, 1\)"):
        calibrate_to_advantage(1.5, RATE, STEPS)


@pytest.mark.slow
def test_agrees_with_riskcal() -> None:
    """riskcal stops within 1e-3 of the target, which is worth up to 2% of noise."""
    dpsgd = pytest.importorskip("riskcal.calibration.dpsgd")
    theirs = dpsgd.find_noise_multiplier_for_err_rates(alpha=0.01, beta=0.95, sample_rate=RATE, num_steps=STEPS)
    assert calibrate_to_tpr(0.05, 0.01, RATE, STEPS).noise_multiplier == pytest.approx(theirs, rel=0.03)
    theirs = dpsgd.find_noise_multiplier_for_advantage(advantage=0.1, sample_rate=RATE, num_steps=STEPS)
    assert calibrate_to_advantage(0.1, RATE, STEPS).noise_multiplier == pytest.approx(theirs, rel=0.03)
