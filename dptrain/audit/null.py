"""The null: what the same estimator shows when nothing leaks.

With few models chance alone lifts some patients to a high AUC (2 in 100 patients to 0.8 with 16 models). So
every count of exposed patients needs the count expected under no leakage, for the same models, patients and
records. It comes from permuting *whole patients*: for each patient, independently, the two twins of a pair
swap places with probability 1/2. Without leakage the membership was a coin that the models did not listen to,
so each such design was as likely as the one that was run, and the permutation distribution is exact whatever
the distribution of the signals, even if some models are generally more confident than others.

A fleet that is not made of twins: each patient's memberships are shuffled over all models, keeping the number
of IN models (for a patient without ties, AUCs are drawn from the exact distribution). This is exact if
memberships were drawn by independent coins and models are alike apart from their training patients; it is
approximate if every model has a fixed number of patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray, checked_membership
from dptrain.attacks.twins import find_twins
from dptrain.audit.patients import patient_ranks
from dptrain.audit.rank_sum import MOST_MODELS, mann_whitney_probabilities

_BINS_PER_UNIT = 2000
"""AUCs are counted on a grid of step 0.0005."""

_CHUNK_VALUES = 1 << 21


@dataclass(frozen=True)
class NullSummary:
    """A statistic over permutations: mean and central 95%."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class NullDistribution:
    """Patient AUCs without leakage, over B permutations, summarised on a grid of step 0.0005 (size free of
    P)."""

    num_permutations: int
    num_patients: int
    """Patients with at least one IN and one OUT model."""
    num_models: int
    thresholds_T: FloatArray
    """AUC thresholds 0, 0.005, ..., 1 of the survival curve."""
    survival_mean_T: FloatArray
    """Mean fraction of patients with an AUC at or above the threshold."""
    survival_low_T: FloatArray
    """Pointwise 2.5% quantile over permutations."""
    survival_high_T: FloatArray
    """Pointwise 97.5% quantile over permutations."""
    mean: NullSummary
    median: NullSummary
    p99: NullSummary
    maximum: NullSummary
    at_least_BT: IntArray
    """(B, 2001) number of patients with an AUC at or above 0, 0.0005, ..., 1 in each permutation."""

    def expected_count(self, threshold: float) -> float:
        """Return the mean number of patients with an AUC at or above `threshold`."""
        return float(self.counts(threshold).mean())

    def count_sd(self, threshold: float) -> float:
        """Return the standard deviation over permutations of that number."""
        return float(self.counts(threshold).std(ddof=1)) if self.num_permutations > 1 else float("nan")

    def counts(self, threshold: float) -> IntArray:
        """Return (B,) that number in each permutation; the threshold is rounded down to the grid
        (conservative)."""
        return np.asarray(self.at_least_BT[:, int(_bins(np.array([threshold]))[0])])

    def p_values(self, patient_auc_P: npt.ArrayLike) -> FloatArray:
        """Return (P,) one-sided p-values (1 + #null >= observed) / (1 + B P); NaN where the AUC is NaN.

        The null AUCs of all patients are pooled, so p-values reach down to 1 / (1 + B P). They are valid on
        average over patients, which is what a list with a false discovery rate needs.
        """
        observed = np.asarray(patient_auc_P, dtype=np.float64)
        total_T = self.at_least_BT.sum(axis=0, dtype=np.int64)
        known = np.isfinite(observed)
        place = _bins(np.where(known, observed, 0.0))
        pooled = (1.0 + total_T[place]) / (1.0 + self.num_permutations * self.num_patients)
        return np.where(known, pooled, np.nan)


def null_patient_auc(
    evidence_MP: npt.ArrayLike, membership_MP: npt.ArrayLike, num_permutations: int, rng: np.random.Generator
) -> NullDistribution:
    """Return the distribution of all patients' AUCs under no leakage.

    Equal to applying `patient_auc` to every design of `permuted_memberships`, but ranks are computed once:
    swapping a pair of twins moves a patient's rank sum by the difference of the pair's ranks, and the sums
    over all swaps of eight pairs are looked up in a table.

    Args:
        evidence_MP: (M, P) `patient_evidence`; it must not depend on the memberships, or it would have to be
        recomputed. membership_MP: (M, P) bool. num_permutations: B, at least 1; 200 for the bands, more for
        fine p-values. rng: drawn from by this function only.

    Raises:
        ValueError: shapes that do not fit, no permutation, or no patient with both IN and OUT models.
    """
    return null_of_ranks(patient_ranks(evidence_MP), membership_MP, num_permutations, rng)


