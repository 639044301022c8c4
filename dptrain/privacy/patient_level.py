"""What record-level privacy means for a patient with several records.

When records are sampled and clipped one by one, the epsilon of the accountant protects one record. A patient with k
records enters a step with K ~ Binomial(k, q) of them, and moves the sum by at most K clipping norms (all in the same
direction, in the worst case). The step of that patient is therefore dominated by the mixture of Gaussians

    out = Normal(0, sigma^2)        in = sum_j P(K = j) Normal(j, sigma^2)

(Choquette-Choo, Ganesh, Steinke, Thakurta 2024, arXiv 2310.15526, section 4), and its T-fold composition by
dp-accounting's pessimistic PLD gives epsilon for adding or removing the whole patient. That is much tighter than
group privacy (k times epsilon at exp(k epsilon) times delta). Epsilon grows with k, so a cohort is only as safe as
its largest patient.

Cost is bounded: above `MAX_COMPONENTS` different weights, neighbouring weights are merged into the larger one. Moving
probability to a larger weight dominates the true mixture (same source, lemma 4.5), so this only raises epsilon.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from dptrain.privacy.accounting import reported_epsilon
from dptrain.privacy.pld import SMALLEST_DELTA, StepMixture, check_parameters, compose
from dptrain.privacy.prv import AccountantRefused

MAX_COMPONENTS = 24
"""Largest number of different weights in the mixture; cost per step grows with it."""
NEGLIGIBLE = 1e-18
"""Probability below which a number of sampled records is merged into the next larger one that is kept."""


@dataclass(frozen=True)
class PatientLevel:
    """Patient-level epsilon of a cohort under record-level DP."""

    delta: float
    num_patients: int
    records_quantiles: dict[str, int]
    """"p50", "p90", "p99", "max" -> records of the patient at that quantile (rounded up to a patient that exists)."""
    epsilon_quantiles: dict[str, float]
    """The same keys -> epsilon for that patient, all records together. "max" is the guarantee for everybody."""
    epsilon_by_records: dict[int, float]
    """Number of records -> epsilon, for the numbers above."""

    @property
    def epsilon(self) -> float:
        """Epsilon that holds for every patient of the cohort."""
        return self.epsilon_quantiles["max"]


def patient_step(num_records: int, sampling_rate: float) -> StepMixture:
    """One step of a patient with k records: weight j with probability P(Binomial(k, q) = j), at most 24 weights."""
    if sampling_rate == 1:
        return StepMixture((float(num_records),), (1.0,))
    counts = np.arange(num_records + 1)
    pmf = binom.pmf(counts, num_records, sampling_rate)
    targets = _kept_counts(pmf)
    merged = np.bincount(np.searchsorted(targets, counts), pmf, len(targets)).astype(np.float64)
    merged = merged / merged.sum()
    return StepMixture(tuple(map(float, targets)), tuple(map(float, merged)))


def _kept_counts(pmf: Any) -> Any:
    """Counts that stay in the mixture: 0, the likely ones (evenly thinned to the cap) and k itself."""
    likely = np.flatnonzero(pmf > NEGLIGIBLE)
    if len(likely) > MAX_COMPONENTS - 2:
        likely = likely[np.unique(np.linspace(0, len(likely) - 1, MAX_COMPONENTS - 2).round().astype(int))]
    return np.unique(np.concatenate([[0], likely, [len(pmf) - 1]]))


@functools.lru_cache(maxsize=256)
def patient_epsilon(
    num_records: int, sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float
) -> float:
    """Epsilon for adding or removing one patient with `num_records` records, each sampled with probability q (upper
    bound).

    Raises ValueError outside the domain, and AccountantRefused where no finite epsilon comes out.
    """
    check_parameters(sampling_rate, noise_multiplier, num_steps, delta)
    if num_records < 1:
        raise ValueError(f"num_records={num_records} must be >= 1. A patient without records is not in the cohort.")
    if num_records == 1:
        return reported_epsilon(sampling_rate, noise_multiplier, num_steps, delta)[0]
    if sampling_rate == 1:
        return reported_epsilon(1.0, noise_multiplier / num_records, num_steps, delta)[0]
    if delta < SMALLEST_DELTA:
        raise AccountantRefused(f"PLD: delta={delta} is below {SMALLEST_DELTA}, where FFT rounding errors matter")
    pld = compose(patient_step(num_records, sampling_rate), noise_multiplier, num_steps)
    epsilon = float(pld.get_epsilon_for_delta(delta))
    if not math.isfinite(epsilon):
        raise AccountantRefused(f"PLD: no finite epsilon at delta={delta} for a patient with {num_records} records")
    return epsilon


def cohort_patient_level(
    records_per_patient: Sequence[int], sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float
) -> PatientLevel:
    """Patient-level epsilon at the median, the 90th and 99th percentile and the maximum of `records_per_patient` (P,).

    The quantiles describe private data: print them only beside other statistics of the cohort that may be released.
    """
    counts = np.sort(np.asarray(records_per_patient, dtype=int))
    if len(counts) == 0 or counts[0] < 1:
        raise ValueError("records_per_patient must list at least one patient, each with 1 record or more.")
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    records = {name: int(counts[math.ceil(rank * (len(counts) - 1))]) for name, rank in ranks.items()}
    arguments = (sampling_rate, noise_multiplier, num_steps, delta)
    by_records = {k: patient_epsilon(k, *arguments) for k in sorted(set(records.values()))}
    return PatientLevel(
        delta=delta,
        num_patients=len(counts),
        records_quantiles=records,
        epsilon_quantiles={name: by_records[k] for name, k in records.items()},
        epsilon_by_records=by_records,
    )
