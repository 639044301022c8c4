"""Whose risk is it: are the most exposed 1% of *patients* spread over the groups as all patients are?

Per group (Knolle et al. 2026, Nature 656, 192-198, for the questions): its share of the top against its share of all,
as relative change and as Pearson residual; a p-value by permuting group labels over patients (records of a patient are
not independent), Holm over all groups of all attributes; effect sizes with intervals; the size of groups against their
residuals; and the same with labels permuted within strata, such as the diagnosis: a group whose excess vanishes there
is exposed through its case mix.

Groups under `min_size` patients are kept and flagged (`reportable` is False), and none of their figures is given; they
are no tests for Holm. Intervals are about other patients from the same source with models trained anew (why patients
alone need to be resampled: see `counts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray
from dptrain.audit.groups import MIN_SIZE, Groups, checked_groups
from dptrain.audit.interval import NOT_ESTIMABLE, Interval, area_interval, jeffreys_interval
from dptrain.audit.top_share import (
    bootstrap_rates,
    expected_sums,
    group_sums,
    holm,
    num_in_top,
    permuted_sums,
    top_weights,
    two_sided_p,
)


@dataclass(frozen=True)
class Excess:
    """A group's number in the top beside the number expected if group did not matter."""

    expected: float
    relative_change: float
    """Number in the top over the number expected, minus 1; 0 is no excess, 1 is twice as many."""
    pearson_residual: float
    """(observed - expected) / sqrt(expected)."""
    p: float
    """Two-sided, by permutation."""
    p_holm: float
    """Adjusted for all reportable groups of all attributes."""


@dataclass(frozen=True)
class GroupRisk:
    """One group of one attribute. NaN everywhere but in the first four fields if it is not reportable."""

    attribute: str
    group: str
    num_patients: int
    reportable: bool
    """False for fewer than `min_size` patients: print "not reported (n<10)"."""
    share: float
    """Of all patients."""
    share_in_top: float
    """Of the patients in the top."""
    num_in_top: float
    """Not whole where patients are tied at the cut."""
    excess: Excess
    """Against all patients."""
    excess_in_strata: Excess | None
    """Against patients of the same stratum; None without strata."""
    relative_change: Interval
    """`excess.relative_change` with its bootstrap interval."""
    higher: Interval
    """Probability that a patient of the group has a higher risk than one outside it, ties half; 0.5 is no effect."""


@dataclass(frozen=True)
class SubgroupRisk:
    """All groups of all attributes in one arm."""

    groups: tuple[GroupRisk, ...]
    num_patients: int
    """With a risk (patients whose risk is NaN are left out)."""
    num_in_top: int
    size_correlation: float
    """Spearman's correlation of size and Pearson residual over reportable groups; negative: small groups are exposed
    more. NaN with fewer than 3."""
    size_p: float
    """Two-sided, from the same permutations: groups of an attribute share one top, so they are not independent."""


