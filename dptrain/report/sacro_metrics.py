"""The metrics that SACRO-ML reports for one attacked model (Smith et al. 2022, arXiv 2212.01233; sacroml 2.0,
`metrics.get_metrics`): the same names, the same definitions, computed from an attack's scores.

SACRO-ML calls a rate "TPR@0.1%" where the false-positive rate is 0.1 *percent*; everything else is a fraction. Its
scores are probabilities cut at one half; ours are not, so the cut is the model's median score: half are called members.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from dptrain.audit.roc import RocCurve, auc, roc_curve

FPRS_PERCENT = (0.5, 0.2, 0.1, 0.01, 0.001, 0.00001)
SHARES = {"01": 0.1, "02": 0.2, "001": 0.01}
"""Suffix of FMAX, FMIN, FDIF and PDIF by the share of patients with the highest and the lowest scores."""
SMALLEST_LOG_P = -115.13
CURVE_POINTS = 101


def attack_metrics(scores_P: npt.ArrayLike, is_member_P: npt.ArrayLike) -> dict[str, float | list[float]]:
    """Metrics of one target. HIGHER MEANS MEMBER.

    Args:
        scores_P: (P,) finite scores.
        is_member_P: (P,) bool, with members and non-members.

    Raises:
        ValueError: as `audit.roc.auc`.
    """
    scores = np.asarray(scores_P, dtype=np.float64)
    member = np.asarray(is_member_P, dtype=np.bool_)
    area = auc(scores, member)
    num_in, num_out = int(member.sum()), int((~member).sum())
    found: dict[str, float | list[float]] = dict(_counted(scores > np.median(scores), member))
    found["AUC"] = area
    found["P_HIGHER_AUC"] = float(norm.sf((area - 0.5) / null_auc_sd(num_in, num_out)))
    for suffix, share in SHARES.items():
        found |= dict(zip((f"{name}{suffix}" for name in ("FMAX", "FMIN", "FDIF", "PDIF")),
                          _extremes(scores, member, share), strict=True))  # fmt: skip
    found["pred_prob_var"] = float(scores.var())
    curve = roc_curve(scores, member)
    for percent in FPRS_PERCENT:
        found[f"TPR@{percent:g}%"] = float(_tpr_within(curve, np.array([percent / 100.0]))[0])
    grid = np.unique(np.concatenate([[0.0], np.geomspace(1.0 / num_out, 1.0, CURVE_POINTS - 1)]))
    found["fpr"] = [float(value) for value in np.round(grid, 6)]
    found["tpr"] = [float(value) for value in np.round(_tpr_within(curve, grid), 6)]
    found["n_pos_test_examples"] = num_in
    found["n_neg_test_examples"] = num_out
    return found


def null_auc_sd(num_members: int, num_nonmembers: int) -> float:
    """Standard deviation of the AUC of a score that says nothing (Mann-Whitney)."""
    return math.sqrt((num_members + num_nonmembers + 1) / (12.0 * num_members * num_nonmembers))


def _counted(called: npt.NDArray[np.bool_], member: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Rates of a yes-or-no attack."""
    tp, fp = float((called & member).sum()), float((called & ~member).sum())
    fn, tn = float((~called & member).sum()), float((~called & ~member).sum())
    tpr, fpr = tp / (tp + fn), fp / (fp + tn)
    ppv = tp / (tp + fp) if tp + fp else 0.0
    return {
        "TPR": tpr,
        "FPR": fpr,
        "FAR": 1.0 - ppv if tp + fp else 0.0,
        "TNR": 1.0 - fpr,
        "PPV": ppv,
        "NPV": tn / (tn + fn) if tn + fn else 0.0,
        "FNR": 1.0 - tpr,
        "ACC": (tp + tn) / member.size,
        "F1score": 2 * ppv * tpr / (ppv + tpr) if ppv + tpr else 0.0,
        "Advantage": abs(tpr - fpr),
    }


def _extremes(
    scores: npt.NDArray[np.float64], member: npt.NDArray[np.bool_], share: float
) -> tuple[float, float, float, float]:
    """Share of members among the highest and the lowest scores, their difference, and minus the logarithm of its
    p-value (normal approximation)."""
    number = math.ceil(member.size * share)
    order = np.argsort(scores, kind="stable")
    high, low = float(member[order[-number:]].mean()), float(member[order[:number]].mean())
    base = float(member.mean())
    spread = math.sqrt(2 * base * (1 - base) / number)
    log_p = float(norm.logsf((high - low) / spread))
    return high, low, high - low, -max(log_p, SMALLEST_LOG_P)


def _tpr_within(curve: RocCurve, fpr_G: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(G,) the largest true-positive rate without exceeding each false-positive rate: nothing is interpolated."""
    return np.asarray(curve.tpr[np.searchsorted(curve.fpr, fpr_G + 1e-12, side="right") - 1], dtype=np.float64)
