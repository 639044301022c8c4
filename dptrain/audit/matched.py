"""Matched differences between two arms: same patients, same halves, so each patient is compared with himself.

Two things vary: which patients the study happened to have, and which halves the models happened to train on.
Each difference comes with three intervals, which answer different questions:

- ``patients``: other patients from the same source, their models redrawn with them, models' common luck held
  fixed;
- ``twin_pairs``: these patients, other random halves;
- ``both``: both. This is the one to print if only one is.

Patients: analytic for the mean and for counts (Agresti & Min 2005, doi 10.1111/j.1541-0420.2005.031218.x, for
the counts, so that 0 against 0 is not certain), bootstrap over patients for quantiles. Twin pairs: random
half-samples of the pairs without replacement (McCarthy 1969; Shao & Tu 1995, "The Jackknife and Bootstrap",
chapter 5), because a bootstrap that draws pairs with replacement inflates the tails. Both: the variances are
added and the part they share, each patient's own noise, is taken off once (two-way clustering: Cameron,
Gelbach & Miller 2011, doi 10.1198/jbes.2010.07136). All intervals are normal: estimate +- 1.96 standard
errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray, checked_matrix, checked_membership
from dptrain.attacks.twins import find_twins
from dptrain.audit.counts import count_at_least
from dptrain.audit.patients import patient_auc

_CHUNK_VALUES = 1 << 21
MOST_PATIENTS = 10_000
"""Half-samples and bootstrap look at so many patients, drawn at random, if there are more: what patients have in common
does not depend on their number, what they do not falls with it, and both are scaled accordingly. Estimates and the
analytic variances are always those of all patients."""


@dataclass(frozen=True)
class Difference:
    """A figure of arm a minus that of arm b, with three intervals (low, high)."""

    estimate: float
    patients: tuple[float, float]
    twin_pairs: tuple[float, float]
    both: tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """How the patient AUCs of arm a differ from those of arm b."""

    mean: Difference
    quantiles: dict[float, Difference]
    """Quantile of a minus quantile of b, by probability (0.5 is the median)."""
    counts: dict[float, Difference]
    """Patients at or above an AUC in a minus those in b, by threshold."""
    num_patients: int
    num_twin_pairs: int


def paired_difference(
    evidence_a_MP: npt.ArrayLike,
    evidence_b_MP: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    quantiles: Sequence[float] = (0.5, 0.99),
    thresholds: Sequence[float] = (0.8, 0.9),
    num_resamples: int = 200,
    confidence: float = 0.95,
) -> PairedDifference:
    """Return a minus b of the mean patient AUC, of its quantiles and of the counts in the tail.

    Args:
        evidence_a_MP, evidence_b_MP: (M, P) `patient_evidence` of two arms with the same memberships.
        membership_MP: (M, P) bool, in twins.
        rng: drawn from by this function only.
        quantiles: probabilities in (0, 1).
        thresholds: AUCs.
        num_resamples: bootstrap samples of patients, and half-samples of twin pairs.
        confidence: of the intervals.

    Raises:
        ValueError: shapes that do not fit, evidence that is not finite, memberships that are not in twins,
        fewer than 2
            twin pairs or 2 patients, or fewer than 2 resamples.
    """
    a, b = checked_matrix(evidence_a_MP, "evidence_a"), checked_matrix(evidence_b_MP, "evidence_b")
    if a.shape != b.shape:
        raise ValueError(f"evidence_a.shape={a.shape} and evidence_b.shape={b.shape} must be the same.")
    membership = checked_membership(membership_MP, (a.shape[0], a.shape[1]))
    twin = find_twins(membership)
    num_pairs = twin.size // 2
    if np.any(twin < 0) or num_pairs < 2 or a.shape[1] < 2 or num_resamples < 2:
        raise ValueError(
            f"num_models={twin.size} ({int((twin < 0).sum())} without a twin), num_patients={a.shape[1]}, "
            f"num_resamples={num_resamples}: expected at least 2 pairs of twins, 2 patients and 2 resamples."
        )
    auc_a, auc_b = patient_auc(a, membership), patient_auc(b, membership)
    chosen_RH = half_samples(num_pairs, num_resamples, rng)
    num_patients = auc_a.size
    some: slice | IntArray = slice(None)
    if num_patients > MOST_PATIENTS:
        some = np.sort(rng.choice(num_patients, MOST_PATIENTS, replace=False))
    half_a_RP = half_sample_auc(a[:, some], membership[:, some], chosen_RH)
    half_b_RP = half_sample_auc(b[:, some], membership[:, some], chosen_RH)
    num_seen = half_a_RP.shape[1]
    size = num_pairs // 2
    shrink = size / (num_pairs - size)
    interval = _Intervals(float(stats.norm.ppf(0.5 + confidence / 2.0)), shrink, num_seen / num_patients)
    bootstrap = _bootstrap_quantiles(auc_a, auc_b, quantiles, num_resamples, num_seen, rng)
    difference = auc_a - auc_b
    return PairedDifference(
        mean=interval.of(
            float(difference.mean()),
            float(difference.var(ddof=1)) / num_patients,
            (half_a_RP - half_b_RP) / num_seen,
        ),
        quantiles={
            q: interval.of(
                _quantile(auc_a, q) - _quantile(auc_b, q),
                float(bootstrap[:, place].var(ddof=1)) * num_seen / num_patients,
                _quantile_influence(half_a_RP, q) - _quantile_influence(half_b_RP, q),
                np.quantile(half_a_RP, q, axis=1) - np.quantile(half_b_RP, q, axis=1),
            )
            for place, q in enumerate(quantiles)
        },
        counts={
            t: interval.of(
                float(count_at_least(auc_a, t) - count_at_least(auc_b, t)),
                _count_variance(auc_a, auc_b, t),
                (half_a_RP >= t - 1e-6).astype(np.float32) - (half_b_RP >= t - 1e-6),
                is_count=True,
            )
            for t in thresholds
        },
        num_patients=num_patients,
        num_twin_pairs=num_pairs,
    )


@dataclass(frozen=True)
class _Intervals:
    deviate: float
    shrink: float
    """Variance of a figure over all pairs, per variance over half-samples: k / (H - k)."""
    seen_fraction: float
    """Share of the patients that the half-samples look at."""

    def of(
        self,
        estimate: float,
        patient_variance: float,
        influence_RP: npt.NDArray[np.floating],
        replicate_R: FloatArray | None = None,
        *,
        is_count: bool = False,
    ) -> Difference:
        """Each patient's share of the figure in every half-sample gives the variance over pairs, and the
        shared part. A count grows with the number of patients, other figures are means over them."""
        replicates = influence_RP.sum(axis=1, dtype=np.float64) if replicate_R is None else replicate_R
        pair_variance = self.shrink * float(replicates.var(ddof=1))
        shared = self.shrink * float(influence_RP.var(axis=0, ddof=1, dtype=np.float64).sum())
        common = max(pair_variance - shared, 0.0)
        if self.seen_fraction < 1.0:
            size = 1.0 / self.seen_fraction if is_count else 1.0
            common *= size**2
            pair_variance = common + shared * size**2 * self.seen_fraction
        both = patient_variance + common
        bounds = [
            (estimate - reach, estimate + reach)
            for reach in self.deviate * np.sqrt([patient_variance, pair_variance, both])
        ]
        return Difference(estimate, *((float(low), float(high)) for low, high in bounds))


def half_sample_auc(evidence_MP: FloatArray, membership_MP: BoolArray, chosen_RH: BoolArray) -> npt.NDArray[np.float32]:
    """Return (R, P) float32 patient AUCs of R subsets of the H twin pairs.

    The AUC of a subset is a quadratic form in the 0/1 vector of chosen pairs: the mean, over chosen pairs i
    and j, of "the IN model of pair i scores above the OUT model of pair j". The comparisons are made once,
    all subsets by one product.
    """
    twin = find_twins(membership_MP)
    first = np.flatnonzero(np.arange(twin.size) < twin)
    weights_HR = np.ascontiguousarray(chosen_RH.T, dtype=np.float32)
    size_R = weights_HR.sum(axis=0)
    num_pairs, num_patients = first.size, evidence_MP.shape[1]
    result_RP = np.empty((chosen_RH.shape[0], num_patients), dtype=np.float32)
    step = max(1, _CHUNK_VALUES // (num_pairs * max(num_pairs, chosen_RH.shape[0])))
    for start in range(0, num_patients, step):
        chunk = slice(start, start + step)
        one, two = evidence_MP[first, chunk].T, evidence_MP[twin[first], chunk].T
        first_is_in = membership_MP[first, chunk].T
        inside, outside = np.where(first_is_in, one, two), np.where(first_is_in, two, one)
        above = (inside[:, :, None] > outside[:, None, :]).astype(np.float32)
        above += 0.5 * (inside[:, :, None] == outside[:, None, :])
        product_CHR = (above.reshape(-1, num_pairs) @ weights_HR).reshape(*above.shape[:2], -1)
        product_CHR *= weights_HR
        result_RP[:, chunk] = (product_CHR.sum(axis=1) / size_R**2).T
    return result_RP


def half_samples(num_pairs: int, num_resamples: int, rng: np.random.Generator) -> BoolArray:
    """Return (R, H) bool: random halves of H pairs."""
    base = np.zeros((num_resamples, num_pairs), dtype=np.bool_)
    base[:, : num_pairs // 2] = True
    return rng.permuted(base, axis=1)


def _bootstrap_quantiles(
    auc_a: FloatArray,
    auc_b: FloatArray,
    quantiles: Sequence[float],
    num_resamples: int,
    num_drawn: int,
    rng: np.random.Generator,
) -> FloatArray:
    """(R, Q) differences in samples of `num_drawn` patients (m out of n: Bickel, Goetze & van Zwet 1997)."""
    drawn = np.empty((num_resamples, len(quantiles)))
    for resample in range(num_resamples):
        patients = rng.integers(0, auc_a.size, size=num_drawn)
        drawn[resample] = np.quantile(auc_a[patients], quantiles) - np.quantile(auc_b[patients], quantiles)
    return drawn


def _quantile(values: FloatArray, probability: float) -> float:
    return float(np.quantile(values, probability))


def _quantile_influence(auc_RP: npt.NDArray[np.float32], probability: float) -> npt.NDArray[np.float32]:
    """Each patient's share in the quantile of each half-sample, to first order: -1[below] / (P density)."""
    reach = min(probability, 1.0 - probability) / 2.0
    low, middle, high = np.quantile(auc_RP, [probability - reach, probability, probability + reach], axis=1).mean(
        axis=1
    )
    slope = (high - low) / (2.0 * reach)
    return np.asarray(-(auc_RP <= middle).astype(np.float32) * np.float32(slope / auc_RP.shape[1]))


def _count_variance(auc_a: FloatArray, auc_b: FloatArray, threshold: float) -> float:
    above_a, above_b = auc_a >= threshold - 1e-9, auc_b >= threshold - 1e-9
    only_a, only_b = float((above_a & ~above_b).sum()), float((above_b & ~above_a).sum())
    return only_a + only_b + 1.0 - (only_a - only_b) ** 2 / (auc_a.size + 2.0)
