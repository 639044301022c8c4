"""The ROC of one target: how well do scores separate members from non-members? HIGHER MEANS MEMBER.

Everything is computed from counts. Tied scores move together (midranks in the AUC; one point in the curve), a
threshold is conservative (its false-positive rate on the data is at or below the one asked for), and nothing
is interpolated between points that no threshold reaches. A false-positive rate below one non-member is "not
estimable", never 0.

Units scored here should be patients: records of one patient are not independent, and intervals over records
are too short.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray
from dptrain.audit.interval import check_fraction, clopper_pearson
from dptrain.audit.ranked import RankedScores, TprAtFpr, allowed_false_positives, checked_scores

__all__ = [
    "FPRS",
    "RankedScores",
    "RocCurve",
    "TprAtFpr",
    "auc",
    "clopper_pearson",
    "roc_curve",
    "tpr_at_fpr",
    "tpr_at_fpr_split",
]

FPRS = (0.1, 0.01, 0.001)
"""False-positive rates reported by default."""


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC, one per distinct score, from (0, 0) to (1, 1); "member" means score >= threshold."""

    fpr: FloatArray
    tpr: FloatArray
    thresholds: FloatArray
    """Falling; the first is +inf."""
    num_members: int
    num_nonmembers: int


def auc(scores: npt.ArrayLike, is_member: npt.ArrayLike) -> float:
    """Return Pr[member scores higher] + Pr[tie] / 2, by midranks (Mann-Whitney).

    Args:
        scores: (N,) finite.
        is_member: (N,) bool.

    Raises:
        ValueError: shapes that do not fit, NaN scores, or members or non-members missing.
    """
    return RankedScores.of(scores, is_member).auc


def roc_curve(scores: npt.ArrayLike, is_member: npt.ArrayLike) -> RocCurve:
    """Return the ROC on counts, one point per distinct score. Arguments and errors as `auc`."""
    values, member = checked_scores(scores, is_member)
    thresholds, true_positives, false_positives = _cumulative(values, member)
    num_in, num_out = int(true_positives[-1]), int(false_positives[-1])
    return RocCurve(
        fpr=np.concatenate([[0.0], false_positives / num_out]),
        tpr=np.concatenate([[0.0], true_positives / num_in]),
        thresholds=np.concatenate([[np.inf], thresholds]),
        num_members=num_in,
        num_nonmembers=num_out,
    )


def tpr_at_fpr(scores: npt.ArrayLike, is_member: npt.ArrayLike, fpr: float, confidence: float = 0.95) -> TprAtFpr:
    """Return the true-positive rate at the largest false-positive rate not above `fpr`.

    The interval is about the true-positive rate at *exactly* this false-positive rate in the population the
    units come from, and so counts two uncertainties: how many of the members pass a threshold (binomial), and
    where the threshold lies (the number of the n observed non-members that pass the true one is Binomial(n,
    fpr)). The interval is the middle of the mixture of Beta distributions over that number: the Bayesian
    bootstrap of the ROC (Gu, Ghosal & Roy 2008, doi 10.1002/sim.3366) in closed form, without drawing random
    numbers.

    Args:
        scores: (N,) finite.
        is_member: (N,) bool.
        fpr: fraction in (0, 1).
        confidence: of the interval.

    Raises:
        ValueError: as `auc`, and a rate or confidence outside (0, 1).
    """
    return RankedScores.of(scores, is_member).tpr_at_fpr(fpr, confidence)


def tpr_at_fpr_split(
    scores: npt.ArrayLike,
    is_member: npt.ArrayLike,
    fpr: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> TprAtFpr:
    """As `tpr_at_fpr`, with the threshold chosen on one random half of the non-members and everything counted
    on the rest.

    The counts are those of the other half of the non-members and of all members. The interval is that of
    Clopper and Pearson for the members above *this* threshold, exact for any sample size, but its
    false-positive rate is the realised one (reported), which may be above or below `fpr`.

    Raises:
        ValueError: as `tpr_at_fpr`.
    """
    values, member = checked_scores(scores, is_member)
    check_fraction("fpr", fpr)
    check_fraction("confidence", confidence)
    nonmember_scores = rng.permutation(values[~member])
    half = nonmember_scores.size // 2
    choosing, counting = nonmember_scores[:half], nonmember_scores[half:]
    num_in, num_out = int(member.sum()), counting.size
    allowed = allowed_false_positives(fpr, half)
    if allowed < 1:
        nan = float("nan")
        return TprAtFpr(fpr, nan, nan, float("inf"), 0, 0, num_in, num_out, nan, nan, False)
    # The (allowed + 1)-th largest: everything strictly above it has at most `allowed` false positives on this
    # half.
    threshold = float(np.nextafter(np.sort(choosing)[::-1][allowed], np.inf)) if allowed < half else -float("inf")
    tp = int((values[member] >= threshold).sum())
    fp = int((counting >= threshold).sum())
    low, high = clopper_pearson(tp, num_in, confidence)
    return TprAtFpr(fpr, tp / num_in, fp / num_out, threshold, tp, fp, num_in, num_out, low, high, True)


def _cumulative(values: FloatArray, member: BoolArray) -> tuple[FloatArray, IntArray, IntArray]:
    order = np.argsort(values)[::-1]
    ranked = values[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    true_positives = np.cumsum(member[order], dtype=np.int64)[last_of_tie]
    false_positives = last_of_tie.astype(np.int64) + 1 - true_positives
    return ranked[last_of_tie], true_positives, false_positives
