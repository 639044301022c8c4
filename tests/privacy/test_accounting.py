"""PRV, PLD and RDP against each other, against closed forms and against Opacus."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq

from dptrain.privacy.accounting import (
    account,
    delta_gaussian,
    epsilon_gaussian,
    epsilon_pld,
    epsilon_prv,
    epsilon_rdp,
    reported_epsilon,
)
from dptrain.privacy.prv import AccountantRefused, prv_bounds

DELTA = 1e-5

RATES = st.floats(0.005, 0.5)
NOISES = st.floats(0.5, 8.0)
STEPS = st.integers(1, 2000)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "expected_prv", "expected_pld", "expected_rdp"),
    [
        (1.0, 0.01, 500, 1.336, 1.326, 1.653),
        (0.6, 0.05, 1000, 35.98, None, 39.33),
        (4.0, 0.25, 200, 3.960, None, 4.288),
        (1.0, 0.01, 2000, 2.594, 2.584, 2.8665),
    ],
)
def test_cross_check_table(
    noise: float, rate: float, steps: int, expected_prv: float, expected_pld: float | None, expected_rdp: float
) -> None:
    """Opacus' PRV (its error of 0.01 included) and dp-accounting's PLD, as others computed them."""
    accounting = account(rate, noise, steps, DELTA)
    if expected_pld is not None:
        assert accounting.prv == pytest.approx(expected_pld, rel=0.01)
        assert accounting.pld == pytest.approx(expected_pld, rel=0.01)
    assert accounting.prv == pytest.approx(expected_prv, rel=0.01)
    assert accounting.pld == pytest.approx(expected_prv, rel=0.01)
    assert accounting.rdp is not None
    # The table is Opacus' RDP; dp-accounting leaves out the orders below 1.5 that the second row needs.
    assert expected_rdp * 0.999 <= accounting.rdp <= expected_rdp * (1.05 if expected_rdp > 30 else 1.01)
    assert accounting.epsilon == max(accounting.prv or 0, accounting.pld or 0)
    assert accounting.notes == ()


@pytest.mark.parametrize(
    ("epsilon", "noise"), [(0.5, 8.91), (1.0, 4.77), (3.0, 1.90), (8.0, 1.02), (30.0, 0.576), (100.0, 0.374)]
)
def test_noise_of_the_cross_check_table(epsilon: float, noise: float) -> None:
    """What Opacus calibrated at q 0.05, T 600, read backwards: both accountants come back to the epsilon within 1%, and
    within the rounding of the noise to three digits and Opacus' absolute error of 0.01."""
    accounting = account(0.05, noise, 600, DELTA)
    # Half a digit more or less; epsilon falls with the noise to the power of 1 (at 0.5) to 3 (at 100).
    rounding = 3 * 0.5 * 10.0 ** (math.floor(math.log10(noise)) - 2) / noise * epsilon
    for found in (accounting.prv, accounting.pld):
        assert found == pytest.approx(epsilon, abs=0.01 * epsilon + rounding + 0.01)


def _delta_one_step(rate: float, noise: float, epsilon: float) -> float:
    """delta of one step by integrating the densities: the larger of in against out, and out against in."""

    def out(x: float) -> float:
        return math.exp(-(x**2) / 2 / noise**2) / noise / math.sqrt(2 * math.pi)

    def member(x: float) -> float:
        return (1 - rate) * out(x) + rate * out(x - 1)

    span = (-12 * noise, 1 + 12 * noise)
    points = np.linspace(*span, 40)[1:-1]

    def divergence(upper: Callable[[float], float], lower: Callable[[float], float]) -> float:
        def excess(x: float) -> float:
            return max(0.0, upper(x) - math.exp(epsilon) * lower(x))

        return float(quad(excess, *span, points=points, limit=2000)[0])

    return max(divergence(member, out), divergence(out, member))


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.5), (2.0, 0.1), (0.7, 0.05)])
def test_one_step_by_numerical_integration(noise: float, rate: float) -> None:
    exact = brentq(lambda e: _delta_one_step(rate, noise, e) - DELTA, 0.0, 30.0, xtol=1e-7)
    bounds = prv_bounds(rate, noise, 1, DELTA)
    assert bounds.lower <= exact <= bounds.upper
    assert exact - 1e-6 <= epsilon_pld(rate, noise, 1, DELTA) <= exact * 1.002


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (5.0, 10), (0.5, 3), (20.0, 1000), (0.1, 5)])
def test_full_batch_closed_form(noise: float, steps: int) -> None:
    exact = epsilon_gaussian(noise, steps, DELTA)
    accounting = account(1.0, noise, steps, DELTA)
    assert delta_gaussian(exact, noise, steps) <= DELTA * (1 + 1e-6)
    assert accounting.epsilon == exact
    assert accounting.accountant == "closed form"
    assert accounting.prv is not None
    assert accounting.pld is not None
    assert exact - 1e-9 <= accounting.prv <= exact * 1.005 + 1e-4
    assert exact - 1e-9 <= accounting.pld <= exact * 1.005 + 1e-4


