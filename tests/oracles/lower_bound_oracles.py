"""Slow, obvious twins of the lower bounds on epsilon, and mechanisms whose epsilon is known."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats


def one_run_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The formula of the paper, term by term, in exact fractions."""
    q = Fraction(1) / (1 + Fraction(math.exp(-epsilon)))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(mass[v:])
    alpha = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=Fraction(0))
    return min(1.0, float(beta + 2 * m * Fraction(delta) * alpha))


def largest_tail(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Linear program: the largest Pr[right guesses >= v] that all inequalities of f-DP one run allow at once.

    F is concave and piecewise linear, F(x) = min over lines of (offset + slope x), so every inequality is linear.
    """
    lines = [(1.0, 0.0), (delta, math.exp(epsilon)), (1 - math.exp(-epsilon) * (1 - delta), math.exp(-epsilon))]
    count = np.arange(r + 1)
    rows, limits = [], []
    for k in range(1, r + 1):
        left = np.where(count >= k, count, 0) / m
        right = np.where(count >= k - 1, r - count, 0) / m
        for offset, slope in lines:
            rows.append(left - slope * right)
            limits.append(offset)
    found = optimize.linprog(
        -(count >= v).astype(float), A_ub=np.array(rows), b_ub=limits, A_eq=np.ones((1, r + 1)), b_eq=[1.0]
    )
    assert found.success
    return float(-found.fun)


@functools.cache
def gaussian_shift(epsilon: float, delta: float) -> float:
    """mu for which one Gaussian shift of mu (unit noise) is exactly (epsilon, delta)-private."""
    if epsilon == 0:
        return 0.0

    def excess(mu: float) -> float:
        return float(
            stats.norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * stats.norm.cdf(-epsilon / mu - mu / 2) - delta
        )

    return float(optimize.brentq(excess, 1e-3, 50.0))


def randomised_response(
    coins: NDArray[np.bool_], epsilon: float, delta: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Scores of a mechanism that is exactly (epsilon, delta)-private: with probability delta each coin is shown as it
    is, otherwise it is told the truth about with probability e^epsilon / (1 + e^epsilon)."""
    truth = rng.random(coins.size) < 1 / (1 + math.exp(-epsilon))
    shown = rng.random(coins.size) < delta
    told = np.where(shown | truth, coins, ~coins)
    return np.where(told, 1.0, -1.0) * np.where(shown, 2.0, 1.0) + 1e-6 * rng.random(coins.size)


def all_or_nothing(
    coins: NDArray[np.bool_], epsilon: float, delta: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Also exactly (epsilon, delta)-private, but with probability delta ALL coins are shown at once."""
    if rng.random() < delta:
        return np.where(coins, 2.0, -2.0) + 1e-6 * rng.random(coins.size)
    return randomised_response(coins, epsilon, 0.0, rng)


def gaussian_scores(
    coins: NDArray[np.bool_], epsilon: float, delta: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """One Gaussian shift per coin, exactly (epsilon, delta)-private."""
    return coins * gaussian_shift(epsilon, delta) + rng.standard_normal(coins.size)


MECHANISMS = {
    "randomised response": randomised_response,
    "all or nothing": all_or_nothing,
    "Gaussian": gaussian_scores,
}
