"""RMIA, the robust membership inference attack: is the model surer of this record than its references are, and than
it is of patients that no model has seen?

Zarifzadeh, Liu & Shokri 2024, "Low-Cost High-Power Membership Inference Attacks" (arXiv 2312.03262). The likelihood
ratio of record x against a population record z is (p_x / pr_x) / (p_z / pr_z): p is the target's probability of the
true label, pr the same averaged over models with and without the record. Two scores are made of it:

- ``log_ratio`` (used for ranking): log(p_x / pr_x) minus its mean over the population (InfoRMIA: Tao & Shokri 2025,
  arXiv 2510.05582: information gain plus the divergence of the population). Continuous; a patient's records add up.
- ``fraction`` (the classic score): the share of population records with ratio >= gamma. Nearly always tied.

Three attackers:

- online: pr_x = (mean_in + mean_out) / 2 over references with and without x.
- offline: references without x only; mean_in is taken to be a mean_out + (1 - a). `a` is chosen on held-out
  references: the units (pairs of twins) are cut into two sets, and the `a` for targets of one set makes the best
  attack on models of the other, with references from that other set alone.
- one reference: a single reference model, whose membership the attacker knows, and which also gives `a`.

Each target's references are all models except itself and its twin. Population records must be OUT of every model and
belong to patients who are not audited; arrays cannot show that, the caller must see to it. Time is
O(MN + T (N + Z) log Z), memory O(N + Z) beside inputs and result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import (
    BoolArray,
    FloatArray,
    Floats,
    IntArray,
    checked_floats,
    checked_membership,
    checked_targets,
)
from dptrain.attacks.reference_means import reference_means
from dptrain.attacks.twins import model_units

Score = Literal["log_ratio", "fraction"]
Attacker = Literal["online", "offline", "one_reference"]

A_GRID = np.linspace(0.0, 1.0, 11)
"""Values of `a` that the offline attacker tries."""

A_WITHOUT_CHOICE = 0.5
"""The offline `a` with fewer than 4 units, where no reference can be held out with references of its own."""

_HELD_OUT_UNITS = 4
_HELD_OUT_RECORDS = 20_000
_POPULATION_VALUES = 1 << 22


def rmia_online(
    log_probability_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    population_MZ: npt.ArrayLike,
    *,
    score: Score = "log_ratio",
    gamma: float = 1.0,
    targets: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return (T, N) RMIA scores with references on both sides. HIGHER MEANS MEMBER.

    A population record has no IN references; its mean_in is taken to be a mean_out + (1 - a), with the `a` that fits
    the target's references best on the audited records (least squares). A record without any IN or any OUT
    reference counts as an average population record.

    Args:
        log_probability_MN: (M, N) `compute_log_probabilities`: log p(y | x), finite, at most 0.
        membership_MN: (M, N) bool.
        population_MZ: (M, Z) the same for records that are OUT of every model, of patients who are not audited.
        score: log_ratio or fraction (see the top of this file).
        gamma: of the fraction, positive; ignored by log_ratio.
        targets: indices of the attacked models; None means all, T = M.

    Raises:
        ValueError: shapes that do not fit, values that are not log-probabilities, no reference for a target, an
        unknown score or a gamma that is not positive.
    """
    fleet = _Fleet.of(log_probability_MN, membership_MN, population_MZ, targets, score, gamma)
    return _collected(fleet, _online_ratios(fleet), _fitted_a(fleet))


