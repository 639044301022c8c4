"""The cap against the closed form at q = 1, published figures, and riskcal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from dptrain.privacy.tradeoff import gdp_mu_approximation, posterior_cap, tradeoff, tradeoff_of_curve

FPRS = np.array([1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.99])


def test_reference_figures() -> None:
    """STATISTICS.md: sigma 1, q 0.01, T 1000."""
    caps = tradeoff(0.01, 1.0, 1000)
    assert [round(100 * caps.max_tpr(fpr), 2) for fpr in (0.001, 0.01, 0.1)] == [0.41, 2.91, 19.42]


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 10), (0.7, 2), (50.0, 100)])
def test_full_batch_is_gaussian(noise: float, steps: int) -> None:
    """Never below Phi(Phi^-1(fpr) + mu), mu = sqrt(T)/sigma, and at most 0.2% above; AUC = Phi(mu / sqrt 2)."""
    caps, mu = tradeoff(1.0, noise, steps), math.sqrt(steps) / noise
    exact = norm.cdf(norm.ppf(FPRS) + mu)
    ours = np.array([caps.max_tpr(fpr) for fpr in FPRS])
    assert np.all(ours >= exact - 1e-12)
    assert np.all(ours <= exact * 1.005 + 1e-6)
    assert norm.cdf(mu / math.sqrt(2)) <= caps.auc_cap() <= norm.cdf(mu / math.sqrt(2)) + 5e-4
    advantage = 2 * norm.cdf(mu / 2) - 1
    assert advantage - 1e-12 <= caps.max_advantage() <= advantage + 5e-4


@settings(max_examples=5)
@given(st.floats(0.005, 0.5), st.floats(0.5, 5.0), st.integers(1, 1000))
def test_shape(rate: float, noise: float, steps: int) -> None:
    """Rising, concave, symmetric, above guessing; more noise lowers it."""
    caps, quieter = tradeoff(rate, noise, steps), tradeoff(rate, noise * 1.5, steps)
    assert np.all(np.diff(caps.fpr) > 0)
    assert np.all(np.diff(caps.tpr) >= 0)
    slopes = np.diff([caps.max_tpr(fpr) for fpr in FPRS]) / np.diff(FPRS)
    assert np.all(np.diff(slopes) <= 1e-9 * slopes[:-1] + 1e-12)
    for fpr in FPRS:
        assert caps.max_tpr(fpr) >= fpr
        assert quieter.max_tpr(fpr) <= caps.max_tpr(fpr) * 1.003 + 1e-6
        if caps.max_tpr(fpr) < 1 - 1e-6:  # closer to 1, beta has no digits left
            assert caps.max_tpr(caps.beta(fpr)) == pytest.approx(1 - fpr, abs=1e-6)
    assert 0.5 <= caps.auc_cap() <= 1
    assert caps.posterior(0.01) <= caps.posterior(0.1) <= caps.posterior(0.5) <= 1


def test_one_pair_is_the_two_lines() -> None:
    """From (1.83, 1e-5) alone the cap is min(delta + e^eps fpr, ...): 0.62% at FPR 0.1% (STATISTICS.md)."""
    caps = tradeoff_of_curve(np.array([1.83]), np.array([1e-5]))
    assert caps.max_tpr(0.001) == pytest.approx(1e-5 + math.exp(1.83) * 0.001, abs=1e-9)
    assert caps.max_tpr(0.01) == pytest.approx(0.062, abs=1e-3)
    assert caps.max_tpr(0.1) == pytest.approx(0.623, abs=1e-3)


def test_extremes() -> None:
    assert tradeoff(0.05, 0.1, 600).auc_cap() == pytest.approx(1.0, abs=1e-6)
    nothing = tradeoff(0.001, 500.0, 10)
    assert nothing.auc_cap() == pytest.approx(0.5, abs=1e-4)
    assert nothing.posterior(0.1) == pytest.approx(0.1, abs=1e-3)


def test_posterior() -> None:
    caps = tradeoff(1.0, 2.0, 1)
    tpr = caps.max_tpr(0.01)
    assert caps.posterior(0.1) == pytest.approx(0.1 * tpr / (0.1 * tpr + 0.9 * 0.01))
    assert posterior_cap(math.log(9), 0.5) == pytest.approx(0.9)


def test_approximation_is_labelled() -> None:
    gdp = gdp_mu_approximation(0.01, 1.0, 1000)
    assert "not a bound" in gdp.label
    assert gdp.mu == pytest.approx(0.01 * math.sqrt(1000 * (math.e - 1)))
    assert gdp.max_tpr(0.1) == pytest.approx(tradeoff(0.01, 1.0, 1000).max_tpr(0.1), rel=0.05)
    assert gdp_mu_approximation(1.0, 2.0, 16).mu == 2.0


def test_bad_input() -> None:
    caps = tradeoff(1.0, 2.0, 1)
    with pytest.raises(ValueError, match=r"fpr=5 must be in \[0, 1\]"):
        caps.max_tpr(5)
    with pytest.raises(ValueError, match="prior=0 must be"):
        caps.posterior(0)
    with pytest.raises(ValueError, match="noise_multiplier=0 must be > 0"):
        tradeoff(0.1, 0, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.05, 2.0, 300), (0.2, 3.0, 100)])
def test_agrees_with_riskcal(rate: float, noise: float, steps: int) -> None:
    dpsgd = pytest.importorskip("riskcal.calibration.dpsgd")
    caps = tradeoff(rate, noise, steps)
    for fpr in (0.01, 0.1, 0.5):
        theirs = 1 - float(dpsgd.get_beta_for_dpsgd(noise, rate, steps, fpr))
        assert caps.max_tpr(fpr) == pytest.approx(theirs, rel=0.01)
    assert caps.max_advantage() == pytest.approx(float(dpsgd.get_advantage_for_dpsgd(noise, rate, steps)), rel=0.01)
