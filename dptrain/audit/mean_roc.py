"""The ROC of an attack over all its targets, on a grid of false-positive rates that is even on a log axis.

At each rate every target contributes the true-positive rate of its conservative threshold (as `roc.tpr_at_fpr`), so
nothing is interpolated; the mean over targets and its interval are those of `targets`. The grid begins at one
non-member of the target with the fewest: below that nothing can be seen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, checked_matrix, checked_membership
from dptrain.attacks.twins import model_units
from dptrain.audit.targets import summarise_targets


@dataclass(frozen=True)
class MeanRoc:
    """G points; the last is (1, 1)."""

    fpr_G: FloatArray
    """Asked for, rising."""
    tpr_G: FloatArray
    """Mean over targets."""
    low_G: FloatArray
    high_G: FloatArray
    """95% interval of the mean: other models on other halves of these units. Infinite with fewer than 3 pairs."""
    num_members: int
    """Fewest of any target."""
    num_nonmembers: int


def mean_roc(scores_TP: npt.ArrayLike, membership_TP: npt.ArrayLike, num_points: int = 80) -> MeanRoc:
    """Return the mean ROC of T targets. HIGHER MEANS MEMBER.

    Args:
        scores_TP: (T, P) finite scores.
        membership_TP: (T, P) bool.
        num_points: at most so many points; fewer where the counts have fewer steps.

    Raises:
        ValueError: shapes that do not fit, a target without members or without non-members, or fewer than 2 points.
    """
    scores = checked_matrix(scores_TP, "scores")
    membership = checked_membership(membership_TP, (scores.shape[0], scores.shape[1]))
    num_in_T, num_out_T = membership.sum(axis=1), (~membership).sum(axis=1)
    if num_points < 2 or not num_in_T.all() or not num_out_T.all():
        raise ValueError(
            f"num_points={num_points} must be at least 2, and every target needs members and non-members "
            f"(fewest: {int(num_in_T.min())} and {int(num_out_T.min())})."
        )
    fewest = int(num_out_T.min())
    allowed_G = np.unique(np.rint(np.geomspace(1, fewest, num_points)).astype(np.int64))
    fpr_G = allowed_G / fewest
    tpr_TG = np.stack([_tpr(row, member, fpr_G) for row, member in zip(scores, membership, strict=True)])
    unit_T = model_units(membership)
    summaries = [summarise_targets(column, unit_T, shared_references=True) for column in tpr_TG.T]
    return MeanRoc(
        fpr_G,
        np.array([one.mean for one in summaries]),
        np.array([one.low for one in summaries]),
        np.array([one.high for one in summaries]),
        int(num_in_T.min()),
        fewest,
    )


def _tpr(score_P: FloatArray, member_P: BoolArray, fpr_G: FloatArray) -> FloatArray:
    """True-positive rate with at most floor(fpr n) of the n non-members at or above the threshold."""
    out = np.sort(score_P[~member_P])[::-1]
    inside = np.sort(score_P[member_P])
    allowed_G = np.floor(fpr_G * out.size * (1.0 + 1e-12)).astype(np.int64)
    # Strictly above the next non-member: everything that ties with it is left out.
    limit_G = np.where(allowed_G < out.size, out[np.minimum(allowed_G, out.size - 1)], -np.inf)
    return np.asarray((inside.size - np.searchsorted(inside, limit_G, side="right")) / inside.size, dtype=np.float64)
