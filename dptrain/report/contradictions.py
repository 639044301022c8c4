"""Claim against observation: does any attack do better than the accounted mechanism allows anyone?

If so, what ran is not what was accounted, and no figure of that arm may be published. Three looks per private arm: the
mean attack AUC, the mean TPR at each false-positive rate, and every single patient. All looks of all private arms
together raise a false alarm in at most 1% of sound studies (Bonferroni).

A threshold that lets k of n observed non-members pass has a false-positive rate of (k + 1) / (n + 1) on average, so
a measured TPR is held against the cap there, not at k / n: the cap is concave, hence (Jensen) a bound on the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import t

from dptrain.privacy.tradeoff import TradeOff
from dptrain.report.results import ArmResult, Estimate

FALSE_ALARMS = 0.01
"""Probability of any false alarm in a sound study."""
_ADVICE = (
    "The training is not the mechanism that was accounted: publish nothing of this arm, and find the fault (preflight, "
    "sampling, clipping, noise, or data that reach the model outside DP-SGD)."
)


def contradictions(arms: Sequence[ArmResult], membership_MP: NDArray[np.bool_]) -> list[str]:
    """One sentence per private arm whose attack is surely above its cap; empty for a sound study."""
    num_nonmembers_M = (~membership_MP).sum(axis=1)
    private = [arm for arm in arms if arm.cap is not None]
    problems = []
    for arm in private:
        share = FALSE_ALARMS / len(private)
        found = [*_aggregate(arm, share / 2, num_nonmembers_M), *_patients(arm, share / 2, len(membership_MP))]
        if found:
            problems.append(f"Arm {arm.label}: {'; '.join(found)}. {_ADVICE}")
    return problems


def _aggregate(arm: ArmResult, share: float, num_nonmembers_M: NDArray[np.int64]) -> list[str]:
    assert arm.cap is not None
    looks: list[tuple[str, Estimate, float]] = [("mean attack AUC", arm.attack.auc, arm.cap.auc)]
    for fpr, tpr in arm.attack.tpr_at_fpr.items():
        if tpr is not None:
            cap = _cap_of_mean_tpr(arm.cap.curve, fpr, num_nonmembers_M)
            looks.append((f"mean true-positive rate at false-positive rate {fpr:g}", tpr, cap))
    found = []
    for name, observed, cap in looks:
        low = _lower_bound(observed, share / len(looks), len(num_nonmembers_M) // 2)
        if low > cap:
            found.append(f"{name} is {observed.value:.4f}, surely above {low:.4f}, but the guarantee allows {cap:.4f}")
    return found


def _cap_of_mean_tpr(curve: TradeOff, fpr: float, num_nonmembers_M: NDArray[np.int64]) -> float:
    passing_M = np.floor(fpr * num_nonmembers_M * (1 + 1e-12))
    expected_fpr_M = np.minimum((passing_M + 1) / (num_nonmembers_M + 1), 1.0)
    return float(np.mean([curve.max_tpr(float(one)) for one in expected_fpr_M]))


def _lower_bound(observed: Estimate, share: float, num_pairs: int) -> float:
    """One-sided lower bound at level `share`, from the 95% t interval over twin pairs (its longer side: the other may
    have been cut at 0 or 1)."""
    error = max(observed.value - observed.low, observed.high - observed.value) / t.ppf(0.975, num_pairs - 1)
    return float(observed.value - t.ppf(1 - share, num_pairs - 1) * error)


def _patients(arm: ArmResult, share: float, num_models: int) -> list[str]:
    assert arm.cap is not None
    auc = arm.risk.patient_auc[np.isfinite(arm.risk.patient_auc)]
    log_p = log_tail(auc, arm.cap.auc, num_models // 2)
    alarms = int((log_p < np.log(share / len(auc))).sum())
    if not alarms:
        return []
    return [
        f"{alarms} of {len(auc)} patients have a patient AUC surely above {arm.cap.auc:.4f}, "
        "the most that the guarantee allows"
    ]


def log_tail(auc_P: NDArray[np.float64], cap: float, num_per_side: int) -> NDArray[np.float64]:
    """(P,) log of a bound on Pr[AUC of n IN against n OUT models >= observed] when the true AUC is at most `cap`.

    An AUC is an average over ways to pair the models, each way a mean of n independent comparisons, so the
    Chernoff-Hoeffding bound exp(-n KL(observed || cap)) holds for it (Hoeffding 1963, section 5a).
    """
    if cap >= 1.0:
        return np.zeros_like(auc_P)
    divergence = xlogy(auc_P, auc_P) - xlogy(auc_P, cap) + xlogy(1 - auc_P, 1 - auc_P) - xlogy(1 - auc_P, 1 - cap)
    return np.where(auc_P > cap, -num_per_side * divergence, 0.0)
