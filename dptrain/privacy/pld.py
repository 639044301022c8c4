"""Privacy loss distribution of T steps of the (sub)sampled Gaussian mechanism, discretised on the pessimistic side.

One step adds Normal(0, sigma^2) (in units of the clipping norm) to a sum in which the protected unit takes part with a
random weight: 0 or 1 for a unit sampled with probability q, 0..k for a patient with k records sampled one by one. The
pair of output distributions that dominates the step is

    out = Normal(0, sigma^2)        in = sum_j p_j Normal(s_j, sigma^2)

(Koskela et al. 2020, arXiv 2102.12412; Choquette-Choo et al. 2024, arXiv 2310.15526 for the mixture). dp-accounting
builds the distribution of the privacy loss ln(in/out) and ln(out/in) with its connect-the-dots rounding (Doroshenko et
al. 2022, arXiv 2207.04380), which never understates delta at any epsilon, and composes it T times by FFT.

What is ours is the grid. A fixed interval of 1e-4 takes minutes and gigabytes at epsilon 100 and is too coarse at
epsilon 0.001; here the interval follows the spread of one step's loss and is widened, before anything is computed, as
far as the two caps on the number of points require. A wider interval costs tightness, never validity.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

INTERVAL_PER_STD = 0.05
"""Grid interval as a fraction of the standard deviation of one step's privacy loss: epsilon is then within 0.05%."""
MAX_STEP_POINTS = 2**17
"""Largest number of grid points of one step's distribution (dp-accounting builds it in a Python loop)."""
MAX_MIXTURE_POINTS = 2**14
"""The same where a step is a mixture of more than two Gaussians, whose loss is inverted numerically."""
MAX_COMPOSED_POINTS = 2**20
"""Largest number of grid points of the composed distribution."""
SMALLEST_DELTA = 1e-10
"""Below this delta the rounding errors of the FFT (about 1e-13 in delta) are no longer negligible."""
_TRUNCATION_LOG_MASS = -50.0
"""ln of the probability per step that dp-accounting counts as an infinite loss (pessimistic)."""
_TRUNCATION_STDS = 10.6
"""Quantile of the standard normal at exp(-50)/2, for the size of the support."""


def check_parameters(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float | None = None) -> None:
    """Raises ValueError naming every parameter outside the domain of the accountants."""
    problems = []
    if not 0 < sampling_rate <= 1:
        problems.append(f"sampling_rate={sampling_rate} must be in (0, 1]. It is the probability of a unit per step.")
    if not noise_multiplier > 0:
        problems.append(
            f"noise_multiplier={noise_multiplier} must be > 0. Without noise there is no epsilon: use epsilon=inf."
        )
    elif math.isinf(noise_multiplier):
        problems.append("noise_multiplier=inf must be finite. Infinite noise releases nothing and needs no accountant.")
    if not (num_steps >= 1 and num_steps == int(num_steps)):
        problems.append(f"num_steps={num_steps} must be a whole number >= 1.")
    if delta is not None and not 0 < delta < 1:
        problems.append(f"delta={delta} must be in (0, 1). Usual: below 1 / number of patients.")
    if problems:
        raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class StepMixture:
    """`in` distribution of one step: weight s_j with probability p_j, in units of the clipping norm."""

    sensitivities: tuple[float, ...]
    """s_j >= 0, ascending."""
    probabilities: tuple[float, ...]
    """p_j > 0, sum 1."""

    @classmethod
    def poisson(cls, sampling_rate: float) -> StepMixture:
        """A unit that enters a step with probability q and then weighs 1."""
        if sampling_rate == 1:
            return cls((1.0,), (1.0,))
        return cls((0.0, 1.0), (1 - sampling_rate, sampling_rate))

    def loss(self, x: NDArray[np.float64], noise_multiplier: float) -> NDArray[np.float64]:
        """ln(in(x)/out(x)) = ln sum_j p_j exp(s_j (2x - s_j) / (2 sigma^2)); increasing in x. Any shape."""
        s = np.asarray(self.sensitivities)
        exponents = s * (2 * x[..., None] - s) / (2 * noise_multiplier**2)
        return np.asarray(logsumexp(exponents, axis=-1, b=np.asarray(self.probabilities)))


@dataclass(frozen=True)
class StepMoments:
    """Mean, standard deviation and support of ln(in/out) of one step under `in`."""

    mean: float
    std: float
    width: float
    """Length of the loss interval that holds all but exp(-50) of the probability."""


def step_moments(step: StepMixture, noise_multiplier: float, num_points: int = 20_001) -> StepMoments:
    """Moments by the trapezoid rule; good to a per cent, which is all that choosing a grid needs."""
    reach = _TRUNCATION_STDS * noise_multiplier
    x = np.linspace(-reach, step.sensitivities[-1] + reach, num_points)
    loss = step.loss(x, noise_multiplier)
    log_density = -(x**2) / (2 * noise_multiplier**2) + loss
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = float(weight @ loss)
    return StepMoments(mean, math.sqrt(float(weight @ (loss - mean) ** 2)), float(loss[-1] - loss[0]))


