"""The cap that the mechanism puts on every membership attack: trade-off function, largest TPR, AUC and advantage.

An attacker who must tell "trained with this unit" from "trained without it" has a false-positive rate alpha and a
true-positive rate. For any (epsilon, delta) that the mechanism satisfies in both directions (Dong, Roth, Su 2019, arXiv
1905.02383, eq. 5; Kairouz et al. 2015)

    TPR <= delta + exp(epsilon) alpha     and     TPR <= 1 - exp(-epsilon) (1 - delta - alpha)

A mechanism satisfies a whole curve delta(epsilon), and the cap is the lower envelope of all these lines (proposition
2.13 there; Kulynych et al. 2024, arXiv 2407.02191, compute the same from the privacy loss distribution). Here
delta(epsilon) is the larger of the two directions of dp-accounting's pessimistic distribution, on a finite grid of
epsilons: both leave out lines or raise them, so the cap is never below the true one, and it is symmetric (it also
holds with member and non-member exchanged). It holds for an attacker who knows all other patients and sees every
step; a real one sees less.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dptrain.privacy.pld import StepMixture, check_parameters, poisson_pld, step_moments

NUM_EPSILONS = 1500
"""Number of (epsilon, delta) pairs whose lines form the cap."""
LARGEST_EPSILON = 600.0
"""exp(epsilon) must stay finite; where only larger epsilons bind, the cap is 1 for all practical FPR."""
FFT_SLACK = 1e-12
"""Added to every delta: more than the floating-point error of the composition."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Cap on every attack on one unit: a concave polyline from (0, ~0) to (1, 1), never below the exact curve."""

    fpr: Array
    """(V,) corners, ascending, from 0 to 1."""
    tpr: Array
    """(V,) largest TPR at each corner, ascending, up to 1."""

    def max_tpr(self, fpr: float) -> float:
        """Largest true-positive rate of any attack with this false-positive rate (fractions)."""
        if not 0 <= fpr <= 1:
            raise ValueError(f"fpr={fpr} must be in [0, 1]. It is a fraction, not percent.")
        return float(np.interp(fpr, self.fpr, self.tpr))

    def beta(self, alpha: float) -> float:
        """Trade-off function f: smallest false-negative rate at false-positive rate alpha; 1 - max_tpr(alpha)."""
        return 1 - self.max_tpr(alpha)

    def auc_cap(self) -> float:
        """Largest AUC of any attack on the unit: area under `max_tpr`, exact for the polyline."""
        return min(1.0, float(np.trapezoid(self.tpr, self.fpr)))

    def max_advantage(self) -> float:
        """Largest TPR - FPR of any attack: the total variation distance, delta(0)."""
        return float(np.max(self.tpr - self.fpr))

    def posterior(self, prior: float, fpr: float = 0.01) -> float:
        """Largest probability of membership that a positive verdict of an attack with this FPR can justify.

        prior * TPR / (prior * TPR + (1 - prior) * fpr), with the largest TPR. `prior` is what the attacker believed
        before. The rarer the alarm (smaller fpr), the more it can say; in the limit only epsilon bounds it
        (`posterior_cap`).
        """
        _check_prior(prior)
        if not 0 < fpr <= 1:
            raise ValueError(f"fpr={fpr} must be in (0, 1]. At 0 no bound but `posterior_cap` exists.")
        hit = prior * self.max_tpr(fpr)
        return hit / (hit + (1 - prior) * fpr)


def posterior_cap(epsilon: float, prior: float) -> float:
    """Largest posterior of membership under (epsilon, delta)-DP, except with probability about delta.

    prior / (prior + (1 - prior) exp(-epsilon)): the odds grow by at most exp(epsilon).
    """
    _check_prior(prior)
    return prior / (prior + (1 - prior) * math.exp(-epsilon))


def tradeoff(sampling_rate: float, noise_multiplier: float, num_steps: int) -> TradeOff:
    """Cap for a unit sampled with probability q in each of T steps. Raises ValueError outside the domain."""
    check_parameters(sampling_rate, noise_multiplier, num_steps)
    return _tradeoff(float(sampling_rate), float(noise_multiplier), int(num_steps))