def null_of_ranks(
    ranks_MP: FloatArray, membership_MP: npt.ArrayLike, num_permutations: int, rng: np.random.Generator
) -> NullDistribution:
    """As `null_patient_auc`, from the `patient_ranks` of the evidence."""
    ranks = ranks_MP
    membership = checked_membership(membership_MP, (ranks.shape[0], ranks.shape[1]))
    _check_permutations(num_permutations)
    num_models = membership.shape[0]
    pairs = _pairs(membership)
    num_in_P = membership.sum(axis=0)
    usable = np.flatnonzero((num_in_P > 0) & (num_in_P < num_models))
    if usable.size == 0:
        raise ValueError("membership: no patient is in some models and not in others; there is nothing to permute.")
    num_bins = _BINS_PER_UNIT + 1
    histogram = np.zeros(num_permutations * num_bins, dtype=np.int64)
    offset_B = np.arange(num_permutations) * num_bins
    auc_sum_B = np.zeros(num_permutations)
    num_usable = usable.size
    if pairs is None and num_models <= MOST_MODELS:
        whole = num_models * (num_models + 1) * (2 * num_models + 1) // 6
        untied = np.einsum("mp,mp->p", ranks, ranks)[usable] == whole
        drawn = _drawn_counts(num_in_P[usable[untied]], num_models, num_permutations, rng)
        histogram += drawn[0].ravel()
        auc_sum_B += drawn[1]
        usable = usable[~untied]
    width = num_permutations * (1 if pairs is not None else num_models)
    step = max(1, _CHUNK_VALUES // max(width, 16 * num_models))
    for start in range(0, usable.size, step):
        chunk = usable[start : start + step]
        ranks_CM = np.ascontiguousarray(ranks[:, chunk].T)
        num_in = num_in_P[chunk].astype(np.float64)
        if pairs is None:
            rank_sum_CB = _shuffled_rank_sums(ranks_CM, num_in_P[chunk], num_permutations, rng)
        else:
            rank_sum_CB = _swapped_rank_sums(ranks_CM[:, pairs[0]], ranks_CM[:, pairs[1]], num_permutations, rng)
        smallest, cells = num_in * (num_in + 1.0) / 2.0, num_in * (num_models - num_in)
        auc_CB = (rank_sum_CB - smallest[:, None]) / cells[:, None]
        auc_sum_B += auc_CB.sum(axis=0)
        histogram += np.bincount((_bins(auc_CB) + offset_B).ravel(), minlength=histogram.size)
    return _summarise(histogram.reshape(num_permutations, num_bins), auc_sum_B, num_usable, num_models)


def permuted_memberships(
    membership_MP: npt.ArrayLike, num_permutations: int, rng: np.random.Generator
) -> Iterator[BoolArray]:
    """Yield `num_permutations` (M, P) memberships as likely as the given one if nothing leaks (see the
    module's top).

    For estimators that use the memberships more than once, such as `patient_attack_auc`, and so must be
    recomputed.

    Raises:
        ValueError: not a bool matrix, or no permutation.
    """
    raw = np.asarray(membership_MP)
    if raw.ndim != 2:
        raise ValueError(f"membership.shape={raw.shape} must be (models, patients).")
    membership = checked_membership(raw, (raw.shape[0], raw.shape[1]))
    _check_permutations(num_permutations)
    pairs = _pairs(membership)
    for _ in range(num_permutations):
        if pairs is None:
            yield rng.permuted(membership, axis=0)
        else:
            permuted = membership.copy()
            swap = rng.integers(0, 2, size=(pairs[0].size, membership.shape[1]), dtype=np.uint8).astype(np.bool_)
            permuted[pairs[0]] ^= swap
            permuted[pairs[1]] ^= swap
            yield permuted


def _pairs(membership: BoolArray) -> tuple[IntArray, IntArray] | None:
    """Return the first and second models of all twin pairs, or None unless every model has a twin."""
    twin = find_twins(membership)
    if np.any(twin < 0):
        return None
    first = np.flatnonzero(np.arange(twin.size) < twin)
    return first, twin[first]


def _swapped_rank_sums(
    first_CH: FloatArray, second_CH: FloatArray, num_permutations: int, rng: np.random.Generator
) -> FloatArray:
    num_patients, num_pairs = first_CH.shape
    num_groups = -(-num_pairs // 8)
    gain = np.zeros((num_patients, num_groups * 8))
    gain[:, :num_pairs] = second_CH - first_CH
    bits = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(np.float64)
    table_CG = gain.reshape(num_patients, num_groups, 8) @ bits.T
    coins = rng.integers(0, 256, size=(num_groups, num_patients, num_permutations), dtype=np.uint8)
    total = np.repeat(first_CH.sum(axis=1)[:, None], num_permutations, axis=1)
    for group in range(num_groups):
        total += np.take_along_axis(table_CG[:, group], coins[group].astype(np.intp), axis=1)
    return total


def _shuffled_rank_sums(
    ranks_CM: FloatArray, num_in_C: IntArray, num_permutations: int, rng: np.random.Generator
) -> FloatArray:
    num_patients, num_models = ranks_CM.shape
    repeated = np.repeat(ranks_CM, num_permutations, axis=0)
    shuffled = rng.permuted(repeated, axis=1).reshape(num_patients, num_permutations, num_models)
    chosen = (np.arange(num_models) < num_in_C[:, None]).astype(np.float64)
    return np.asarray(np.einsum("cbm,cm->cb", shuffled, chosen), dtype=np.float64)


def _drawn_counts(
    num_in_P: IntArray, num_models: int, num_permutations: int, rng: np.random.Generator
) -> tuple[IntArray, FloatArray]:
    """Return (B, 2001) counts on the grid and (B,) sums of AUCs of patients without ties, shuffled B times.

    Drawn from the exact distribution, so the time does not grow with the number of patients.
    """
    num_bins = _BINS_PER_UNIT + 1
    counts_BT = np.zeros((num_permutations, num_bins), dtype=np.int64)
    auc_sum_B = np.zeros(num_permutations)
    if num_in_P.size == 0:
        return counts_BT, auc_sum_B
    probabilities = mann_whitney_probabilities(num_models, int(num_in_P.max()))
    for num_in in np.unique(num_in_P):
        auc_U = np.arange(probabilities[num_in].size) / (num_in * (num_models - num_in))
        bin_U = _bins(auc_U)
        share_T = np.bincount(bin_U, weights=probabilities[num_in], minlength=num_bins)
        mean_T = np.bincount(bin_U, weights=probabilities[num_in] * auc_U, minlength=num_bins)
        drawn_BT = rng.multinomial(int((num_in_P == num_in).sum()), share_T / share_T.sum(), size=num_permutations)
        counts_BT += drawn_BT
        auc_sum_B += drawn_BT @ (mean_T / np.where(share_T > 0.0, share_T, 1.0))
    return counts_BT, auc_sum_B


def _bins(auc: FloatArray) -> IntArray:
    # The nudge keeps an AUC that is a grid point up to rounding at or above that point.
    return np.floor(auc * _BINS_PER_UNIT + 1e-6).astype(np.int64)


def _summarise(histogram_BT: IntArray, auc_sum_B: FloatArray, num_patients: int, num_models: int) -> NullDistribution:
    at_least = histogram_BT[:, ::-1].cumsum(axis=1)[:, ::-1]
    grid = np.arange(0, _BINS_PER_UNIT + 1, 10)
    survival = at_least[:, grid] / num_patients
    low, high = np.quantile(survival, [0.025, 0.975], axis=0)
    return NullDistribution(
        num_permutations=histogram_BT.shape[0],
        num_patients=num_patients,
        num_models=num_models,
        thresholds_T=grid / _BINS_PER_UNIT,
        survival_mean_T=survival.mean(axis=0),
        survival_low_T=low,
        survival_high_T=high,
        mean=_null_summary(auc_sum_B / num_patients),
        median=_null_summary(_quantile(at_least, 0.5)),
        p99=_null_summary(_quantile(at_least, 0.99)),
        maximum=_null_summary(_quantile(at_least, 1.0)),
        at_least_BT=at_least.astype(np.int32 if num_patients < 2**31 else np.int64),
    )


def _quantile(at_least_BT: IntArray, probability: float) -> FloatArray:
    """Return (B,) the smallest grid AUC with at least `probability` of the patients at or below it."""
    num_patients = at_least_BT[:, 0]
    above = np.concatenate([at_least_BT[:, 1:], np.zeros((at_least_BT.shape[0], 1), dtype=np.int64)], axis=1)
    allowed = np.floor(num_patients * (1.0 - probability) + 1e-9)
    return np.asarray(np.argmax(above <= allowed[:, None], axis=1) / _BINS_PER_UNIT, dtype=np.float64)


def _null_summary(values_B: FloatArray) -> NullSummary:
    low, high = np.quantile(values_B, [0.025, 0.975])
    return NullSummary(float(values_B.mean()), float(low), float(high))


def _check_permutations(num_permutations: int) -> None:
    if num_permutations < 1:
        raise ValueError(f"num_permutations={num_permutations} must be at least 1; 200 is usual.")
