"""RMIA's pr: the references' mean probability of a record, where only models without it (or one model) are known.

pr is ((1 + a) mean_out + (1 - a)) / 2 with mean_in taken to be a mean_out + (1 - a) (Zarifzadeh, Liu & Shokri 2024,
arXiv 2312.03262, appendix on the offline attack). `a` is chosen on held-out references, never on the target or its
twin.
"""

import numpy as np
from scipy import stats

from dptrain.attacks.checks import BoolArray, FloatArray, Floats
from dptrain.attacks.reference_means import reference_means
from dptrain.attacks.twins import model_units

A_GRID = np.linspace(0.0, 1.0, 11)
"""Values of `a` that the offline attacker tries."""

A_WITHOUT_CHOICE = 0.5
"""The offline `a` with fewer than 4 units, where no reference can be held out with references of its own."""

_HELD_OUT_UNITS = 4
_HELD_OUT_RECORDS = 20_000


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
            ratio_N = log_p_MN[model, known_N] - log_pr(log_out_UN[unit_M[model], known_N], a)
            total_A[place] += _auc(ratio_N, member_N)
    return float(A_GRID[int(np.argmax(total_A))])


def _auc(score_N: FloatArray, member_N: BoolArray) -> float:
    num_in = int(member_N.sum())
    rank_sum = float(stats.rankdata(score_N)[member_N].sum())
    return (rank_sum - num_in * (num_in + 1) / 2) / (num_in * (member_N.size - num_in))


def log_pr(log_out: FloatArray, a: float | FloatArray) -> FloatArray:
    """Return log of ((1 + a) mean_out + (1 - a)) / 2."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(np.log1p(a) + log_out, np.log1p(-np.asarray(a))) - np.log(2.0), dtype=np.float64)


def log_pr_of_member(log_in: FloatArray, a: float) -> FloatArray:
    out_share = np.maximum(1.0 - (1.0 - a) * np.exp(np.minimum(-log_in, 700.0)), 0.0) / a if a > 0.0 else 0.0
    return np.asarray(log_in + np.log1p(out_share) - np.log(2.0), dtype=np.float64)


def a_of_reference(probability_N: FloatArray, member_N: BoolArray) -> float:
    if member_N.all() or not member_N.any():
        return A_WITHOUT_CHOICE
    below_in, below_out = 1.0 - probability_N[member_N].mean(), 1.0 - probability_N[~member_N].mean()
    return float(np.clip(below_in / below_out, 0.0, 1.0)) if below_out > 0.0 else 1.0
