"""The ledger: what ran, measured while it runs, and compared with the `Mechanism` that is accounted.

A guarantee is a statement about what happened, not about what was configured. The engine enters every step here: which
units were sampled, how large the clipped sum was, and the noise as it is found in the gradient (noised minus clipped
sum), not as it was asked for. `Ledger.check` lists every way in which the run differs from the mechanism. A run whose
ledger does not check has no epsilon.

The statistical checks are placed so that an honest run fails one of them with probability below 1e-8: voiding an honest
run costs a training, passing a broken one costs the guarantee, and broken ones are far outside.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from dptrain.compiled import compiled
from dptrain.errors import PrivacyError
from dptrain.privacy.mechanism import Mechanism

SAMPLING_Z = 6.0
"""Realised sampling further than this many standard deviations from its expectation voids the run (p < 2e-9)."""
DISPERSION_Z = 10.0
"""The same for the spread of counts, whose upper tail is heavier than a normal one."""
NOISE_P = 1e-10
"""A run whose noise is this unlikely is void."""
ROUNDING = 1e-3
"""Relative slack for float32 when noise is read out of a gradient."""
CLIP_SLACK = 1e-5
"""Relative slack of the clipping norm (float32)."""


@dataclass
class Ledger:
    """Counts of one model's training. Mutable while the model trains."""

    is_member: NDArray[np.bool_]
    """(U,) units of the study that may be sampled in this run."""
    noise_stream: str = ""
    """Names the stream of the noise: two runs with the same one share their noise. A run that was continued with fresh
    noise names all its streams, separated by commas."""
    num_steps: int = 0
    """Steps whose noise was added and whose update was applied."""
    num_lost: int = 0
    """Steps that were begun and whose result a kill destroyed. They count as spent and are never repeated."""
    num_sampled: int = 0
    """Units sampled, summed over the steps."""
    num_empty: int = 0
    """Steps whose batch was empty."""
    num_strangers: int = 0
    """Sampled units that are no members, or that were sampled twice in one step."""
    num_nonfinite: int = 0
    """Records whose gradient was not finite and was replaced by 0."""
    noise_multipliers: set[float] = field(default_factory=set)
    """sigma as the optimizer used it."""
    clipping_norms: set[float] = field(default_factory=set)
    """C as the optimizer used it."""
    divisors: set[float] = field(default_factory=set)
    """Divisor as the optimizer used it."""
    num_values: int = 0
    """Noise values drawn in a step: number of trainable parameters."""
    noise_square: float = 0.0
    """Sum over steps and values of the squared noise found in the gradient."""
    smallest_noise: float = math.inf
    """Smallest root mean square of a step's noise."""
    largest_noise: float = 0.0
    """Largest root mean square of a step's noise."""
    largest_share: float = 0.0
    """Largest norm of a step's clipped sum divided by the units in it (at most C); inf if an empty step had a sum."""
    size_square: float = 0.0
    """Sum over steps of the squared number of sampled units."""
    unit_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(U,) how often each unit was sampled. Never leaves this object: it tells members from others."""

    def __post_init__(self) -> None:
        self.unit_counts = np.zeros(len(self.is_member), dtype=np.int64)

    @property
    def num_eligible(self) -> int:
        """Units that could be sampled in each step (members)."""
        return int(self.is_member.sum())

    def enter(
        self,
        units: NDArray[np.int64],
        noise_multiplier: float,
        clipping_norm: float,
        divisor: float,
        noise_norm: float,
        sum_norm: float,
        num_values: int,
    ) -> None:
        """Write down one finished step: sampled `units`, what the optimizer used, and L2 norms of the noise found in
        the gradient and of the clipped sum (both before the division), over `num_values` trainable parameters."""
        self.num_steps += 1
        self.num_sampled += len(units)
        self.num_empty += len(units) == 0
        known = count_members(units, self.is_member, self.unit_counts)
        if known < 0:
            known = count_members(np.unique(units), self.is_member, self.unit_counts)
        self.num_strangers += len(units) - known
        self.size_square += float(len(units)) ** 2
        self.noise_multipliers.add(float(noise_multiplier))
        self.clipping_norms.add(float(clipping_norm))
        self.divisors.add(float(divisor))
        self.num_values = int(num_values)
        self.noise_square += noise_norm**2
        root_mean_square = noise_norm / math.sqrt(max(num_values, 1))
        self.smallest_noise = min(self.smallest_noise, root_mean_square)
        self.largest_noise = max(self.largest_noise, root_mean_square)
        share = sum_norm / len(units) if len(units) else (math.inf if sum_norm > 0 else 0.0)
        self.largest_share = max(self.largest_share, share)

    def findings(self, mechanism: Mechanism) -> list[str]:
        """Every difference between what ran and what is accounted, as sentences; empty when they agree."""
        found: list[str] = []
        if self.num_steps + self.num_lost != mechanism.num_steps:
            lost = f" and {self.num_lost} were lost" if self.num_lost else ""
            found.append(f"{self.num_steps} noisy steps ran{lost}, {mechanism.num_steps} are accounted.")
        for name, ran, accounted in (
            ("noise_multiplier", self.noise_multipliers, mechanism.noise_multiplier),
            ("clipping_norm", self.clipping_norms, mechanism.clipping_norm),
            ("expected_batch_size", self.divisors, mechanism.expected_batch_size),
        ):
            if ran != {accounted}:
                found.append(f"{name} was {sorted(ran)} in the run, {accounted} is accounted.")
        return found + self._clipping_findings(mechanism) + self._noise_findings(mechanism) + self._sampling(mechanism)

    def check(self, mechanism: Mechanism) -> None:
        """Raise PrivacyError with all findings if the run is not the mechanism."""
        found = self.findings(mechanism)
        if found:
            raise PrivacyError(["The run is not the mechanism that is accounted; it has no epsilon.", *found])

    def _clipping_findings(self, mechanism: Mechanism) -> list[str]:
        if self.largest_share <= mechanism.clipping_norm * (1 + CLIP_SLACK):
            return []
        return [
            f"A clipped sum had norm {self.largest_share:.6g} per sampled unit; with clipping it is at most "
            f"{mechanism.clipping_norm}: units were not clipped."
        ]

    def _noise_findings(self, mechanism: Mechanism) -> list[str]:
        if not self.num_steps:
            return []
        scale = mechanism.noise_multiplier * mechanism.clipping_norm
        if scale == 0:
            limit = ROUNDING * max(self.largest_share, mechanism.clipping_norm) * max(self.num_sampled, 1)
            noisy = self.largest_noise > limit
            return [f"Noise of size {self.largest_noise:.3g} was added, none is accounted."] if noisy else []
        found = []
        values = self.num_values * self.num_steps
        ratio = self.noise_square / (scale**2 * values)
        low, high = noise_range(values, NOISE_P)
        if not low <= ratio <= high:
            found.append(
                f"The noise found in the gradients has standard deviation {math.sqrt(ratio) * scale:.6g} over "
                f"{values} values; {scale:.6g} is accounted."
            )
        low, high = noise_range(self.num_values, NOISE_P / self.num_steps)
        smallest, largest = ((value / scale) ** 2 for value in (self.smallest_noise, self.largest_noise))
        if smallest < low or largest > high:
            found.append(
                f"The noise of single steps has standard deviations from {self.smallest_noise:.6g} to "
                f"{self.largest_noise:.6g}; {scale:.6g} is accounted in every step."
            )
        return found

    def _sampling(self, mechanism: Mechanism) -> list[str]:
        found = []
        rate, steps, eligible = mechanism.sampling_rate, self.num_steps, self.num_eligible
        if self.num_strangers:
            found.append(f"{self.num_strangers} sampled units were no members, or entered a step twice.")
        trials = eligible * steps
        expected = trials * rate
        spread = math.sqrt(expected * (1 - rate))
        if abs(self.num_sampled - expected) > SAMPLING_Z * spread + 1e-9:
            found.append(
                f"{self.num_sampled} units were sampled in all; Poisson sampling at rate {rate} of "
                f"{eligible} units over {steps} steps expects {expected:.0f} +- {spread:.0f}."
            )
        if rate == 1 or not self.num_steps:
            return found
        # Spread of the batch sizes over steps and of the counts over units: both are binomial under Poisson sampling.
        mean_size = eligible * rate
        sizes = self.size_square - 2 * mean_size * self.num_sampled + self.num_steps * mean_size**2
        counts = self.unit_counts[self.is_member] - steps * rate
        for squares, num, trials_each, what in (
            (sizes, self.num_steps, eligible, "The numbers of units per step"),
            (float((counts**2).sum()), eligible, steps, "The numbers of steps per unit"),
        ):
            verdict = _dispersion_verdict(squares, num, trials_each, rate)
            if verdict:
                found.append(f"{what} vary {verdict} than under Poisson sampling at rate {rate}.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; no unit's own count."""
        return {
            "num_eligible": self.num_eligible,
            "num_steps": self.num_steps,
            "num_lost": self.num_lost,
            "num_sampled": self.num_sampled,
            "num_empty": self.num_empty,
            "num_nonfinite": self.num_nonfinite,
            "noise_multipliers": sorted(self.noise_multipliers),
            "clipping_norms": sorted(self.clipping_norms),
            "divisors": sorted(self.divisors),
            "noise_stream": self.noise_stream,
            "noise_sd": math.sqrt(self.noise_square / max(self.num_values * self.num_steps, 1)),
            "largest_share": self.largest_share,
        }


    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint of the same training. RESTRICTED: it tells which units were sampled."""
        state = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "is_member"}
        for name, value in state.items():
            if isinstance(value, (set, np.ndarray)):
                state[name] = sorted(value) if isinstance(value, set) else value.tolist()
        return state

    def restore(self, state: dict[str, Any], num_lost: int) -> None:
        """Go on from the `state` of an earlier process with this object's own, fresh noise stream; `num_lost` more
        steps were begun after that state."""
        fresh = self.noise_stream
        for name, value in state.items():
            current = getattr(self, name)
            if isinstance(current, set):
                value = set(value)
            elif isinstance(current, np.ndarray):
                value = np.array(value, dtype=current.dtype)
            setattr(self, name, value)
        self.noise_stream = f"{self.noise_stream},{fresh}"
        self.num_lost += num_lost


@compiled
def count_members(units: NDArray[np.int64], is_member: NDArray[np.bool_], counts: NDArray[np.int64]) -> int:
    """Add 1 to the counts (U,) of the members among `units` (B,); returns how many there are. -1, and no count is
    touched, if the units do not ascend: one may be there twice."""
    for position in range(1, units.size):
        if units[position] <= units[position - 1]:
            return -1
    known = 0
    for unit in units:
        if 0 <= unit < is_member.size and is_member[unit]:
            counts[unit] += 1
            known += 1
    return known


def shared_noise(ledgers: list[dict[str, Any]]) -> list[str]:
    """Noise streams that more than one run used: such runs are not independent releases, and none has its epsilon.

    `ledgers` are `Ledger.to_dict()` of different models; a stream of a run without noise is not looked at.
    """
    streams = [
        stream for entry in ledgers if any(entry["noise_multipliers"]) for stream in entry["noise_stream"].split(",")
    ]
    return sorted({stream for stream in streams if streams.count(stream) > 1})


def noise_range(values: int, probability: float) -> tuple[float, float]:
    """Range of the mean square of `values` standard normal numbers, left with at most `probability` on each side."""
    low = float(chi2.ppf(probability, values)) / values
    high = float(chi2.isf(probability, values)) / values
    return low * (1 - ROUNDING), high * (1 + ROUNDING)


def _dispersion_verdict(squares: float, num: int, trials: int, rate: float) -> str:
    """Compare the sum of squared deviations of `num` independent Binomial(trials, rate) counts with its law.

    Upper side: z of the statistic with its exact binomial variance. Lower side: chi-square with the continuity
    correction (|deviation| + 1/2), and only where counts are near normal. "" if nothing is wrong.
    """
    variance = trials * rate * (1 - rate)
    if num == 0 or variance == 0:
        return ""
    statistic = squares / variance
    spread = math.sqrt(num * (2 + max((1 - 6 * rate * (1 - rate)) / variance, 0.0)))
    if statistic - num > DISPERSION_Z * spread + 30 / min(variance, 1.0):
        return "more"
    if variance < 1:
        return ""
    # (|d| + 1/2)^2 = d^2 + |d| + 1/4, and the sum of |d| is at most sqrt(num * sum of d^2).
    corrected = (squares + math.sqrt(num * max(squares, 0.0)) + num / 4) / variance
    return "less" if chi2.cdf(corrected, num) < NOISE_P else ""