def subgroup_risk(
    risk_P: npt.ArrayLike,
    groups: Mapping[str, npt.ArrayLike],
    rng: np.random.Generator,
    *,
    top_fraction: float = 0.01,
    strata_P: npt.ArrayLike | None = None,
    min_size: int = MIN_SIZE,
    num_permutations: int = 2000,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> SubgroupRisk:
    """Return how the most exposed patients are spread over groups.

    Args:
        risk_P: (P,) patient AUC or another risk; NaN patients are left out.
        groups: (P,) group of every patient, by attribute; a missing value is a group like any other.
        rng: drawn from by this function only.
        top_fraction: how many patients are called most exposed.
        strata_P: (P,) strata of the control, for example the label; None: no control.
        min_size: fewest patients of a reportable group.
        num_permutations, num_resamples: of p-values and of intervals.
        confidence: of the intervals.

    Raises:
        ValueError: arrays that do not fit, no patient with a risk, or fewer than 20 permutations or resamples.
    """
    risk, coded, stratum, known = checked_groups([risk_P], groups, strata_P, min_size, num_permutations)
    check_resamples(num_resamples)
    num_top = num_in_top(risk[0].size, top_fraction)
    weight_P = top_weights(risk[0], num_top)
    reportable_G = coded.size_G >= min_size
    everybody = np.zeros(risk[0].size, dtype=np.int64)
    overall, permuted_BG = _excesses(coded, weight_P, everybody, reportable_G, num_permutations, rng)
    in_strata = None
    if strata_P is not None:
        in_strata, _ = _excesses(coded, weight_P, stratum, reportable_G, num_permutations, rng)
    rates = group_rates([risk[0]], coded, num_top, num_resamples, rng)[0]
    counts_G = group_sums(coded, weight_P)
    found = [
        _group(coded, place, risk[0], counts_G, num_top, overall, in_strata, rates, confidence)
        if reportable_G[place]
        else _unreported(coded, place, strata_P is not None)
        for place in range(coded.num_groups)
    ]
    correlation, p = _size_correlation(coded, counts_G, permuted_BG, num_top, reportable_G)
    return SubgroupRisk(tuple(found), int(known.sum()), num_top, correlation, p)


def check_resamples(num_resamples: int) -> None:
    """Raises ValueError for fewer than 20."""
    if num_resamples < 20:
        raise ValueError(f"num_resamples={num_resamples} must be at least 20; 1000 is usual.")


def group_rates(
    risks: list[FloatArray], coded: Groups, num_top: int, num_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return (R, 2, B, G) `bootstrap_rates` of all attributes."""
    rates = []
    for code_P in coded.code_AP:
        rates.append(bootstrap_rates(risks, code_P - code_P.min(), num_top, num_resamples, rng))
    return np.concatenate(rates, axis=3)


def _excesses(
    coded: Groups,
    weight_P: FloatArray,
    stratum_P: IntArray,
    reportable_G: BoolArray,
    num_permutations: int,
    rng: np.random.Generator,
) -> tuple[list[Excess], FloatArray]:
    counts_G, expected_G = group_sums(coded, weight_P), expected_sums(coded, weight_P, stratum_P)
    permuted_BG = permuted_sums(coded, weight_P, stratum_P, num_permutations, rng)
    p_G = two_sided_p(counts_G, expected_G, permuted_BG)
    holm_G = holm(np.where(reportable_G, p_G, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        change_G, residual_G = counts_G / expected_G - 1.0, (counts_G - expected_G) / np.sqrt(expected_G)
    rows = zip(expected_G, change_G, residual_G, p_G, holm_G, strict=True)
    return [Excess(*(float(value) for value in row)) for row in rows], permuted_BG


def _group(
    coded: Groups,
    place: int,
    risk_P: FloatArray,
    counts_G: FloatArray,
    num_top: int,
    overall: list[Excess],
    in_strata: list[Excess] | None,
    rates_SBG: FloatArray,
    confidence: float,
) -> GroupRisk:
    size, count = int(coded.size_G[place]), float(counts_G[place])
    fraction = num_top / risk_P.size
    rate = _rate_interval(count, size, num_top, risk_P.size, rates_SBG[:, :, place], confidence)
    return GroupRisk(
        *coded.names[place],
        num_patients=size,
        reportable=True,
        share=size / risk_P.size,
        share_in_top=count / num_top,
        num_in_top=count,
        excess=overall[place],
        excess_in_strata=None if in_strata is None else in_strata[place],
        relative_change=Interval(*(end / fraction - 1.0 for end in (rate.value, rate.low, rate.high))),
        higher=_superiority(risk_P, (coded.code_AP == place).any(axis=0), confidence),
    )


def _rate_interval(
    count: float, size: int, num_top: int, num_patients: int, rates_SB: FloatArray, confidence: float
) -> Interval:
    """Return the fraction of a group that is in the top: Jeffreys' interval with the bootstrap's effective sample size.

    The bootstrap knows that the cut moves with the group (a group of everybody is always in the top by exactly the
    top fraction); the binomial knows that 0 of 300 is not certainty (after Korn & Graubard 1998, for surveys). A group
    of more than half of the patients has what the others leave of the top: with nine tenths of the patients and all of
    the top it is the absence of the others that is uncertain.
    """
    if size == num_patients:
        return Interval(count / size, count / size, count / size)
    if 2 * size > num_patients:
        rest = num_patients - size
        others = _rate_interval(max(num_top - count, 0.0), rest, num_top, num_patients, rates_SB[::-1], confidence)
        low, high = ((num_top - rest * end) / size for end in (others.high, others.low))
        return Interval(count / size, max(low, 0.0), high)
    binomial = count * (size - count) / size**3
    effect = float(rates_SB[0].var(ddof=1)) / binomial if binomial > 0.0 else 1.0
    effective = size / min(max(effect, 0.1), 4.0)
    return jeffreys_interval(min(count / size, 1.0) * effective, effective, confidence)


def _superiority(risk_P: FloatArray, inside_P: BoolArray, confidence: float) -> Interval:
    """Probability of a higher risk inside, with DeLong's error (1988) on the logit scale."""
    num_in, num_out = int(inside_P.sum()), int((~inside_P).sum())
    if num_in < 2 or num_out < 2:
        return NOT_ESTIMABLE
    rank_P = stats.rankdata(risk_P)
    placement_in = (rank_P[inside_P] - stats.rankdata(risk_P[inside_P])) / num_out
    placement_out = 1.0 - (rank_P[~inside_P] - stats.rankdata(risk_P[~inside_P])) / num_in
    area = float(placement_in.mean())
    error = float(np.sqrt(placement_in.var(ddof=1) / num_in + placement_out.var(ddof=1) / num_out))
    return area_interval(area, error, confidence)


def _unreported(coded: Groups, place: int, has_strata: bool) -> GroupRisk:
    nan = float("nan")
    none = Excess(nan, nan, nan, nan, nan)
    return GroupRisk(
        *coded.names[place],
        num_patients=int(coded.size_G[place]),
        reportable=False,
        share=nan,
        share_in_top=nan,
        num_in_top=nan,
        excess=none,
        excess_in_strata=none if has_strata else None,
        relative_change=NOT_ESTIMABLE,
        higher=NOT_ESTIMABLE,
    )


def _size_correlation(
    coded: Groups, counts_G: FloatArray, permuted_BG: FloatArray, num_top: int, reportable_G: BoolArray
) -> tuple[float, float]:
    some = np.flatnonzero(reportable_G)
    if some.size < 3 or np.ptp(coded.size_G[some]) == 0:
        return float("nan"), float("nan")
    expected = coded.size_G[some] * num_top / coded.code_AP.shape[1]
    size_rank = stats.rankdata(coded.size_G[some])
    size_rank = (size_rank - size_rank.mean()) / size_rank.std()
    residual = (np.vstack([counts_G[some], permuted_BG[:, some]]) - expected) / np.sqrt(expected)
    rank = stats.rankdata(np.round(residual, 9), axis=1)
    rank -= rank.mean(axis=1, keepdims=True)
    spread = np.maximum(rank.std(axis=1), 1e-300)
    correlation = np.where(spread > 1e-12, rank @ size_rank / some.size / spread, 0.0)
    # Small groups are skewed, so the correlation is not centred at 0 by chance: p is measured from chance's own mean.
    distance = np.abs(correlation - correlation[1:].mean())
    hits = int((distance[1:] >= distance[0] - 1e-9).sum())
    return float(correlation[0]), (1.0 + hits) / correlation.size
