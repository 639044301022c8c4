"""Whom does an arm protect, whom does it cost: what changes for each group between two arms of the same patients.

Two questions, because DP may lower everybody's risk and yet leave one group behind:

- `fall`: by how much do the patients of a group come down (risk in arm a minus risk in arm b, patient by patient), and
  is that more or less than for all others (`against_others`)? Its p-value is that of permuting group labels over
  patients, whose mean and variance are known exactly; the distribution is taken to be normal (Hoeffding 1951,
  doi 10.1214/aoms/1177729545), which 10 patients and AUCs between 0 and 1 are enough for.
- `relative_change`: does the group's excess among the most exposed 1% of its arm change? The top of each arm holds
  equally many patients, so this is about who they are, not about how exposed they are.

Intervals are paired and about other patients (see `subgroups`); Holm over all reportable groups of all attributes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray
from dptrain.audit.groups import MIN_SIZE, Groups, checked_groups
from dptrain.audit.interval import NOT_ESTIMABLE, Interval, normal_interval
from dptrain.audit.subgroups import check_resamples, group_rates
from dptrain.audit.top_share import (
    expected_sums,
    group_sums,
    holm,
    num_in_top,
    permuted_sums,
    top_weights,
    two_sided_p,
)


@dataclass(frozen=True)
class GroupDifference:
    """What changes for one group from arm b to arm a. NaN everywhere but in the first four fields if not reportable."""

    attribute: str
    group: str
    num_patients: int
    reportable: bool
    fall: Interval
    """Mean of (risk in a - risk in b) over the group's patients; above 0: arm b is safer for them."""
    against_others: Interval
    """`fall` minus that of all other patients; below 0: the group gains less than others from arm b."""
    against_others_p: float
    against_others_p_holm: float
    relative_change: Interval
    """The group's relative change in the top of arm a minus that in arm b."""
    relative_change_p: float
    relative_change_p_holm: float


