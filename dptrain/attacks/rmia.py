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

from dptrain.attacks.checks import (
    BoolArray,
    FloatArray,
    Floats,
    IntArray,
    checked_floats,
    checked_membership,
    checked_targets,
)
from dptrain.attacks.offline_mean import a_of_reference, chosen_a, log_pr, log_pr_of_member
from dptrain.attacks.reference_means import reference_means
from dptrain.attacks.twins import model_units

Score = Literal["log_ratio", "fraction"]
Attacker = Literal["online", "offline", "one_reference"]

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
            ratio = fleet.log_p[target, means.records] - log_pr(means.log_out_UC[unit], a_T[place])
            yield place, means.records, np.where(means.num_out_UC[unit] > 0, ratio, np.nan)


def _one_reference_ratios(fleet: "_Fleet", a_T: FloatArray, reference_T: IntArray) -> Ratios:
    everything = slice(0, fleet.log_p.shape[1])
    for place, (target, reference) in enumerate(zip(fleet.targets, reference_T, strict=True)):
        member_N, log_p_N = fleet.membership[reference], fleet.log_p[reference].astype(np.float64)
        log_pr_N = log_pr(log_p_N, a_T[place])
        log_pr_N[member_N] = log_pr_of_member(log_p_N[member_N], a_T[place])
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
        [a_of_reference(np.exp(fleet.log_p[r].astype(np.float64)), fleet.membership[r]) for r in reference_T]
    )


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
        yield some, fleet.population[fleet.targets[some]] - log_pr(log_out_SZ, a_T[some, None])


def _population_out(fleet: _Fleet, some: slice, reference_T: IntArray | None) -> FloatArray:
    if reference_T is not None:
        return fleet.population[reference_T[some]].astype(np.float64)
    unit_S = fleet.unit_T[some]
    log_out_SZ = np.empty((unit_S.size, fleet.population.shape[1]))
    for means in reference_means(fleet.population, None, fleet.unit_M):
        log_out_SZ[:, means.records] = means.log_out_UC[unit_S]
    return log_out_SZ
