"""Lower bounds on epsilon: equal to slow twins, exceeded falsely in at most 5%, within what can be certified."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.audit.lower_bound import (
    best_over_guesses,
    coins_of_first_twins,
    guess_grid,
    largest_epsilon_of_models,
    right_guesses,
)
from dptrain.audit.lower_bound_f_dp import approximate_dp, f_dp_bound, f_dp_refutes
from dptrain.audit.lower_bound_models import epsilon_of_counts, models_bound
from dptrain.audit.lower_bound_one_run import one_run_bound, one_run_p_value
from tests.oracles import lower_bound_oracles as oracle

BOUNDS = {"one_run": one_run_bound, "f_dp_one_run": f_dp_bound}
TRUE_EPSILONS = (0.0, 0.3, 1.0, 4.0)


@given(
    m=st.integers(1, 60), data=st.data(), epsilon=st.floats(0, 6), delta=st.sampled_from([0.0, 1e-5, 1e-3, 0.05])
)
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_that_of_the_paper(m: int, data: st.DataObject, epsilon: float, delta: float) -> None:
    r = data.draw(st.integers(1, m))
    v = data.draw(st.integers(0, r))
    expected = 1.0 if v == 0 else oracle.one_run_p_value(m, r, v, epsilon, delta)
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize(("m", "r", "v"), [(12, 12, 10), (20, 12, 12), (24, 24, 17), (40, 20, 16), (30, 10, 5)])
def test_the_walk_of_f_dp_is_the_linear_program(m: int, r: int, v: int, delta: float) -> None:
    """The walk refutes at a level just above what any mechanism can reach, and not just below."""
    for epsilon in (0.0, 0.5, 1.5, 3.0):
        tail = oracle.largest_tail(m, r, v, epsilon, delta)
        inverse = approximate_dp(epsilon, delta)
        if tail < 0.99:
            assert f_dp_refutes(inverse, m, r, v, min(tail * 1.01 + 1e-9, 1.0))
        assert not f_dp_refutes(inverse, m, r, v, tail * 0.99 - 1e-9)


@pytest.mark.parametrize("mechanism", list(oracle.MECHANISMS))
@pytest.mark.parametrize("method", list(BOUNDS))
def test_bounds_of_one_run_are_falsely_exceeded_in_at_most_5_percent(mechanism: str, method: str) -> None:
    rng = np.random.default_rng(7)
    bound = _remembering(BOUNDS[method])
    runs, num_coins, delta = 150, 100, 1e-2 if mechanism != "Gaussian" else 1e-5
    for epsilon in TRUE_EPSILONS:
        false = 0
        for _ in range(runs):
            coins = rng.random(num_coins) < 0.5
            scores = oracle.MECHANISMS[mechanism](coins, epsilon, delta, rng)
            false += best_over_guesses(scores, coins, delta, method, bound).epsilon > epsilon
        assert false <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs), (epsilon, false)


def test_bounds_over_models_are_falsely_exceeded_in_at_most_5_percent() -> None:
    rng = np.random.default_rng(8)
    runs, num_pairs, num_canaries, delta = 150, 16, 4, 1e-5
    for epsilon in TRUE_EPSILONS:
        false = 0
        for _ in range(runs):
            signals, membership, pair = _twins(rng, num_pairs, num_canaries, epsilon, delta)
            false += models_bound(signals, membership, pair, delta).epsilon > epsilon
        assert false <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs), (epsilon, false)


def test_ignoring_that_the_number_of_guesses_was_picked_is_caught() -> None:
    """The mutant of published tools: the best over many numbers of guesses, each at the full level."""
    rng = np.random.default_rng(9)
    bound = _remembering(one_run_bound)
    false = 0
    for _ in range(150):
        coins = rng.random(100) < 0.5
        scores = rng.standard_normal(100)
        false += max(bound(100, r, right_guesses(scores, coins, r), 0.0, 0.05) for r in range(1, 101, 3)) > 0
    assert false > 0.15 * 150


def test_leaks_are_found_and_more_coins_find_more() -> None:
    rng = np.random.default_rng(10)
    found = {}
    for num_coins in (64, 2048):
        coins = rng.random(num_coins) < 0.5
        scores = oracle.gaussian_scores(coins, 4.0, 1e-5, rng)
        found[num_coins] = {
            name: best_over_guesses(scores, coins, 1e-5, name, bound).epsilon for name, bound in BOUNDS.items()
        }
    assert found[2048]["one_run"] > 0.8
    assert found[2048]["f_dp_one_run"] > 0.8
    assert found[2048]["f_dp_one_run"] > found[64]["f_dp_one_run"]
    signals, membership, pair = _twins(rng, 64, 4, 12.0, 1e-5)
    assert models_bound(signals, membership, pair, 1e-5).epsilon > 1.0


@pytest.mark.parametrize(("num_models", "epsilon"), [(32, 2.10), (64, 2.82), (128, 3.53), (256, 4.23)])
def test_what_n_models_can_certify(num_models: int, epsilon: float) -> None:
    assert largest_epsilon_of_models(num_models) == pytest.approx(epsilon, abs=0.005)
    assert epsilon_of_counts(num_models, 0, num_models, num_models, 0.0, 0.05) == pytest.approx(
        largest_epsilon_of_models(num_models)
    )


@pytest.mark.parametrize("method", list(BOUNDS))
def test_perfect_guesses_give_the_largest_possible_bound(method: str) -> None:
    coins = np.arange(64) % 2 == 0
    found = best_over_guesses(coins.astype(float), coins, 1e-5, method, BOUNDS[method])
    assert found.epsilon == found.largest_possible > 2.0
    assert found.num_correct == found.num_guesses
    worst = best_over_guesses(-coins.astype(float), coins, 1e-5, method, BOUNDS[method])
    assert worst.epsilon == 0.0
    assert worst.largest_possible == found.largest_possible


def test_delta_costs_certainty() -> None:
    for bound in BOUNDS.values():
        assert bound(100, 100, 90, 0.05, 0.05) < bound(100, 100, 90, 0.0, 0.05)


def test_twins_give_one_coin_each() -> None:
    rng = np.random.default_rng(11)
    signals, membership, pair = _twins(rng, 5, 3, 1.0, 1e-5)
    scores, coins = coins_of_first_twins(signals, membership, pair)
    assert scores.shape == coins.shape == (15,)
    assert (coins.reshape(5, 3) == membership[::2]).all()
    np.testing.assert_allclose(scores.reshape(5, 3).mean(axis=0), 0.0, atol=1e-12)


def test_guesses_and_bad_input() -> None:
    coins = np.array([True, False, True, False])
    assert right_guesses([4.0, 1.0, 3.0, 2.0], coins, 4) == 4
    assert right_guesses([4.0, 1.0, 3.0, 2.0], coins, 2) == 2
    assert right_guesses([1.0, 4.0, 2.0, 3.0], coins, 4) == 0
    assert guess_grid(2048) == [2048, 1024, 512, 256, 128, 64]
    assert guess_grid(20) == [20, 10]
    with pytest.raises(ValueError, match="finite scores"):
        right_guesses([1.0, math.nan], [True, False], 1)
    with pytest.raises(ValueError, match="num_guesses=5"):
        right_guesses([1.0, 2.0], [True, False], 5)
    with pytest.raises(ValueError, match="num_correct=5"):
        one_run_p_value(4, 4, 5, 1.0, 0.0)
    with pytest.raises(ValueError, match="no coins"):
        best_over_guesses([], [], 0.0, "one_run", one_run_bound)
    with pytest.raises(ValueError, match="two pairs"):
        models_bound([[0.0], [1.0]], [[True], [False]], [0, 0], 0.0)


def _remembering(bound):  # type: ignore[no-untyped-def]
    known: dict[tuple, float] = {}

    def remembered(*arguments: float) -> float:
        if arguments not in known:
            known[arguments] = bound(*arguments)
        return known[arguments]

    return remembered


def _twins(rng: np.random.Generator, num_pairs: int, num_canaries: int, epsilon: float, delta: float):  # type: ignore[no-untyped-def]
    """Signals of models that are each one Gaussian release per canary."""
    coins = rng.random((num_pairs, num_canaries)) < 0.5
    membership = np.stack([coins, ~coins], axis=1).reshape(2 * num_pairs, num_canaries)
    shift = oracle.gaussian_shift(epsilon, delta)
    signals = membership * shift + rng.standard_normal(membership.shape)
    return signals, membership, np.repeat(np.arange(num_pairs), 2)
