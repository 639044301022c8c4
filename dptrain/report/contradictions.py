"""Claim against observation: does any attack do better than the accounted mechanism allows anyone?

If so, what ran is not what was accounted, and no figure of that arm may be published. Every private arm is looked at
six times:

* the mean attack AUC, and the mean TPR at each false-positive rate that is reported;
* the most exposed patient, and the most exposed 1% and 10% of patients.

A sound arm raises the alarm with probability at most `FALSE_ALARMS` (Bonferroni over its looks). The level belongs to
the arm, not to the study: an alarm does not go away because arms are added. Why each limit is one for any attack:

*Mean TPR.* A threshold that lets k of the n observed non-members of a model pass has a false-positive rate of
(k + 1) / (n + 1) on average, so a measured TPR is held against the cap there, not at k / n: the cap is concave, hence
(Jensen) a bound on the mean.

*Mean AUC.* The AUC is the mean of these TPRs over k = 0..n-1; by concavity that is at most cap + (cap - 1/2) / n.

*Patients.* Twins are trained on complementary halves. In how many of the n pairs does the twin that was trained with
the patient give more evidence of it? One twin's evidence is a threshold for the other; over the draw of the other
patients the twins are exchangeable, so the false-positive rate of that comparison is 1/2 on average and each pair is
won with probability at most max_tpr(1/2) (Jensen again). Pairs are independent, so the number of wins is at most
Binomial(n, max_tpr(1/2)), whatever the models do. That at least k patients win so often has probability at most
(number of patients) / k times that of one (Markov), however patients depend on one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, t

from dptrain.attacks.twins import find_twins
from dptrain.errors import PrivacyError
from dptrain.privacy.tradeoff import TradeOff
from dptrain.report.results import ArmResult, Estimate

FALSE_ALARMS = 0.001
"""Probability of any false alarm in a sound arm."""
MOST_EXPOSED = (0.0, 0.01, 0.1)
"""Fractions of the patients that are looked at, the most exposed first; 0 is one patient."""


class GuaranteeRefuted(PrivacyError):
    """An attack did better than a guarantee allows."""

    def __init__(self, by_arm: Mapping[str, Sequence[str]]) -> None:
        self.by_arm = {label: tuple(lines) for label, lines in by_arm.items()}
        """Lines for people, arm by arm; no line tells who a patient is."""
        super().__init__([line for lines in self.by_arm.values() for line in lines])


def contradictions(
    arms: Sequence[ArmResult], wins: Mapping[str, NDArray[np.int64]], membership_MP: NDArray[np.bool_]
) -> dict[str, list[str]]:
    """What refutes each private arm that surely does worse than its cap, by label; empty for a sound study.

    `wins` holds, by label of arm, (P,) `pairs_won`.
    """
    num_nonmembers_M = (~membership_MP).sum(axis=1)
    num_pairs = len(_pairs(membership_MP))
    refuted = {}
    for arm in arms:
        if arm.cap is None:
            continue
        found = _aggregate(arm, FALSE_ALARMS / 2, num_nonmembers_M, num_pairs)
        found += _patients(arm, FALSE_ALARMS / 2, wins[arm.label], num_pairs)
        if found:
            refuted[arm.label] = _explained(arm, found)
    return refuted


def pairs_won(evidence_MP: NDArray[np.float64], membership_MP: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(P,) in how many pairs of twins the one trained with the patient has strictly more evidence of it.

    Only the order of two models' evidence is used, so nothing that is common to all models (centre, scale) matters.
    """
    first, second = _pairs(membership_MP).T
    more = np.sign(evidence_MP[first] - evidence_MP[second])
    return np.asarray((more == np.where(membership_MP[first], 1, -1)).sum(axis=0), dtype=np.int64)


