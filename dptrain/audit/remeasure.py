"""The winner's curse: patients who look most exposed on some models, measured again on other models.

Whoever is picked because of a high measured AUC has, on average, a lower true one: noise helped to be picked. So the
twin pairs are cut into two halves at random; the most exposed patients of one half are measured on the other, which had
no say in picking them, and the other way round. The picked AUCs are too high, the re-measured ones are not: they are
unbiased for AUCs of these patients. Both are for printing, side by side. Each half has half of the models, so fewer of
the truly exposed are found than with all of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray, checked_matrix, checked_membership
from dptrain.attacks.twins import find_twins
from dptrain.audit.interval import Interval, area_interval
from dptrain.audit.matched import half_sample_auc
from dptrain.audit.patients import patient_auc
from dptrain.audit.top_share import num_in_top, top_weights


@dataclass(frozen=True)
class PickedPatients:
    """Patients picked on one half of the twin pairs. RESTRICTED: one value per patient."""

    patient_S: IntArray
    """Columns of the evidence."""
    weight_S: FloatArray
    """1, or less for those who share the last places because they are tied."""
    picked_auc_S: FloatArray
    """On the half that picked them: too high."""
    remeasured_auc_S: FloatArray
    """On the other half."""


@dataclass(frozen=True)
class Remeasurement:
    """Mean AUC of the most exposed patients, as picked and measured again; means over both directions."""

    num_picked: int
    """Patients picked in each direction."""
    num_twin_pairs: tuple[int, int]
    """In each half."""
    picked: float
    """Mean AUC on the half that picked: too high."""
    remeasured: Interval
    """Mean AUC of the same patients on the other half; the interval is about other random halves of the patients."""
    directions: tuple[PickedPatients, PickedPatients]

    @property
    def shrinkage(self) -> float:
        """Share of the excess over 0.5 that was luck: 0 none, 1 all of it. NaN without any excess."""
        excess = self.picked - 0.5
        return (self.picked - self.remeasured.value) / excess if excess > 0.0 else float("nan")


def remeasure(
    evidence_MP: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    top_fraction: float = 0.01,
    num_resamples: int = 200,
    confidence: float = 0.95,
) -> Remeasurement:
    """Return picked and re-measured AUCs of the most exposed patients.

    Args:
        evidence_MP: (M, P) `patient_evidence`, which does not depend on memberships.
        membership_MP: (M, P) bool, in twins.
        rng: cuts the pairs into halves and draws the half-samples behind the interval.
        top_fraction: of the patients, rounded up, are picked.
        num_resamples: half-samples of the pairs of each half.
        confidence: of the interval.

    Raises:
        ValueError: shapes that do not fit, evidence that is not finite, memberships that are not in twins, fewer than 4
        pairs, or fewer than 20 resamples.
    """
    evidence = checked_matrix(evidence_MP, "evidence")
    membership = checked_membership(membership_MP, (evidence.shape[0], evidence.shape[1]))
    twin = find_twins(membership)
    first = np.flatnonzero(np.arange(twin.size) < twin)
    if np.any(twin < 0) or first.size < 4 or num_resamples < 20:
        raise ValueError(
            f"num_models={twin.size} ({int((twin < 0).sum())} without a twin), num_resamples={num_resamples}: "
            "expected at least 4 pairs of twins and 20 resamples. Train at least 8 models."
        )
    num_top = num_in_top(evidence.shape[1], top_fraction)
    shuffled = rng.permutation(first)
    halves = [np.sort(part) for part in (shuffled[: first.size // 2], shuffled[first.size // 2 :])]
    models = [np.sort(np.concatenate([half, twin[half]])) for half in halves]
    aucs = [np.round(patient_auc(evidence[some], membership[some]), 12) for some in models]
    picked, remeasured, variances, directions = [], [], [], []
    for one, other in ((0, 1), (1, 0)):
        weight_P = top_weights(aucs[one], num_top)
        who = np.flatnonzero(weight_P > 0.0)
        share_S = weight_P[who] / num_top
        picked.append(float(share_S @ aucs[one][who]))
        remeasured.append(float(share_S @ aucs[other][who]))
        some = np.ix_(models[other], who)
        variances.append(_variance_over_pairs(evidence[some], membership[some], share_S, num_resamples, rng))
        directions.append(PickedPatients(who, weight_P[who], aucs[one][who], aucs[other][who]))
    error = float(np.sqrt(sum(variances))) / 2.0
    sizes = (halves[0].size, halves[1].size)
    return Remeasurement(
        num_picked=num_top,
        num_twin_pairs=sizes,
        picked=sum(picked) / 2.0,
        remeasured=area_interval(sum(remeasured) / 2.0, error, confidence, sum(sizes) - 2),
        directions=(directions[0], directions[1]),
    )


def _variance_over_pairs(
    evidence_MS: FloatArray, membership_MS: BoolArray, share_S: FloatArray, num_resamples: int, rng: np.random.Generator
) -> float:
    """Variance of the weighted mean AUC over redraws of the pairs, from half-samples (as in `matched`)."""
    num_pairs = evidence_MS.shape[0] // 2
    size = num_pairs // 2
    base_RH = np.zeros((num_resamples, num_pairs), dtype=np.bool_)
    base_RH[:, :size] = True
    means_R = half_sample_auc(evidence_MS, membership_MS, rng.permuted(base_RH, axis=1)).astype(np.float64) @ share_S
    return float(means_R.var(ddof=1) * size / (num_pairs - size))