def rmia_offline(
    log_probability_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    population_MZ: npt.ArrayLike,
    *,
    a: float | None = None,
    score: Score = "log_ratio",
    gamma: float = 1.0,
    targets: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return (T, N) RMIA scores from OUT references alone. HIGHER MEANS MEMBER.

    Args:
        a: how close IN and OUT are supposed to be, from 0 (IN models are certain) to 1 (they answer alike); None:
            chosen on held-out references, and 0.5 with fewer than 4 pairs of twins.

    The other arguments, the errors and what happens without OUT references are as in `rmia_online`; `a` outside 0..1
    is a ValueError too.
    """
    fleet = _Fleet.of(log_probability_MN, membership_MN, population_MZ, targets, score, gamma)
    a_T = chosen_a(fleet.log_p, fleet.membership)[fleet.targets] if a is None else _given_a(a, fleet)
    return _collected(fleet, _offline_ratios(fleet, a_T), a_T)


def rmia_one_reference(
    log_probability_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    population_MZ: npt.ArrayLike,
    *,
    a: float | None = None,
    score: Score = "log_ratio",
    gamma: float = 1.0,
    targets: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return (T, N) RMIA scores of the cheap attacker, who trained one model. HIGHER MEANS MEMBER.

    The reference of a target is the first model of the unit after its own (the first unit follows the last): never
    the target or its twin. Its answer is mean_out for records that it was not trained on. For those it was
    trained on it is mean_in, and mean_out = (mean_in - (1 - a)) / a, at least 0. Over random halves, a = (1 - mean p
    of its members) / (1 - mean p of its non-members): the reference alone gives it.

    Arguments and errors as `rmia_offline`; None for `a` means that estimate.
    """
    fleet = _Fleet.of(log_probability_MN, membership_MN, population_MZ, targets, score, gamma)
    reference_T = fleet.next_references()
    a_T = _own_a(fleet, reference_T) if a is None else _given_a(a, fleet)
    return _collected(fleet, _one_reference_ratios(fleet, a_T, reference_T), a_T, reference_T)


def rmia_pieces(
    log_probability_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    population_MZ: npt.ArrayLike,
    *,
    attacker: Attacker,
    targets: npt.ArrayLike | None = None,
) -> Iterator[tuple[int, slice, FloatArray]]:
    """Yield the log_ratio scores of one of the three attackers as (place in targets, records, their scores).

    Every target and record comes once; memory does not grow with the number of targets. Arguments and errors as
    `rmia_online`.
    """
    fleet = _Fleet.of(log_probability_MN, membership_MN, population_MZ, targets, "log_ratio", 1.0)
    reference_T = fleet.next_references() if attacker == "one_reference" else None
    if reference_T is not None:
        a_T = _own_a(fleet, reference_T)
        ratios = _one_reference_ratios(fleet, a_T, reference_T)
    elif attacker == "offline":
        a_T = chosen_a(fleet.log_p, fleet.membership)[fleet.targets]
        ratios = _offline_ratios(fleet, a_T)
    else:
        a_T, ratios = _fitted_a(fleet), _online_ratios(fleet)
    centre_T = np.concatenate([ratio_SZ.mean(axis=1) for _, ratio_SZ in _population_ratios(fleet, a_T, reference_T)])
    for place, records, ratio in ratios:
        yield place, records, np.nan_to_num(ratio - centre_T[place], nan=0.0)


Ratios = Iterator[tuple[int, slice, FloatArray]]
"""(place in targets, records, log(p_x / pr_x) or NaN without evidence)."""


def _online_ratios(fleet: "_Fleet") -> Ratios:
    for means in reference_means(fleet.log_p, fleet.membership, fleet.unit_M):
        known_UC = (means.num_in_UC > 0) & (means.num_out_UC > 0)
        log_pr_UC = np.where(known_UC, np.logaddexp(means.log_in_UC, means.log_out_UC) - np.log(2.0), np.nan)
        for place, (target, unit) in enumerate(zip(fleet.targets, fleet.unit_T, strict=True)):
            yield place, means.records, fleet.log_p[target, means.records] - log_pr_UC[unit]


def _offline_ratios(fleet: "_Fleet", a_T: FloatArray) -> Ratios:
    for means in reference_means(fleet.log_p, fleet.membership, fleet.unit_M):
        for place, (target, unit) in enumerate(zip(fleet.targets, fleet.unit_T, strict=True)):
            ratio = fleet.log_p[target, means.records] - _log_pr(means.log_out_UC[unit], a_T[place])
            yield place, means.records, np.where(means.num_out_UC[unit] > 0, ratio, np.nan)


def _one_reference_ratios(fleet: "_Fleet", a_T: FloatArray, reference_T: IntArray) -> Ratios:
    everything = slice(0, fleet.log_p.shape[1])
    for place, (target, reference) in enumerate(zip(fleet.targets, reference_T, strict=True)):
        member_N, log_p_N = fleet.membership[reference], fleet.log_p[reference].astype(np.float64)
        log_pr_N = _log_pr(log_p_N, a_T[place])
        log_pr_N[member_N] = _log_pr_of_member(log_p_N[member_N], a_T[place])
        yield place, everything, fleet.log_p[target] - log_pr_N


def _fitted_a(fleet: "_Fleet") -> FloatArray:
    """Return (T,) the online attacker's `a` for population records: least squares on the audited ones."""
    cross_U, square_U = np.zeros(fleet.num_units), np.zeros(fleet.num_units)
    for means in reference_means(fleet.log_p, fleet.membership, fleet.unit_M):
        known_UC = (means.num_in_UC > 0) & (means.num_out_UC > 0)
        below_in_UC = -np.expm1(means.log_in_UC) * known_UC
        below_out_UC = -np.expm1(means.log_out_UC) * known_UC
        cross_U += np.einsum("uc,uc->u", below_in_UC, below_out_UC)
        square_U += np.einsum("uc,uc->u", below_out_UC, below_out_UC)
    a_U = np.clip(cross_U / np.where(square_U > 0.0, square_U, 1.0), 0.0, 1.0)
    return np.asarray(np.where(square_U > 0.0, a_U, 1.0)[fleet.unit_T], dtype=np.float64)


def _own_a(fleet: "_Fleet", reference_T: IntArray) -> FloatArray:
    return np.array(
        [_a_of_reference(np.exp(fleet.log_p[r].astype(np.float64)), fleet.membership[r]) for r in reference_T]
    )


def chosen_a(log_probability_MN: Floats, membership_MN: BoolArray) -> FloatArray:
    """Return (M,) the offline `a` for every model as target, chosen without that model, its twin or its whole set.

    On up to 4 units and 20,000 evenly spaced records of the other set: the value of `A_GRID` with the largest mean
    AUC.
    """
    unit_M = model_units(membership_MN)
    if int(unit_M.max()) < 3:
        return np.full(unit_M.size, A_WITHOUT_CHOICE)
    records = slice(None, None, max(1, -(-log_probability_MN.shape[1] // _HELD_OUT_RECORDS)))
    a_M = np.empty(unit_M.size)
    for side in (0, 1):
        others = np.flatnonzero(unit_M % 2 != side)
        a_M[unit_M % 2 == side] = _best_a(log_probability_MN[others, records], membership_MN[others, records])
    return a_M


def _best_a(log_p_MN: Floats, membership_MN: BoolArray) -> float:
    unit_M = model_units(membership_MN)
    num_units = int(unit_M.max()) + 1
    log_out_UN = np.concatenate([m.log_out_UC for m in reference_means(log_p_MN, membership_MN, unit_M)], axis=1)
    held_out = np.unique(np.linspace(0, num_units - 1, min(_HELD_OUT_UNITS, num_units)).astype(np.int64))
    total_A = np.zeros(A_GRID.size)
    for model in np.flatnonzero(np.isin(unit_M, held_out)):
        known_N = np.isfinite(log_out_UN[unit_M[model]])
        member_N = membership_MN[model, known_N]
        if member_N.all() or not member_N.any():
            continue
        for place, a in enumerate(A_GRID):
            ratio_N = log_p_MN[model, known_N] - _log_pr(log_out_UN[unit_M[model], known_N], a)
            total_A[place] += _auc(ratio_N, member_N)
    return float(A_GRID[int(np.argmax(total_A))])


def _auc(score_N: FloatArray, member_N: BoolArray) -> float:
    num_in = int(member_N.sum())
    rank_sum = float(stats.rankdata(score_N)[member_N].sum())
    return (rank_sum - num_in * (num_in + 1) / 2) / (num_in * (member_N.size - num_in))


def _log_pr(log_out: FloatArray, a: float | FloatArray) -> FloatArray:
    """Return log of ((1 + a) mean_out + (1 - a)) / 2 (Zarifzadeh et al. 2024, appendix on the offline attack)."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(np.log1p(a) + log_out, np.log1p(-np.asarray(a))) - np.log(2.0), dtype=np.float64)


def _log_pr_of_member(log_in: FloatArray, a: float) -> FloatArray:
    out_share = np.maximum(1.0 - (1.0 - a) * np.exp(np.minimum(-log_in, 700.0)), 0.0) / a if a > 0.0 else 0.0
    return np.asarray(log_in + np.log1p(out_share) - np.log(2.0), dtype=np.float64)


def _a_of_reference(probability_N: FloatArray, member_N: BoolArray) -> float:
    if member_N.all() or not member_N.any():
        return A_WITHOUT_CHOICE
    below_in, below_out = 1.0 - probability_N[member_N].mean(), 1.0 - probability_N[~member_N].mean()
    return float(np.clip(below_in / below_out, 0.0, 1.0)) if below_out > 0.0 else 1.0


@dataclass(frozen=True)
class _Fleet:
    log_p: Floats
    membership: BoolArray
    population: Floats
    unit_M: IntArray
    targets: IntArray
    score: Score
    log_gamma: float

    @classmethod
    def of(
        cls,
        log_probability: npt.ArrayLike,
        membership: npt.ArrayLike,
        population: npt.ArrayLike,
        targets: npt.ArrayLike | None,
        score: Score,
        gamma: float,
    ) -> "_Fleet":
        log_p = _checked_log_probability(log_probability, "log_probability")
        members = checked_membership(membership, (log_p.shape[0], log_p.shape[1]))
        z = _checked_log_probability(population, "population")
        problems = []
        if z.shape[0] != log_p.shape[0]:
            problems.append(f"population.shape={z.shape} must be ({log_p.shape[0]}, Z): a row for every model.")
        if score not in get_args(Score):
            problems.append(f"score={score!r} must be one of {', '.join(get_args(Score))}.")
        if not 0.0 < gamma < np.inf:
            problems.append(f"gamma={gamma} must be a positive number; 1 and 2 are usual.")
        unit_M = model_units(members)
        if int(unit_M.max()) < 1:
            problems.append(
                f"num_models={log_p.shape[0]} leaves no reference model for a target (its twin is never one). "
                "Train at least 4 models, or use the threshold attack."
            )
        if problems:
            raise ValueError("\n".join(problems))
        return cls(log_p, members, z, unit_M, checked_targets(targets, log_p.shape[0]), score, float(np.log(gamma)))

    @property
    def unit_T(self) -> IntArray:
        return self.unit_M[self.targets]

    @property
    def num_units(self) -> int:
        return int(self.unit_M.max()) + 1

    def next_references(self) -> IntArray:
        """The single reference of every target: the first model of the next unit."""
        first_U = np.unique(self.unit_M, return_index=True)[1]
        return np.asarray(first_U[(self.unit_T + 1) % self.num_units], dtype=np.int64)


def _checked_log_probability(values: npt.ArrayLike, name: str) -> Floats:
    matrix = checked_floats(values, name)
    if matrix.max() > 0.0:
        raise ValueError(
            f"{name} reaches {matrix.max():g}; expected log-probabilities, which are at most 0. "
            "Make them with compute_log_probabilities; signals in log-odds units are something else."
        )
    return matrix


def _given_a(a: float, fleet: _Fleet) -> FloatArray:
    if not 0.0 <= a <= 1.0:
        raise ValueError(f"a={a} must lie in 0..1, or be None to have it chosen.")
    return np.full(fleet.targets.size, float(a))


def _collected(fleet: _Fleet, ratios: Ratios, a_T: FloatArray, reference_T: IntArray | None = None) -> FloatArray:
    """Turn log(p_x / pr_x) into (T, N) scores; NaN (no evidence) becomes the population's mean."""
    ratio_TN = np.empty((fleet.targets.size, fleet.log_p.shape[1]))
    for place, records, ratio in ratios:
        ratio_TN[place, records] = ratio
    for some, ratio_SZ in _population_ratios(fleet, a_T, reference_T):
        for row_N, ratio_Z in zip(ratio_TN[some], ratio_SZ, strict=True):
            centre = float(ratio_Z.mean())
            row_N[np.isnan(row_N)] = centre
            if fleet.score == "log_ratio":
                row_N -= centre
            else:
                row_N[:] = np.searchsorted(np.sort(ratio_Z), row_N - fleet.log_gamma, side="right") / ratio_Z.size
    return ratio_TN


def _population_ratios(
    fleet: _Fleet, a_T: FloatArray, reference_T: IntArray | None
) -> Iterator[tuple[slice, FloatArray]]:
    """Yield (places in targets, their log(p_z / pr_z)), a few targets at a time: memory does not grow with T times
    Z."""
    step = max(1, _POPULATION_VALUES // fleet.population.shape[1])
    for start in range(0, fleet.targets.size, step):
        some = slice(start, start + step)
        log_out_SZ = _population_out(fleet, some, reference_T)
        yield some, fleet.population[fleet.targets[some]] - _log_pr(log_out_SZ, a_T[some, None])


def _population_out(fleet: _Fleet, some: slice, reference_T: IntArray | None) -> FloatArray:
    if reference_T is not None:
        return fleet.population[reference_T[some]].astype(np.float64)
    unit_S = fleet.unit_T[some]
    log_out_SZ = np.empty((unit_S.size, fleet.population.shape[1]))
    for means in reference_means(fleet.population, None, fleet.unit_M):
        log_out_SZ[:, means.records] = means.log_out_UC[unit_S]
    return log_out_SZ
