"""Who is among the most exposed: membership of the top share of patients, what chance makes of it, how sure it is.

Patient AUCs are counts over a few models and so are often tied at the cut. Patients tied there share the places that
are left: each is counted as the same fraction of a patient, and the top always holds exactly `num_top` patients,
whatever the order of the rows.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, IntArray
from dptrain.audit.groups import Groups

_DRAWN_VALUES = 1 << 22


def num_in_top(num_patients: int, top_fraction: float) -> int:
    """Return how many patients the top holds: the fraction, rounded up, at least 1.

    Raises:
        ValueError: a fraction outside (0, 1), or no patient.
    """
    if not 0.0 < top_fraction < 1.0 or num_patients < 1:
        raise ValueError(
            f"top_fraction={top_fraction}, num_patients={num_patients}: expected a fraction between 0 and 1 "
            "(0.01 for one percent) and at least one patient."
        )
    return max(1, int(np.ceil(top_fraction * num_patients * (1.0 - 1e-12))))


def top_weights(risk_P: FloatArray, num_top: int) -> FloatArray:
    """Return (P,) how much of each patient is in the top, 0 to 1; they sum to `num_top`."""
    cut = np.partition(risk_P, risk_P.size - num_top)[risk_P.size - num_top]
    above, tied = risk_P > cut, risk_P == cut
    return np.where(above, 1.0, np.where(tied, (num_top - above.sum()) / tied.sum(), 0.0))


def group_sums(groups: Groups, value_P: FloatArray) -> FloatArray:
    """Return (G,) the sum of a value over each group's patients."""
    repeated = np.broadcast_to(value_P, groups.code_AP.shape)
    sums_G = np.bincount(groups.code_AP.ravel(), weights=repeated.ravel(), minlength=groups.num_groups)
    return np.asarray(sums_G, dtype=np.float64)


def expected_sums(groups: Groups, value_P: FloatArray, stratum_P: IntArray) -> FloatArray:
    """Return (G,) what `group_sums` is on average if values are shuffled over the patients of each stratum."""
    mean_S = np.bincount(stratum_P, weights=value_P) / np.maximum(np.bincount(stratum_P), 1)
    cell_AP = groups.code_AP * mean_S.size + stratum_P
    count_GS = np.bincount(cell_AP.ravel(), minlength=groups.num_groups * mean_S.size).reshape(-1, mean_S.size)
    return np.asarray(count_GS @ mean_S, dtype=np.float64)


def permuted_sums(
    groups: Groups, value_P: FloatArray, stratum_P: IntArray, num_permutations: int, rng: np.random.Generator
) -> FloatArray:
    """Return (B, G) `group_sums` with the group labels permuted over the patients of each stratum.

    The labels of a patient stay together. Only patients with a value other than 0 matter, so each permutation draws
    places for these alone: cheap for a top of 1%.
    """
    places = [np.flatnonzero(stratum_P == stratum) for stratum in np.unique(stratum_P)]
    drawn = [(patients, value_P[patients][value_P[patients] != 0.0]) for patients in places]
    num_attributes = groups.code_AP.shape[0]
    tiled = np.tile(np.concatenate([value for _, value in drawn]), num_attributes)
    sums_BG = np.empty((num_permutations, groups.num_groups))
    for permutation in range(num_permutations):
        who = np.concatenate(
            [patients[rng.choice(patients.size, value.size, replace=False)] for patients, value in drawn]
        )
        sums_BG[permutation] = np.bincount(groups.code_AP[:, who].ravel(), weights=tiled, minlength=groups.num_groups)
    return sums_BG


def two_sided_p(observed_G: FloatArray, expected_G: FloatArray, permuted_BG: FloatArray) -> FloatArray:
    """Return (G,) p-values (1 + #permutations at least as far from the expectation) / (1 + B)."""
    distance_BG = np.abs(permuted_BG - expected_G)
    hits_G = (distance_BG >= np.abs(observed_G - expected_G) - 1e-9).sum(axis=0)
    return np.asarray((1.0 + hits_G) / (1.0 + permuted_BG.shape[0]), dtype=np.float64)


def holm(p_values_G: npt.ArrayLike) -> FloatArray:
    """Return (G,) Holm's adjusted p-values (1979, Scand. J. Statist. 6, 65-70); NaN stays NaN and is no test."""
    p_values = np.asarray(p_values_G, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    adjusted = np.full(p_values.shape, np.nan)
    scaled = p_values[order] * np.arange(known.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def bootstrap_rates(
    risks_RP: Sequence[FloatArray], code_P: IntArray, num_top: int, num_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return (R, 2, B, G) the fraction of each group, and of all outside it, that is in the top; patients drawn again.

    The cut is chosen again in every resample, and one resample serves all R risks, so differences are paired. Patients
    far below every cut differ only by their group, and patients alike in risks and group are drawn together.
    A group that a resample leaves out has rate 0. `code_P` numbers the groups 0..G-1; index 1 is outside.
    """
    num_patients, num_groups = code_P.size, int(code_P.max()) + 1
    # 8 standard deviations of the number of draws from the top: the cut never falls among the rest.
    reach = min(num_patients, int(np.ceil(num_top + 8.0 * np.sqrt(num_top) + 10.0)))
    near_P = np.zeros(num_patients, dtype=np.bool_)
    for risk_P in risks_RP:
        near_P |= risk_P >= np.partition(risk_P, num_patients - reach)[num_patients - reach]
    columns = np.stack([np.where(near_P, risk_P, -np.inf) for risk_P in risks_RP] + [code_P.astype(np.float64)])
    cells_CR, count_C = np.unique(columns.T, axis=0, return_counts=True)
    group_CG = (cells_CR[:, -1:] == np.arange(num_groups)).astype(np.float64)
    rates_RSBG = np.empty((len(risks_RP), 2, num_resamples, num_groups))
    step = max(1, _DRAWN_VALUES // count_C.size)
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        drawn_BC = rng.multinomial(num_patients, count_C / num_patients, size=size).astype(np.float64)
        total_BG = drawn_BC @ group_CG
        for place in range(len(risks_RP)):
            in_top_BG = (drawn_BC * _cell_weights(drawn_BC, cells_CR[:, place], num_top)) @ group_CG
            rates_RSBG[place, 0, start : start + size] = in_top_BG / np.maximum(total_BG, 1.0)
            outside_BG = (num_top - in_top_BG) / np.maximum(num_patients - total_BG, 1.0)
            rates_RSBG[place, 1, start : start + size] = outside_BG
    return rates_RSBG


def _cell_weights(drawn_BC: FloatArray, risk_C: FloatArray, num_top: int) -> FloatArray:
    """Return (B, C) how much of each cell is in the top: `top_weights` of every resample."""
    order = np.argsort(-risk_C, kind="stable")
    sorted_C = risk_C[order]
    starts = np.flatnonzero(np.append(True, sorted_C[1:] != sorted_C[:-1]))
    block_C = np.empty(risk_C.size, dtype=np.int64)
    block_C[order] = np.cumsum(np.bincount(starts, minlength=risk_C.size)) - 1
    total_BV = np.add.reduceat(drawn_BC[:, order], starts, axis=1)
    before_BV = np.cumsum(total_BV, axis=1) - total_BV
    weight_BV = np.clip((num_top - before_BV) / np.maximum(total_BV, 1.0), 0.0, 1.0)
    return np.asarray(weight_BV[:, block_C], dtype=np.float64)