@functools.lru_cache(maxsize=64)
def _tradeoff(sampling_rate: float, noise_multiplier: float, num_steps: int) -> TradeOff:
    moments = step_moments(StepMixture.poisson(sampling_rate), noise_multiplier)
    reach = num_steps * max(moments.mean, 0.0) + 8 * moments.std * math.sqrt(num_steps)
    return tradeoff_of_pld(poisson_pld(sampling_rate, noise_multiplier, num_steps), reach)


def tradeoff_of_pld(pld: Any, reach: float) -> TradeOff:
    """Cap from any pessimistic `PrivacyLossDistribution`, using epsilons from 0 to about `reach` (capped at 600)."""
    top = min(max(reach, 1e-6), LARGEST_EPSILON)
    # Half of the pairs in the lowest quarter, where the slopes that matter for AUC and advantage lie.
    half = NUM_EPSILONS // 2
    epsilons = np.unique(np.concatenate([np.linspace(0, top / 4, half), np.linspace(0, top, half)]))
    deltas = np.asarray(pld.get_delta_for_epsilon(epsilons), dtype=float)
    return tradeoff_of_curve(epsilons, np.clip(deltas + FFT_SLACK, 0.0, 1.0))


def tradeoff_of_curve(epsilons: Array, deltas: Array) -> TradeOff:
    """Cap from pairs (epsilon >= 0, delta) that the mechanism satisfies in both directions (add and remove)."""
    steep = list(zip(deltas, np.exp(epsilons), strict=True))
    flat = [(-np.expm1(-e) + np.exp(-e) * d, np.exp(-e)) for e, d in zip(epsilons, deltas, strict=True)]
    lines = sorted([*steep, *flat, (1.0, 0.0)], key=lambda line: (-line[1], line[0]))
    return _lower_envelope(lines)


def _lower_envelope(lines: list[tuple[float, float]]) -> TradeOff:
    """Pointwise minimum on [0, 1] of lines (intercept, slope) given in order of falling slope."""
    kept: list[tuple[float, float]] = []
    starts: list[float] = []
    for intercept, slope in lines:
        if kept and slope == kept[-1][1]:
            continue
        start = 0.0
        while kept:
            start = (intercept - kept[-1][0]) / (kept[-1][1] - slope)
            if start > starts[-1]:
                break
            kept.pop()
            starts.pop()
            start = 0.0
        if start < 1:
            kept.append((intercept, slope))
            starts.append(start)
    fpr = np.array([*starts, 1.0])
    tpr = np.array([kept[i][0] + kept[i][1] * start for i, start in enumerate(starts)] + [1.0])
    tpr = np.clip(np.maximum.accumulate(tpr), 0.0, 1.0)
    fpr.setflags(write=False)
    tpr.setflags(write=False)
    return TradeOff(fpr, tpr)


@dataclass(frozen=True)
class GaussianApproximation:
    """mu-GDP approximation by the central limit theorem: NOT a bound, for comparison with the literature only."""

    mu: float
    label: str = field(default="approximation (central limit theorem), not a bound")

    def max_tpr(self, fpr: float) -> float:
        """Phi(Phi^-1(fpr) + mu)."""
        from scipy.special import ndtri

        return float(ndtr(ndtri(fpr) + self.mu))

    def auc(self) -> float:
        """Phi(mu / sqrt 2)."""
        return float(ndtr(self.mu / math.sqrt(2)))


def gdp_mu_approximation(sampling_rate: float, noise_multiplier: float, num_steps: int) -> GaussianApproximation:
    """mu = q sqrt(T (exp(1/sigma^2) - 1)) (Bu, Dong, Long, Su 2020, arXiv 1911.11607, corollary 5.4).

    May be below the true leakage, badly so for small sigma or few steps. q = 1 is exact instead: mu = sqrt(T)/sigma.
    """
    check_parameters(sampling_rate, noise_multiplier, num_steps)
    if sampling_rate == 1:
        return GaussianApproximation(math.sqrt(num_steps) / noise_multiplier, "exact for sampling_rate=1")
    try:
        growth = math.expm1(noise_multiplier**-2)
    except OverflowError:
        growth = math.inf
    return GaussianApproximation(sampling_rate * math.sqrt(num_steps * growth))


def _check_prior(prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"prior={prior} must be in (0, 1). It is a probability, not percent.")