def subgroup_differences(
    risk_a_P: npt.ArrayLike,
    risk_b_P: npt.ArrayLike,
    groups: Mapping[str, npt.ArrayLike],
    rng: np.random.Generator,
    *,
    top_fraction: float = 0.01,
    strata_P: npt.ArrayLike | None = None,
    min_size: int = MIN_SIZE,
    num_permutations: int = 2000,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[GroupDifference, ...]:
    """Return arm a minus arm b for every group.

    Args:
        risk_a_P, risk_b_P: (P,) patient AUCs of the same patients; those without a risk in either arm are left out.
        strata_P: (P,) strata within which labels are permuted for the p-values; None: all patients.

    The other arguments and the errors are those of `subgroup_risk`.
    """
    risks, coded, stratum, _ = checked_groups([risk_a_P, risk_b_P], groups, strata_P, min_size, num_permutations)
    check_resamples(num_resamples)
    num_top = num_in_top(risks[0].size, top_fraction)
    reportable_G = coded.size_G >= min_size
    weights = [top_weights(risk, num_top) for risk in risks]
    moved_P = weights[0] - weights[1]
    permuted_BG = permuted_sums(coded, moved_P, stratum, num_permutations, rng)
    top_p_G = two_sided_p(group_sums(coded, moved_P), expected_sums(coded, moved_P, stratum), permuted_BG)
    fall_P = risks[0] - risks[1]
    fall_p_G = permutation_p(coded, fall_P, stratum)
    adjusted = [holm(np.where(reportable_G, p_G, np.nan)) for p_G in (fall_p_G, top_p_G)]
    rates = group_rates(risks, coded, num_top, num_resamples, rng)
    change_SBG = rates[0] - rates[1]
    found = []
    for place, names in enumerate(coded.names):
        size = int(coded.size_G[place])
        if not reportable_G[place]:
            nan = float("nan")
            none = NOT_ESTIMABLE
            found.append(GroupDifference(*names, size, False, none, none, nan, nan, none, nan, nan))
            continue
        inside_P = (coded.code_AP == place).any(axis=0)
        scale = risks[0].size / num_top
        found.append(
            GroupDifference(
                *names,
                size,
                True,
                _mean_interval(fall_P[inside_P], confidence),
                _against(fall_P[inside_P], fall_P[~inside_P], confidence),
                float(fall_p_G[place]),
                float(adjusted[0][place]),
                _scaled(_rate_difference(moved_P, inside_P, change_SBG[:, :, place], confidence), scale),
                float(top_p_G[place]),
                float(adjusted[1][place]),
            )
        )
    return tuple(found)


def permutation_p(groups: Groups, value_P: FloatArray, stratum_P: IntArray) -> FloatArray:
    """Return (G,) two-sided p-values of the groups' sums if labels are permuted within strata; 1 if nothing can vary.

    Mean and variance of the permutation distribution are exact, its shape is taken to be normal.
    """
    num_strata = int(stratum_P.max()) + 1
    size_S = np.bincount(stratum_P, minlength=num_strata)
    mean_S = np.bincount(stratum_P, weights=value_P) / np.maximum(size_S, 1)
    squares_S = np.bincount(stratum_P, weights=(value_P - mean_S[stratum_P]) ** 2)
    cell_AP = groups.code_AP * num_strata + stratum_P
    inside_GS = np.bincount(cell_AP.ravel(), minlength=groups.num_groups * num_strata).reshape(-1, num_strata)
    variance_S = squares_S / np.maximum(size_S - 1, 1)
    variance_G = (inside_GS * (1.0 - inside_GS / np.maximum(size_S, 1))) @ variance_S
    distance_G = group_sums(groups, value_P) - inside_GS @ mean_S
    z_G = np.where(variance_G > 0.0, distance_G / np.sqrt(np.where(variance_G > 0.0, variance_G, 1.0)), 0.0)
    return np.asarray(2.0 * stats.norm.sf(np.abs(z_G)), dtype=np.float64)


def _mean_interval(value_P: FloatArray, confidence: float) -> Interval:
    if value_P.size < 2:
        return NOT_ESTIMABLE
    error = float(value_P.std(ddof=1)) / float(np.sqrt(value_P.size))
    return normal_interval(float(value_P.mean()), error, confidence, value_P.size - 1)


def _against(inside_P: FloatArray, outside_P: FloatArray, confidence: float) -> Interval:
    """Difference of two means, Welch's interval."""
    if inside_P.size < 2 or outside_P.size < 2:
        return NOT_ESTIMABLE
    parts = [float(values.var(ddof=1)) / values.size for values in (inside_P, outside_P)]
    difference, variance = float(inside_P.mean() - outside_P.mean()), sum(parts)
    if variance == 0.0:
        return Interval(difference, difference, difference)
    df = variance**2 / (parts[0] ** 2 / (inside_P.size - 1) + parts[1] ** 2 / (outside_P.size - 1))
    return normal_interval(difference, variance**0.5, confidence, df)


def _rate_difference(moved_P: FloatArray, inside_P: BoolArray, change_SB: FloatArray, confidence: float) -> Interval:
    """Difference of the fractions of a group that are in the top, paired.

    The error is the bootstrap's; as in `matched`, one patient more is thought to have moved, so that no movement among
    a few is not certainty (Agresti & Min 2005). Of a group with more than half of the patients the others are counted.
    """
    size, num_patients = int(inside_P.sum()), moved_P.size
    if size == num_patients:
        return Interval(0.0, 0.0, 0.0)
    if 2 * size > num_patients:
        rest = (num_patients - size) / size
        others = _rate_difference(moved_P, ~inside_P, change_SB[::-1], confidence)
        return Interval(-others.value * rest, -others.high * rest, -others.low * rest)
    moved = moved_P[inside_P]
    up, down = float(np.maximum(moved, 0.0).sum()), float(np.maximum(-moved, 0.0).sum())
    plain = up + down - (up - down) ** 2 / size
    wider = up + down + 1.0 - (up - down) ** 2 / (size + 2.0)
    effect = min(max(float(change_SB[0].var(ddof=1)) * size**2 / plain, 0.1), 4.0) if plain > 0.0 else 1.0
    return normal_interval((up - down) / size, float(np.sqrt(effect * wider)) / size, confidence)


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)
