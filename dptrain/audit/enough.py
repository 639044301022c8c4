"""How many models are enough: how sure a headline is with the models at hand, and how many would make it surer.

The interval of a headline here is about *other models on other random halves of these patients*: the part that more
models shrink. It comes from leaving out one of up to ten groups of twin pairs at a time (jackknife; Quenouille, Tukey),
so twins stay together. How sure a *patient's* place in the list is, is another question: `stability` measures it on
disjoint parts of the fleet and foretells it for larger ones.

A headline of measured AUCs has a value of its own for every number of models (noise lifts the upper tail): its interval
says how well that value is known, not how far it is from the one of infinitely many models.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray, checked_matrix, checked_membership
from dptrain.audit.interval import NOT_ESTIMABLE, Interval
from dptrain.audit.patients import patient_auc
from dptrain.audit.roc import clopper_pearson
from dptrain.audit.screening import spearman_interval

GROUPS = 10
DRAWS = 5
TOP_FRACTION = 0.01
Headline = Callable[[FloatArray], float]
"""(P,) patient AUCs -> figure."""


def p99(auc_P: FloatArray) -> float:
    """The 99th percentile over patients."""
    return float(np.nanquantile(auc_P, 0.99))


def fraction_at_least(threshold: float) -> Headline:
    """The fraction of patients whose AUC is at or above a threshold."""

    def fraction(auc_P: FloatArray) -> float:
        return float((auc_P[np.isfinite(auc_P)] >= threshold - 1e-9).mean())

    return fraction


def headline_interval(
    evidence_MP: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    pair_M: npt.ArrayLike,
    headline: Headline,
    confidence: float = 0.95,
) -> Interval:
    """Return a headline of the patient AUCs with its interval over models; not estimable below 4 twin pairs.

    Args:
        evidence_MP: (M, P) as in `patient_auc`.
        membership_MP: (M, P) bool.
        pair_M: (M,) which models are twins.
        headline: of the patient AUCs.
        confidence: of the interval.

    Raises:
        ValueError: shapes that do not fit.
    """
    evidence, membership, pair, num_pairs = _checked(evidence_MP, membership_MP, pair_M)
    if num_pairs < 4:
        return NOT_ESTIMABLE
    num_groups = min(GROUPS, num_pairs)
    group = pair % num_groups
    left_out = np.array(
        [headline(patient_auc(evidence[group != one], membership[group != one])) for one in range(num_groups)]
    )
    error = float(np.sqrt((num_groups - 1) / num_groups * np.square(left_out - left_out.mean()).sum()))
    value = headline(patient_auc(evidence, membership))
    reach = float(stats.t.ppf(0.5 + confidence / 2.0, num_groups - 1)) * error
    return Interval(value, value - reach, value + reach)


def p99_interval(
    evidence_MP: npt.ArrayLike, membership_MP: npt.ArrayLike, pair_M: npt.ArrayLike, confidence: float = 0.95
) -> Interval:
    """Return `headline_interval` of the 99th percentile.

    Where no spread is seen (the patients there have an AUC of exactly 1 whichever group is left out), models bound it
    from one side only: the interval then reaches down by what none of n models in the wrong order leaves open (Clopper
    & Pearson), n being the models on one side.
    """
    found = headline_interval(evidence_MP, membership_MP, pair_M, p99, confidence)
    if not found.estimable or found.high > found.low:
        return found
    open_end = clopper_pearson(0, np.asarray(membership_MP).shape[0] // 2, confidence)[1]
    return Interval(found.value, max(0.0, found.value - open_end), found.high)


def is_resolvable(num_models: int, num_patients: int, threshold: float) -> bool:
    """Return whether chance alone is expected to lift at most one patient over the threshold (normal approximation of
    the rank statistic, half of the models IN)."""
    half = num_models / 2.0
    spread = np.sqrt((2.0 * half + 1.0) / (12.0 * half**2))
    return bool(num_patients * stats.norm.sf((threshold - 0.5) / spread) <= 1.0)


def models_needed(num_models: int, width: float, wanted: float) -> int:
    """Return how many models would make an interval of `width` as narrow as `wanted`, if it shrinks with the root of
    their number; even.

    Raises:
        ValueError: a width that is not positive.
    """
    if not wanted > 0.0:
        raise ValueError(f"wanted={wanted} must be a width > 0.")
    needed = num_models if width <= wanted else num_models * (width / wanted) ** 2
    return int(2 * np.ceil(needed / 2.0 - 1e-9))


@dataclass(frozen=True)
class Stability:
    """Agreement of two fleets of `num_models` models each on who is exposed."""

    num_models: int
    standard_error: float
    """Of one patient's AUC: root mean square over patients of the differences between two such fleets, over sqrt 2."""
    reliability: float
    """Spearman's correlation of the patient AUCs of two such fleets."""
    overlap: float
    """Of the top 1% of patients by one fleet, the fraction that is in the top 1% of the other; NaN where foretold."""
    is_measured: bool
    """False: foretold from the largest that was measured (error with the root of the number; Spearman & Brown)."""


