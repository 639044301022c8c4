"""The smallest noise that keeps a promise: epsilon at delta, TPR at FPR, or advantage.

The noise multiplier is searched on the grid of numbers with four significant digits, and the promise is evaluated by
the same functions that later report it (`account`, `tradeoff`), so what is reported never exceeds what was asked for.
The returned number keeps the promise and the next smaller one on the grid does not: it is rounded to the private
side.

Calibrating to an attack's success instead of epsilon: Kulynych, Gomez, Kaissis, Hsu, Troncoso 2024, arXiv 2407.02191.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from dptrain.privacy.accounting import Accounting, account, reported_epsilon
from dptrain.privacy.pld import check_parameters
from dptrain.privacy.tradeoff import TradeOff, tradeoff

SMALLEST_NOISE = 0.05
LARGEST_NOISE = 1e6
"""Range of the search, in units of the clipping norm."""


@dataclass(frozen=True)
class Calibration:
    """Noise for a target epsilon."""

    noise_multiplier: float
    """Smallest sigma with four significant digits whose epsilon is at most the target."""
    accounting: Accounting
    """What it costs; `accounting.epsilon` <= target."""


@dataclass(frozen=True, eq=False)
class RiskCalibration:
    """Noise for a cap on attacks."""

    noise_multiplier: float
    """Smallest sigma with four significant digits whose cap is at most the target."""
    tradeoff: TradeOff
    """The caps that it buys."""


@functools.lru_cache(maxsize=256)
def calibrate_noise(target_epsilon: float, sampling_rate: float, num_steps: int, delta: float) -> Calibration:
    """Smallest sigma with `account(...).epsilon` <= `target_epsilon`.

    Raises ValueError for parameters outside the domain or a target that no noise in [0.05, 1e6] reaches.
    """
    check_parameters(sampling_rate, 1.0, num_steps, delta)
    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise ValueError(
            f"target_epsilon={target_epsilon} must be a finite number > 0. For a run without DP use epsilon=inf."
        )

    def epsilon(noise_multiplier: float) -> float:
        return reported_epsilon(sampling_rate, noise_multiplier, num_steps, delta)[0]

    # Start from the noise of the Gaussian mechanism with mu-GDP at the same epsilon; the search corrects it.
    log_delta = math.log(1 / delta)
    mu = math.sqrt(2) * (math.sqrt(log_delta + target_epsilon) - math.sqrt(log_delta))
    noise = _smallest_noise(epsilon, target_epsilon, _noise_of_mu(mu, sampling_rate, num_steps), "epsilon")
    return Calibration(noise, account(sampling_rate, noise, num_steps, delta))


@functools.lru_cache(maxsize=64)
def calibrate_to_tpr(tpr: float, fpr: float, sampling_rate: float, num_steps: int) -> RiskCalibration:
    """Smallest sigma such that no attack with false-positive rate `fpr` has a true-positive rate above `tpr`.

    Raises ValueError unless 0 < fpr < tpr < 1 (an attack that guesses reaches tpr = fpr), or if no noise reaches it.
    """
    check_parameters(sampling_rate, 1.0, num_steps)
    if not 0 < fpr < tpr < 1:
        raise ValueError(f"tpr={tpr}, fpr={fpr} must satisfy 0 < fpr < tpr < 1: guessing alone reaches tpr = fpr.")

    def risk(noise_multiplier: float) -> float:
        return tradeoff(sampling_rate, noise_multiplier, num_steps).max_tpr(fpr) - fpr

    start = _noise_of_mu(2 * (tpr - fpr), sampling_rate, num_steps)
    noise = _smallest_noise(risk, tpr - fpr, start, f"TPR - FPR at FPR {fpr}")
    return RiskCalibration(noise, tradeoff(sampling_rate, noise, num_steps))


@functools.lru_cache(maxsize=64)
def calibrate_to_advantage(advantage: float, sampling_rate: float, num_steps: int) -> RiskCalibration:
    """Smallest sigma such that no attack has TPR - FPR above `advantage`, in (0, 1). Raises ValueError otherwise."""
    check_parameters(sampling_rate, 1.0, num_steps)
    if not 0 < advantage < 1:
        raise ValueError(f"advantage={advantage} must be in (0, 1). It is TPR - FPR, a fraction.")

    def risk(noise_multiplier: float) -> float:
        return tradeoff(sampling_rate, noise_multiplier, num_steps).max_advantage()

    start = _noise_of_mu(2.5 * advantage, sampling_rate, num_steps)
    noise = _smallest_noise(risk, advantage, start, "advantage")
    return RiskCalibration(noise, tradeoff(sampling_rate, noise, num_steps))


def _noise_of_mu(mu: float, sampling_rate: float, num_steps: int) -> float:
    """sigma at which the central limit theorem gives mu; a place to start, nothing more."""
    if sampling_rate == 1:
        return math.sqrt(num_steps) / mu
    return 1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / num_steps))


def _rank(noise_multiplier: float) -> int:
    """Position on the grid of four-digit numbers of the smallest one >= noise_multiplier."""
    exponent = math.floor(math.log10(noise_multiplier))
    mantissa = math.ceil(round(noise_multiplier / 10.0 ** (exponent - 3), 6))
    return exponent * 9000 + mantissa - 1000


def _noise(rank: int) -> float:
    """Inverse of `_rank`: the four-digit number itself, exactly as it prints."""
    exponent, mantissa = divmod(rank, 9000)
    return float(f"{mantissa + 1000}e{exponent - 3}")


def _smallest_noise(risk: Callable[[float], float], target: float, start: float, name: str) -> float:
    """Smallest four-digit sigma with risk(sigma) <= target, for a falling `risk`.

    Secant steps in log-log (risk is close to a power of sigma) inside a bracket that only ever shrinks; ends when the
    bracket is one grid step wide, with its upper end checked to keep the target.
    """
    lowest, highest = _rank(SMALLEST_NOISE), _rank(LARGEST_NOISE)
    points: list[tuple[float, float]] = []

    def excess(rank: int) -> float:
        value = math.log(max(risk(_noise(rank)), 1e-12) / target)
        points.append((math.log(_noise(rank)), value))
        return value

    fails, holds = lowest - 1, highest + 1
    rank = min(max(_rank(start), lowest), highest)
    while holds - fails > 1:
        if excess(rank) <= 0:
            holds = rank
        else:
            fails = rank
        rank = _next_rank(points, fails, holds, lowest, highest)
    if holds > highest:
        raise ValueError(f"{name}={target} is not reached by any noise multiplier up to {LARGEST_NOISE:g}.")
    return _noise(holds)


def _next_rank(points: list[tuple[float, float]], fails: int, holds: int, lowest: int, highest: int) -> int:
    """Grid position to try next: where the secant through the last two points meets the target, inside the bracket."""
    if holds - fails <= 1:
        return holds
    (x1, y1), (x0, y0) = points[-1], points[-2] if len(points) > 1 else (points[-1][0] - 1.0, points[-1][1] + 1.2)
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
    bisect = (max(fails, lowest) + min(holds, highest)) // 2
    if slope >= -1e-6 or len(points) > 20:
        guess = bisect
    else:
        guess = _rank(min(max(math.exp(x1 - max(min(y1 / slope, 1.5), -1.5)), SMALLEST_NOISE), LARGEST_NOISE))
    return min(max(guess, fails + 1), holds - 1)
