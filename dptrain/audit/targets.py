"""An attack over all its targets: each model is attacked once, and the figures are averaged over models.

The spread over targets says how much the luck of one training run matters. The interval of the mean treats
twins as one unit (their memberships are complementary, so their results are not independent) and is about new
models trained on halves of these same patients; it says nothing about other patients.

Twin pairs are not independent of each other either: each is also a reference for all others. Without leakage the
figures of two pairs share a term, and with n pairs the variance of the mean is 2 (n - 1) / (n - 2) times what the
spread over pairs says (derived for a score that is bilinear in target and reference; simulations with LiRA agree).
Without that factor the lower end of a "95%" interval is above 0.5 in 7 to 10% of studies that leak nothing. Where
models leak, the spread of the targets prevails and the factor makes the interval wider than needed, about 1.5 times.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import FloatArray, checked_matrix, checked_membership
from dptrain.attacks.twins import model_units
from dptrain.audit.interval import Interval
from dptrain.audit.ranked import RankedScores, TprAtFpr
from dptrain.audit.roc import FPRS


@dataclass(frozen=True)
class TargetSummary:
    """Mean over targets with its interval, and the standard deviation between targets."""

    mean: float
    sd: float
    """NaN for a single target."""
    low: float
    high: float
    num_targets: int
    estimable: bool = True
    """False if the figure could not be estimated for some target; the numbers are then NaN."""


@dataclass(frozen=True)
class AttackSummary:
    """One attack on T targets."""

    auc: TargetSummary
    tpr_at_fpr: dict[float, TargetSummary]
    auc_T: FloatArray
    tpr_at_fpr_T: dict[float, list[TprAtFpr]]
    """Per target, with counts and the interval over patients."""
    auc_interval_T: tuple[Interval, ...] = ()
    """Per target, interval over patients."""


def summarise_targets(
    values_T: npt.ArrayLike,
    unit_T: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    *,
    shared_references: bool = False,
) -> TargetSummary:
    """Return mean, standard deviation and t interval of a figure over targets.

    Args:
        values_T: (T,) one figure per target; any NaN makes the summary not estimable.
        unit_T: (T,) targets with the same number (twins) are one unit of the interval; None: all independent.
        confidence: of the interval of the mean.
        shared_references: the targets are each other's references; see the top of this file. With two units no
            interval is finite then.

    Raises:
        ValueError: empty, or lengths that do not fit.
    """
    values = np.asarray(values_T, dtype=np.float64)
    unit = np.arange(values.size) if unit_T is None else np.asarray(unit_T)
    if values.ndim != 1 or values.size == 0 or unit.shape != values.shape:
        raise ValueError(f"values.shape={values.shape}, unit.shape={unit.shape} must both be (T,) with T >= 1.")
    nan = float("nan")
    if np.isnan(values).any():
        return TargetSummary(nan, nan, nan, nan, values.size, estimable=False)
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if values.size > 1 else nan
    place = np.unique(unit, return_inverse=True)[1]
    num_units = int(place.max()) + 1
    if num_units < 2:
        return TargetSummary(mean, sd, nan, nan, values.size)
    # Units may differ in size (a target whose twin was not attacked): the variance of a ratio of sums.
    residual_U = np.bincount(place, weights=values - mean)
    error = float(np.sqrt(num_units / (num_units - 1) * (residual_U**2).sum()) / values.size)
    if shared_references:
        error *= math.sqrt(2 * (num_units - 1) / (num_units - 2)) if num_units > 2 else math.inf
    reach = float(stats.t.ppf(0.5 + confidence / 2.0, num_units - 1)) * error
    if math.isnan(reach):
        reach = math.inf
    return TargetSummary(mean, sd, mean - reach, mean + reach, values.size)


def summarise_attack(
    scores_TP: npt.ArrayLike, membership_TP: npt.ArrayLike, fprs: tuple[float, ...] = FPRS
) -> AttackSummary:
    """Return AUC and TPR at each FPR for every target and over targets.

    Args:
        scores_TP: (T, P) scores, best of patients (`sum_over_records`). HIGHER MEANS MEMBER.
        membership_TP: (T, P) bool, the rows of the targets.
        fprs: fractions.

    Raises:
        ValueError: shapes that do not fit, or a target of which every patient (or none) is a member.
    """
    scores = checked_matrix(scores_TP, "scores")
    membership = checked_membership(membership_TP, (scores.shape[0], scores.shape[1]))
    unit_T = model_units(membership)
    ranked = [RankedScores.of(row, member) for row, member in zip(scores, membership, strict=True)]
    intervals = tuple(one.auc_interval() for one in ranked)
    auc_T = np.array([interval.value for interval in intervals])
    tprs = {fpr: [one.tpr_at_fpr(fpr) for one in ranked] for fpr in fprs}
    return AttackSummary(
        auc=summarise_targets(auc_T, unit_T, shared_references=True),
        tpr_at_fpr={
            fpr: summarise_targets([one.tpr for one in each], unit_T, shared_references=True)
            for fpr, each in tprs.items()
        },
        auc_T=auc_T,
        tpr_at_fpr_T=tprs,
        auc_interval_T=intervals,
    )