def test_analytic_gaussian_known_value() -> None:
    """sigma 1, one step: delta(1) = Phi(-1/2) - e Phi(-3/2) = 0.12693674 (Balle and Wang 2018)."""
    assert delta_gaussian(1.0, 1.0, 1) == pytest.approx(0.12693674, abs=1e-8)
    assert epsilon_gaussian(1.0, 1, 0.12693674) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=6, deadline=None)
@given(RATES, NOISES, STEPS)
def test_never_optimistic(rate: float, noise: float, steps: int) -> None:
    """The reported epsilon is never below either accountant's certified lower end, nor far above the truth."""
    bounds = prv_bounds(rate, noise, steps, DELTA)
    pld = epsilon_pld(rate, noise, steps, DELTA)
    epsilon, _ = reported_epsilon(rate, noise, steps, DELTA)
    assert pld >= bounds.lower * (1 - 1e-6) - 1e-9
    assert epsilon >= bounds.upper
    assert epsilon >= pld
    assert epsilon <= bounds.estimate * 1.03 + 1e-3


@settings(max_examples=3, deadline=None)
@given(RATES, NOISES, STEPS)
def test_more_noise_fewer_steps_less_sampling_cost_less(rate: float, noise: float, steps: int) -> None:
    """Monotone beyond the numerical error of 0.5%."""
    epsilon = reported_epsilon(rate, noise, steps, DELTA)[0] * 1.005 + 1e-4
    assert reported_epsilon(rate, noise * 1.2, steps, DELTA)[0] <= epsilon
    assert reported_epsilon(rate * 0.8, noise, steps, DELTA)[0] <= epsilon
    assert reported_epsilon(rate, noise, max(1, steps // 2), DELTA)[0] <= epsilon
    assert reported_epsilon(rate, noise, steps, DELTA * 10)[0] <= epsilon


@pytest.mark.parametrize("noise", [100.0, 0.3737, 0.155, 0.06])
def test_any_size_of_epsilon(noise: float) -> None:
    """From 0.03 to several thousand, where Opacus' PRV does not return; both stay within 1% of each other."""
    prv, pld = epsilon_prv(0.05, noise, 600, DELTA), epsilon_pld(0.05, noise, 600, DELTA)
    assert prv == pytest.approx(pld, rel=0.01)
    assert 0 < pld < epsilon_rdp(0.05, noise, 600, DELTA) * 1.01


def test_rdp_is_the_fallback_and_says_so() -> None:
    accounting = account(0.01, 1.0, 100, 1e-13)
    assert accounting.prv is None
    assert accounting.pld is None
    assert accounting.accountant == "rdp"
    assert accounting.epsilon == accounting.rdp
    assert any("PRV" in note for note in accounting.notes)
    assert any("PLD" in note for note in accounting.notes)


def test_prv_refuses_rather_than_runs_for_hours() -> None:
    with pytest.raises(AccountantRefused, match="grid points"):
        epsilon_prv(1e-5, 0.5, 10**8, DELTA)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 10, DELTA), "sampling_rate=0.0 must be in"),
        ((1.5, 1.0, 10, DELTA), "sampling_rate=1.5 must be in"),
        ((0.1, 0.0, 10, DELTA), "noise_multiplier=0.0 must be > 0"),
        ((0.1, -1.0, 10, DELTA), "noise_multiplier=-1.0 must be > 0"),
        ((0.1, math.nan, 10, DELTA), "noise_multiplier=nan must be > 0"),
        ((0.1, math.inf, 10, DELTA), "noise_multiplier=inf must be finite"),
        ((0.1, 1.0, 0, DELTA), "num_steps=0 must be"),
        ((0.1, 1.0, 10, 0.0), "delta=0.0 must be in"),
        ((0.1, 1.0, 10, 1.0), "delta=1.0 must be in"),
    ],
)
def test_bad_parameters(arguments: tuple[float, float, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        account(*arguments)


def test_all_problems_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)sampling_rate.*noise_multiplier.*num_steps.*delta"):
        account(2.0, 0.0, 0, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.01, 500), (2.0, 0.1, 300), (0.8, 0.02, 1000)])
def test_prv_agrees_with_opacus(noise: float, rate: float, steps: int) -> None:
    """Opacus imports torch, so this is slow; its own error is 0.01."""
    prv = pytest.importorskip("opacus.accountants.prv")
    accountant = prv.PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    opacus_upper = accountant.get_epsilon(DELTA)
    bounds = prv_bounds(rate, noise, steps, DELTA)
    assert bounds.lower <= opacus_upper
    assert opacus_upper == pytest.approx(bounds.estimate + 0.01, abs=2e-3)