def stability(
    evidence_MP: npt.ArrayLike, membership_MP: npt.ArrayLike, pair_M: npt.ArrayLike, rng: np.random.Generator
) -> tuple[Stability, ...]:
    """Return what two fleets of M/4 and M/2 models agree on, measured on disjoint parts, and what is foretold for M, 2M
    and 4M. Empty below 8 twin pairs.

    Args:
        evidence_MP, membership_MP, pair_M: as in `headline_interval`.
        rng: for the parts; means over 5 draws.

    Raises:
        ValueError: shapes that do not fit.
    """
    evidence, membership, pair, num_pairs = _checked(evidence_MP, membership_MP, pair_M)
    if num_pairs < 8:
        return ()
    found = [_measured(evidence, membership, pair, num_pairs // share, rng) for share in (4, 2)]
    last = found[-1]
    for times in (1, 2, 4):
        size = times * 2 * num_pairs
        ratio = size / last.num_models
        if last.reliability > 0:
            reliability = ratio * last.reliability / (1.0 + (ratio - 1.0) * last.reliability)
        else:
            reliability = last.reliability
        found.append(Stability(size, last.standard_error / ratio**0.5, reliability, float("nan"), False))
    return tuple(found)


def _measured(
    evidence: FloatArray, membership: BoolArray, pair: IntArray, num_pairs: int, rng: np.random.Generator
) -> Stability:
    errors, correlations, overlaps = [], [], []
    for _ in range(DRAWS):
        order = rng.permutation(int(pair.max()) + 1)
        sides = [np.isin(pair, order[start : start + num_pairs]) for start in (0, num_pairs)]
        first, second = (patient_auc(evidence[side], membership[side]) for side in sides)
        known = np.isfinite(first) & np.isfinite(second)
        first, second = first[known], second[known]
        errors.append(np.mean(np.square(first - second)) / 2.0)
        correlations.append(spearman_interval(first, second).value)
        count = max(1, int(np.ceil(TOP_FRACTION * first.size)))
        # Ties (many patients with an AUC of 1 when models are few) are broken at random: by position both would agree.
        tops = [set(np.lexsort((rng.random(one.size), -one))[:count].tolist()) for one in (first, second)]
        overlaps.append(len(tops[0] & tops[1]) / count)
    return Stability(
        2 * num_pairs, float(np.sqrt(np.mean(errors))), float(np.mean(correlations)), float(np.mean(overlaps)), True
    )


def _checked(
    evidence_MP: npt.ArrayLike, membership_MP: npt.ArrayLike, pair_M: npt.ArrayLike
) -> tuple[FloatArray, BoolArray, IntArray, int]:
    evidence = checked_matrix(evidence_MP, "evidence")
    membership = checked_membership(membership_MP, (evidence.shape[0], evidence.shape[1]))
    pair = np.unique(np.asarray(pair_M), return_inverse=True)[1].astype(np.int64)
    if pair.shape != (evidence.shape[0],):
        raise ValueError(f"pair.shape={pair.shape} must be ({evidence.shape[0]},), one number per model.")
    return evidence, membership, pair, int(pair.max()) + 1
