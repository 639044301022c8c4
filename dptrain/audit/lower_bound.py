"""Lower bounds on epsilon: what an audit proves that a training cannot be better than.

An attack's success bounds epsilon from below only if it is counted on *canaries*: patients whose membership was decided
by independent fair coins before the training. Three methods:

* `one_run` (`audit.lower_bound_one_run`): many coins in one training. Steinke, Nasr & Jagielski 2023, arXiv 2305.08846.
* `f_dp_one_run` (`audit.lower_bound_f_dp`): the same guesses, a sharper tail. Mahloujifar, Melis & Chaudhuri 2024,
  arXiv 2410.22235.
* `clopper_pearson` (`audit.lower_bound_models`): one coin in many trainings.

All of them hold for any mechanism that is (epsilon, delta)-private, without an assumption on its noise. Nothing here
knows which epsilon was claimed.

**Several trainings as one run.** K trainings with C canaries each, all K*C coins independent, are together one
mechanism in which each coin still moves one training only: the one-run methods apply with K*C coins. Twins share their
coins (one has the patient that the other has not), so one twin of each pair is used; see `coins_of_first_twins`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, checked_matrix, checked_membership

CONFIDENCE = 0.95
MOST_HALVINGS = 5
FEWEST_GUESSES = 8
LARGEST_EPSILON = 60.0
"""Bounds are not looked for above this; nothing that is drawn in numbers of this size can reach it."""


@dataclass(frozen=True)
class EpsilonLowerBound:
    """What the canaries prove."""

    epsilon: float
    """With `confidence`, the training is not (epsilon', delta)-private for any epsilon' below. 0: nothing found."""
    method: str
    num_guesses: int
    """Coins that were guessed (one run), or models that were tested with and without the canary together."""
    num_correct: int
    """Right guesses among them."""
    num_coins: int
    """All coins, guessed or not."""
    confidence: float
    largest_possible: float
    """The bound if every guess had been right: no attack can certify more with so many coins."""


Bound = Callable[[int, int, int, float, float], float]
"""(num_coins, num_guesses, num_correct, delta, level) -> lower bound on epsilon, wrong with probability <= level."""


def largest_epsilon_of_models(num_models: int, confidence: float = CONFIDENCE) -> float:
    """Return ln((1 - u) / u), u = 1 - ((1 - confidence) / 2)^(1/n): with n models trained with a patient and n without,
    no attack on that patient can certify more, however well it works.

    Raises:
        ValueError: fewer than one model.
    """
    if num_models < 1:
        raise ValueError(f"num_models={num_models} must be at least 1 (models with the canary, and as many without).")
    miss = -np.expm1(np.log((1.0 - confidence) / 2.0) / num_models)
    return float(max(0.0, np.log1p(-miss) - np.log(miss)))


def guess_grid(num_coins: int) -> list[int]:
    """Return the numbers of guesses that are tried: all coins, a half, a quarter, ... Depends on the number of coins
    alone, so it is fixed before anything is looked at; the price of trying several is a Bonferroni correction."""
    grid = [max(1, num_coins >> halvings) for halvings in range(MOST_HALVINGS + 1)]
    return [size for index, size in enumerate(grid) if index == 0 or size >= FEWEST_GUESSES]


def right_guesses(scores: npt.ArrayLike, coins: npt.ArrayLike, num_guesses: int) -> int:
    """Return how many guesses are right if the `num_guesses / 2` coins with the highest scores are called heads
    (member) and those with the lowest tails. The guesser sees scores only; ties are broken by position.

    Args:
        scores: (m,) HIGHER MEANS MEMBER.
        coins: (m,) bool, True if the canary was in.
        num_guesses: 1..m.

    Raises:
        ValueError: lengths that differ, scores that are not finite, or a number of guesses outside 1..m.
    """
    score, coin = np.asarray(scores, dtype=np.float64), np.asarray(coins, dtype=bool)
    if score.ndim != 1 or score.shape != coin.shape or not np.isfinite(score).all():
        raise ValueError(f"scores {score.shape} and coins {coin.shape} must be equally long vectors of finite scores.")
    if not 1 <= num_guesses <= score.size:
        raise ValueError(f"num_guesses={num_guesses} must lie in 1..{score.size}, the number of coins.")
    order = np.argsort(score, kind="stable")
    tails = num_guesses // 2
    heads = num_guesses - tails
    return int((~coin[order[:tails]]).sum() + coin[order[score.size - heads :]].sum())


def best_over_guesses(
    scores: npt.ArrayLike, coins: npt.ArrayLike, delta: float, method: str, bound: Bound, confidence: float = CONFIDENCE
) -> EpsilonLowerBound:
    """Return the best bound over `guess_grid`, each at level (1 - confidence) / (size of the grid).

    Args:
        scores, coins: as in `right_guesses`; coins independent and fair, drawn before the training.
        delta: of the guarantee that is tested; enters every p-value.
        method: its name, for the result.
        bound: `one_run_bound` or `f_dp_bound`.
        confidence: of the result.

    Raises:
        ValueError: no coins, or arrays that do not fit.
    """
    num_coins = np.asarray(coins).size
    if num_coins < 1:
        raise ValueError("There are no coins: a bound needs at least one canary.")
    grid = guess_grid(num_coins)
    level = (1.0 - confidence) / len(grid)
    found = [(size, right_guesses(scores, coins, size)) for size in grid]
    values = [bound(num_coins, size, right, delta, level) for size, right in found]
    best = int(np.argmax(values))
    largest = max(bound(num_coins, size, size, delta, level) for size in grid)
    return EpsilonLowerBound(values[best], method, *found[best], num_coins, confidence, largest)


def coins_of_first_twins(
    signals_MC: npt.ArrayLike, membership_MC: npt.ArrayLike, pair_M: npt.ArrayLike
) -> tuple[FloatArray, BoolArray]:
    """Return (scores, coins), each (pairs * C,): one model of each pair, all its canaries.

    A score is the canary's signal in the model minus its mean over these models: it is made from the models' outputs
    alone, and each coin moves one of these models, so all of them together are one run with independent coins.

    Args:
        signals_MC: (M, C) finite signals of the canaries.
        membership_MC: (M, C) bool.
        pair_M: (M,) which models are twins; models with the same number share their coins.

    Raises:
        ValueError: shapes that do not fit, or signals that are not finite.
    """
    signals = checked_matrix(signals_MC, "signals")
    membership = checked_membership(membership_MC, (signals.shape[0], signals.shape[1]))
    _, first = np.unique(np.asarray(pair_M), return_index=True)
    kept = signals[np.sort(first)]
    centred = kept - kept.mean(axis=0) if len(kept) > 1 else kept
    return centred.ravel(), membership[np.sort(first)].ravel()


def largest_true(holds: Callable[[float], bool], tolerance: float = 1e-4) -> float:
    """Return the largest epsilon (rounded down) up to which `holds` is true, by bisection; 0 if it is false at 0.

    `holds(epsilon)` says that the observation refutes epsilon; what refutes an epsilon refutes all smaller ones.
    """
    low, high = 0.0, 1.0
    if not holds(0.0):
        return 0.0
    while holds(high):
        low, high = high, 2.0 * high
        if high > LARGEST_EPSILON:
            return low
    while high - low > tolerance:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
