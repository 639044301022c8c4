"""Several signals of one record: altered copies that the model was asked about (queries), or its labels.

An attacker may ask about V altered copies of a record (Carlini et al. 2022, arXiv 2112.03570, section VI-C), and a
model with L labels gives L signals. Any attack on one signal becomes one on several: it is run on each alone, with its
own references, and its scores are combined.

- queries: the mean. Answers about copies of the same record are alike, so adding them up would count the same evidence
  V times; the mean of V log-likelihood ratios is as large as one.
- labels: the sum over the labels that are present. Where labels are learned independently the log-likelihood ratios add
  up. A record without any label scores 0.

HIGHER MEANS MEMBER.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, IntArray, checked_membership, checked_targets
from dptrain.attacks.protocol import Attack

Combination = Literal["mean", "sum"]
"""mean for queries, sum for labels."""


def scores_over_views(
    attack: Attack,
    views_MNV: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    combination: Combination,
    *,
    targets: npt.ArrayLike | None = None,
    population_MZV: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return (T, N) scores of an attack on V signals of every record.

    Args:
        attack: any of `ATTACKS`; what a view must hold is its `signal`.
        views_MNV: (M, N, V) signals; NaN, in all models alike, is a label that the record does not have.
        membership_MN: (M, N) bool.
        combination: mean or sum over the views that a record has.
        targets: as for the attack.
        population_MZV: (M, Z, V) population records; one that lacks a label is left out of that label's population.

    Raises:
        ValueError: shapes that do not fit, a signal missing in some models only, or what the attack raises.
    """
    views = _checked_views(views_MNV)
    num_targets = checked_targets(targets, views.shape[0]).size
    total_TN = np.zeros((num_targets, views.shape[1]))
    for place, records, scores in pieces_over_views(
        attack, views, membership_MN, combination, targets=targets, population_MZV=population_MZV
    ):
        total_TN[place, records] += scores
    return total_TN


def pieces_over_views(
    attack: Attack,
    views_MNV: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    combination: Combination,
    *,
    targets: npt.ArrayLike | None = None,
    population_MZV: npt.ArrayLike | None = None,
) -> Iterator[tuple[int, IntArray, FloatArray]]:
    """Yield what adds up to `scores_over_views`, as (place in targets, records, contributions to their scores)."""
    views = _checked_views(views_MNV)
    num_models, num_records, num_views = views.shape
    if combination not in ("mean", "sum"):
        raise ValueError(f"combination={combination!r} must be mean (queries) or sum (labels).")
    membership = checked_membership(membership_MN, (num_models, num_records))
    population = None if population_MZV is None else np.asanyarray(population_MZV)
    if population is not None and (population.ndim != 3 or population.shape[::2] != views.shape[::2]):
        raise ValueError(f"population.shape={population.shape} must be ({num_models}, Z, {num_views}).")
    present_VN = np.stack([_present(views[:, :, view], view) for view in range(num_views)])
    weight_N = 1.0 / np.maximum(present_VN.sum(axis=0), 1) if combination == "mean" else np.ones(num_records)
    for view, present_N in enumerate(present_VN):
        records = np.flatnonzero(present_N)
        if records.size == 0:
            continue
        known = None if population is None else population[:, _present(population[:, :, view], view), view]
        for place, some, scores in attack.pieces(
            np.ascontiguousarray(views[:, records, view]),
            membership[:, records],
            targets=targets,
            population_MZ=known,
        ):
            yield place, records[some], scores * weight_N[records[some]]


def _checked_views(views_MNV: npt.ArrayLike) -> npt.NDArray[np.floating]:
    views = np.asanyarray(views_MNV)
    if views.ndim != 3 or views.size == 0 or not np.issubdtype(views.dtype, np.floating):
        raise ValueError(
            f"views.shape={views.shape}, dtype={views.dtype} must be (models, records, views) of a float type."
        )
    return views


def _present(values_MN: npt.NDArray[np.floating], view: int) -> npt.NDArray[np.bool_]:
    missing_MN = np.isnan(values_MN)
    missing_N = missing_MN.all(axis=0)
    if np.any(missing_MN != missing_N):
        raise ValueError(f"views: view {view} is missing (NaN) in some models only; expected in all or in none.")
    return np.asarray(~missing_N)
