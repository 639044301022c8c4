"""Several trainings on the same patients: sums against closed forms, bounds against each other, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dptrain.privacy.accounting import epsilon_gaussian, reported_epsilon
from dptrain.privacy.composition import composed_epsilon
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.selection import selection_epsilon

FULL = Mechanism("patient", 1.0, 6.0, 1.0, 30, 399.0, 1e-3)
SAMPLED = Mechanism("patient", 0.05, 1.2, 1.0, 400, 399.0, 1e-5)


def test_equal_trainings_are_one_longer_training() -> None:
    assert composed_epsilon([FULL, FULL], 1e-3)[0] == epsilon_gaussian(6.0, 60, 1e-3)
    clipped_otherwise = dataclasses.replace(FULL, clipping_norm=0.1)  # sigma is relative to C
    assert composed_epsilon([FULL, clipped_otherwise], 1e-3)[0] == epsilon_gaussian(6.0, 60, 1e-3)


def test_different_gaussians_against_the_closed_form() -> None:
    """Without subsampling mu's add up in squares (Dong, Roth, Su 2019, corollary 3.3), so the truth is known."""
    other = dataclasses.replace(FULL, noise_multiplier=3.0, num_steps=10)
    mu = math.sqrt(30 / 36 + 10 / 9)
    exact = epsilon_gaussian(1 / mu, 1, 1e-3)
    found, _ = composed_epsilon([FULL, other], 1e-3)
    assert exact < found < 1.25 * exact


def test_a_composition_is_at_least_each_part_and_at_most_their_sum() -> None:
    single = [reported_epsilon(m.sampling_rate, m.noise_multiplier, m.num_steps, 5e-6)[0] for m in (FULL, SAMPLED)]
    found, how = composed_epsilon([FULL, SAMPLED], 1e-5)
    assert max(single) < found <= sum(single)
    assert how in ("rdp", "basic composition")


@pytest.mark.parametrize(
    ("mechanisms", "words"),
    [
        ([], "nothing to compose"),
        ([FULL, dataclasses.replace(FULL, unit="record")], "cannot be added up"),
        ([FULL, dataclasses.replace(FULL, noise_multiplier=0.0)], "no noise"),
    ],
)
def test_what_cannot_be_composed(mechanisms, words) -> None:
    with pytest.raises(ValueError, match=words):
        composed_epsilon(mechanisms, 1e-3)


@pytest.mark.parametrize("mechanism", [FULL, SAMPLED])
def test_selection(mechanism: Mechanism) -> None:
    one = reported_epsilon(
        mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.num_steps, mechanism.delta
    )[0]
    assert selection_epsilon(mechanism, "fixed", 1)[0] == one
    for selection in ("fixed", "geometric", "poisson"):
        costs = [selection_epsilon(mechanism, selection, num)[0] for num in (1, 2, 5, 20)]
        assert costs == sorted(costs)
        assert costs[0] >= one * (1 - 1e-9)
    assert selection_epsilon(mechanism, "geometric", 50)[0] < selection_epsilon(mechanism, "fixed", 50)[0]


def test_geometric_selection_against_the_papers_formula() -> None:
    """Theorem 2 of arXiv 2110.03620 for the geometric distribution (eta = 1): for pure Renyi curves
    eps'(lambda) = eps(lambda) + 2 (1 - 1/lambda') eps(lambda') + 2 ln(1/gamma)/lambda' + ln(mean)/(lambda - 1)."""
    rho = FULL.num_steps / (2 * FULL.noise_multiplier**2)
    gamma = 1 / 10
    orders = [1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128]
    best = math.inf
    for order in orders:
        inner = min((2 * (1 - 1 / o)) * rho * o + 2 * math.log(1 / gamma) / o for o in orders)
        renyi = rho * order + inner + math.log(10) / (order - 1)
        best = min(best, renyi + math.log1p(-1 / order) - math.log(1e-3 * order) / (order - 1))
    assert selection_epsilon(FULL, "geometric", 10)[0] == pytest.approx(best, rel=0.03)


@pytest.mark.parametrize(
    ("selection", "num", "words"), [("best", 2, "best"), ("fixed", 0, "at least 1"), ("fixed", 1.5, "whole number")]
)
def test_bad_selections(selection, num, words) -> None:
    with pytest.raises(ValueError, match=words):
        selection_epsilon(FULL, selection, num)