def grid_interval(moments: StepMoments, num_steps: int) -> float:
    """Interval of the loss grid: fine enough for 0.05% in epsilon, never more points than the two caps."""
    composed_std = moments.std * math.sqrt(num_steps)
    composed_width = num_steps * moments.mean + 2 * _TRUNCATION_STDS * composed_std + moments.width
    return max(
        INTERVAL_PER_STD * moments.std, moments.width / MAX_STEP_POINTS, composed_width / MAX_COMPOSED_POINTS, 1e-12
    )


def compose(step: StepMixture, noise_multiplier: float, num_steps: int) -> Any:
    """dp-accounting's `PrivacyLossDistribution` of `num_steps` steps, both directions (add and remove), pessimistic."""
    # dp-accounting takes seconds to import: only those who account pay for it.
    from dp_accounting.pld import privacy_loss_distribution as pld

    moments = step_moments(step, noise_multiplier)
    interval = grid_interval(moments, num_steps)
    if len(step.sensitivities) <= 2:
        single = pld.from_gaussian_mechanism(
            noise_multiplier / step.sensitivities[-1],
            sampling_prob=step.probabilities[-1],
            value_discretization_interval=interval,
            log_mass_truncation_bound=_TRUNCATION_LOG_MASS,
        )
    else:
        interval = max(interval, moments.width / MAX_MIXTURE_POINTS)
        removed, added = (_mixture_pmf(step, noise_multiplier, interval, removed=r) for r in (True, False))
        single = pld.PrivacyLossDistribution(removed, added)
    return single.self_compose(num_steps)


def _mixture_pmf(step: StepMixture, noise_multiplier: float, interval: float, *, removed: bool) -> Any:
    """Connect-the-dots distribution of one mixture step's loss, ln(in/out) if `removed`, else ln(out/in).

    Same numbers as dp-accounting's `from_mixture_gaussian_mechanism` (a test holds them together), which inverts the
    loss by bisection in Python and takes 10 to 30 s for one mixture; here Newton's method does it for all grid points
    at once.
    """
    from dp_accounting.pld import pld_pmf

    reach = _TRUNCATION_STDS * noise_multiplier
    ends = step.loss(np.array([-reach, step.sensitivities[-1] + reach]), noise_multiplier)
    low, high = (ends[0], ends[1]) if removed else (-ends[1], -ends[0])
    first, last = math.floor(low / interval), math.ceil(high / interval)
    epsilons = np.arange(first, last + 1) * interval
    deltas = mixture_delta(step, noise_multiplier, epsilons, removed=removed)
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, first, last, deltas)


def mixture_delta(
    step: StepMixture, noise_multiplier: float, epsilons: NDArray[np.float64], *, removed: bool
) -> NDArray[np.float64]:
    """delta(epsilon) of one step for each of the ascending `epsilons`.

    In against out if `removed`, else out against in:

    delta = upper(A) - exp(epsilon) lower(A), where A, a half-line, is where the loss exceeds epsilon.
    """
    s, p = np.asarray(step.sensitivities), np.asarray(step.probabilities)
    x = _inverse_loss(step, noise_multiplier, epsilons if removed else -epsilons)
    sign = -1.0 if removed else 1.0  # removed: A = (x, inf); added: A = (-inf, x)
    log_out = log_ndtr(sign * x / noise_multiplier)
    log_in = logsumexp(log_ndtr(sign * (x[:, None] - s) / noise_multiplier), axis=1, b=p)
    log_upper, log_lower = (log_in, log_out) if removed else (log_out, log_in)
    deltas = np.exp(log_upper) - np.exp(np.minimum(epsilons + log_lower, log_upper))
    return np.asarray(np.clip(np.maximum.accumulate(deltas[::-1])[::-1], 0.0, 1.0))


def _inverse_loss(step: StepMixture, noise_multiplier: float, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """x with ln(in(x)/out(x)) = loss; -inf below the infimum. Newton from the right: the loss is convex."""
    s, p = np.asarray(step.sensitivities), np.asarray(step.probabilities)
    reach = 3 * _TRUNCATION_STDS * noise_multiplier
    table_x = np.linspace(-reach, step.sensitivities[-1] + reach, 20_001)
    table = step.loss(table_x, noise_multiplier)
    x = table_x[np.minimum(np.searchsorted(table, losses), len(table_x) - 1)]
    for _ in range(4):  # the table is within 1e-4 of the range, and each round squares the error
        log_terms = s * (2 * x[:, None] - s) / (2 * noise_multiplier**2) + np.log(p)
        total = logsumexp(log_terms, axis=1)
        slope = np.exp(log_terms - total[:, None]) @ s / noise_multiplier**2
        x = x - (total - losses) / np.maximum(slope, 1e-300)
    infimum = math.log(step.probabilities[0]) if step.sensitivities[0] == 0 else -math.inf
    return np.asarray(np.where(losses <= infimum, -np.inf, np.clip(x, -1e3 * reach, 1e3 * reach)))


@functools.lru_cache(maxsize=8)
def poisson_pld(sampling_rate: float, noise_multiplier: float, num_steps: int) -> Any:
    """`compose` for a unit sampled with probability q; the last few are kept, because account and caps share them."""
    check_parameters(sampling_rate, noise_multiplier, num_steps)
    return compose(StepMixture.poisson(sampling_rate), noise_multiplier, num_steps)