def _pairs(membership_MP: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, 2) models that are twins."""
    twin_M = find_twins(membership_MP)
    first = np.flatnonzero(twin_M > np.arange(len(twin_M)))
    return np.stack([first, twin_M[first]], axis=1)


def _explained(arm: ArmResult, found: list[str]) -> list[str]:
    return [
        f"Arm {arm.label} is refuted: epsilon={arm.epsilon:.4g} at delta={arm.delta:g} was accounted, and its models "
        "tell more about their patients than any model with that guarantee can.",
        *(f"  {line}" for line in found),
        f"  Chance alone does this in at most {FALSE_ALARMS:.1%} of sound arms: what was trained is not the mechanism "
        "that was accounted. Publish neither a model nor a figure of this arm, nor of another private arm that the "
        "same software trained.",
        "  Find the fault: noise, clipping, sampling, or data that reach the model outside DP-SGD (dptrain check with "
        "the same settings looks at single steps). All trained models are kept. Once it is mended, move "
        f"arms/{arm.label} and restricted/blocks/{arm.label} out of the study's folder: the same command trains this "
        "arm again, and dptrain report shows the others.",
    ]


def _aggregate(arm: ArmResult, share: float, num_nonmembers_M: NDArray[np.int64], num_pairs: int) -> list[str]:
    assert arm.cap is not None
    auc_cap = min(1.0, float(np.mean(arm.cap.auc + (arm.cap.auc - 0.5) / num_nonmembers_M)))
    looks: list[tuple[str, Estimate, float]] = [("AUC of the attack", arm.attack.auc, auc_cap)]
    for fpr, tpr in arm.attack.tpr_at_fpr.items():
        if tpr is not None:
            cap = _cap_of_mean_tpr(arm.cap.curve, fpr, num_nonmembers_M)
            looks.append((f"true-positive rate at false-positive rate {fpr:g}", tpr, cap))
    found = []
    for name, observed, cap in looks:
        low = _lower_bound(observed, share / len(looks), num_pairs)
        if low > cap:
            found.append(
                f"Mean {name}: observed {observed.value:.4f} (95% interval {observed.low:.4f} to {observed.high:.4f}, "
                f"surely above {low:.4f}); the guarantee allows at most {cap:.4f}."
            )
    return found


def _cap_of_mean_tpr(curve: TradeOff, fpr: float, num_nonmembers_M: NDArray[np.int64]) -> float:
    passing_M = np.floor(fpr * num_nonmembers_M * (1 + 1e-12))
    expected_fpr_M = np.minimum((passing_M + 1) / (num_nonmembers_M + 1), 1.0)
    return float(np.mean([curve.max_tpr(float(one)) for one in expected_fpr_M]))


def _lower_bound(observed: Estimate, share: float, num_pairs: int) -> float:
    """One-sided lower bound at level `share`, from the 95% t interval over twin pairs, which allows for their sharing
    references (`audit.targets`); its longer side, because the other may have been cut at 0 or 1."""
    if num_pairs < 3:
        return -math.inf
    error = max(observed.value - observed.low, observed.high - observed.value) / t.ppf(0.975, num_pairs - 1)
    return float(observed.value - t.ppf(1 - share, num_pairs - 1) * error)


def _patients(arm: ArmResult, share: float, wins_P: NDArray[np.int64], num_pairs: int) -> list[str]:
    assert arm.cap is not None
    fair = arm.cap.curve.max_tpr(0.5)
    ordered = np.sort(wins_P)[::-1]
    for fraction in MOST_EXPOSED:
        count = max(1, math.ceil(fraction * len(ordered)))
        fewest = int(ordered[count - 1])
        if tail_of_wins(fewest, num_pairs, fair) * len(ordered) / count <= share / len(MOST_EXPOSED):
            seen = f"at least {fewest} of the" if fewest < num_pairs else "all"
            return [
                f"{int((wins_P >= fewest).sum())} of {len(ordered)} patients: recognised in {seen} {num_pairs} pairs "
                f"of models; the guarantee allows {fair * num_pairs:.1f} on average."
            ]
    return []


def tail_of_wins(num_wins: int, num_pairs: int, probability: float) -> float:
    """Pr[Binomial(n, p) >= num_wins]."""
    return float(binom.sf(num_wins - 1, num_pairs, probability))
