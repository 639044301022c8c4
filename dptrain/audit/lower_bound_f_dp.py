"""Lower bound on epsilon from one training with many canaries, by the trade-off function (Mahloujifar, Melis &
Chaudhuri 2024, arXiv 2410.22235, "f-DP one run").

Let p_i be the probability of exactly i right guesses out of r, with m coins. For every training whose trade-off
function is f, and F(x) = the largest chance of an event with the coin one way if its chance is x the other way
(F = 1 - f for members against non-members), Theorem 3.2 says for every k

    sum over i >= k of (i / m) p_i  <=  F( sum over i >= k - 1 of ((r - i) / m) p_i ).

If v or more right guesses had probability `level`, these inequalities, walked from v down to 0, need at least a certain
total probability; if that is more than 1, the hypothesis is refuted at this level (Algorithm 3).

The bound here takes the trade-off function of (epsilon, delta)-privacy itself, so that no family of noise is assumed.
"""

import math
from collections.abc import Callable

from dptrain.audit.lower_bound import largest_true

InverseBlowUp = Callable[[float], float]
"""y -> the smallest x with F(x) >= y."""


def approximate_dp(epsilon: float, delta: float) -> InverseBlowUp:
    """Return the inverse of F(x) = min(1, delta + e^epsilon x, 1 - e^-epsilon (1 - delta - x))."""
    growth, shrink = math.exp(epsilon), math.exp(-epsilon)

    def inverse(value: float) -> float:
        return max(0.0, (value - delta) * shrink, 1.0 - delta - growth * (1.0 - value))

    return inverse


def f_dp_refutes(inverse: InverseBlowUp, num_coins: int, num_guesses: int, num_correct: int, level: float) -> bool:
    """Return whether so many right guesses have probability below `level` under every mechanism with this F.

    Args:
        inverse: of F, the hypothesis.
        num_coins: m, all canaries.
        num_guesses: r, guessed coins; fixed before the scores were looked at.
        num_correct: v, right guesses.
        level: in (0, 1).

    Raises:
        ValueError: counts that are not 0 <= v <= r <= m.
    """
    if not 0 <= num_correct <= num_guesses <= num_coins:
        raise ValueError(
            f"num_correct={num_correct}, num_guesses={num_guesses} and num_coins={num_coins} must satisfy "
            "0 <= correct <= guesses <= coins."
        )
    share = num_guesses / num_coins
    right = level * num_correct / num_coins
    wrong = level * (num_guesses - num_correct) / num_coins
    for count in range(num_correct - 1, -1, -1):
        needed = max(wrong, inverse(right))
        right += (count / (num_guesses - count)) * (needed - wrong)
        wrong = needed
        if right + wrong > share * (1.0 + 1e-12):
            return True
    return False


def f_dp_bound(num_coins: int, num_guesses: int, num_correct: int, delta: float, level: float) -> float:
    """Return the epsilon below which everything is refuted at this level (`audit.lower_bound.Bound`).

    Raises:
        ValueError: as in `f_dp_refutes`.
    """
    return largest_true(
        lambda eps: f_dp_refutes(approximate_dp(eps, delta), num_coins, num_guesses, num_correct, level)
    )
