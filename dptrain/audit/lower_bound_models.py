"""Lower bound on epsilon from many trainings with and without one canary (Clopper & Pearson; Jagielski, Ullman & Oprea
2020, arXiv 2006.07709).

(epsilon, delta)-privacy means TPR <= e^epsilon FPR + delta for every threshold, and the same for true and false
negatives. The rates are counted over models, each with its exact one-sided bound at half of the error. Canary,
direction and threshold are chosen on the first half of the twin pairs and tested on the other half alone: choosing
costs models, but no correction for the number of thresholds that were tried.

Within a pair the model with and the model without the canary depend on each other (their other patients are
complementary). The two bounds do not need independence between the sides, only within each.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from dptrain.attacks.checks import BoolArray, FloatArray, checked_matrix, checked_membership
from dptrain.audit.lower_bound import CONFIDENCE, EpsilonLowerBound


def epsilon_of_counts(
    hits: npt.ArrayLike, false_alarms: npt.ArrayLike, num_in: int, num_out: int, delta: float, error: float
) -> FloatArray:
    """Return ln((TPR_low - delta) / FPR_high), at least 0, each bound wrong with probability error / 2.

    Args:
        hits, false_alarms: models with and without the canary on the positive side; any equal shape.
        num_in, num_out: models with and without.
        delta: of the guarantee that is tested.
        error: 1 - confidence.
    """
    hit, alarm = np.asarray(hits, dtype=np.float64), np.asarray(false_alarms, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(hit > 0, special.betaincinv(np.maximum(hit, 1), num_in - hit + 1, error / 2.0), 0.0)
        high = np.where(
            alarm < num_out, special.betaincinv(alarm + 1, np.maximum(num_out - alarm, 1), 1.0 - error / 2.0), 1.0
        )
        return np.asarray(np.log(np.maximum((np.maximum(low - delta, 0.0)) / high, 1.0)), dtype=np.float64)


def models_bound(
    signals_MC: npt.ArrayLike,
    membership_MC: npt.ArrayLike,
    pair_M: npt.ArrayLike,
    delta: float,
    confidence: float = CONFIDENCE,
) -> EpsilonLowerBound:
    """Return the bound from one canary over all models.

    Args:
        signals_MC: (M, C) finite signals of the canaries, HIGHER MEANS MEMBER.
        membership_MC: (M, C) bool.
        pair_M: (M,) which models are twins.
        delta: of the guarantee that is tested.
        confidence: of the result.

    Raises:
        ValueError: shapes that do not fit, or fewer than two pairs.
    """
    signals = checked_matrix(signals_MC, "signals")
    membership = checked_membership(membership_MC, (signals.shape[0], signals.shape[1]))
    pairs, pair = np.unique(np.asarray(pair_M), return_inverse=True)
    if pairs.size < 2:
        raise ValueError(f"{pairs.size} pair of models: choosing a threshold and testing it takes two pairs or more.")
    chosen_on, tested_on = pair < pairs.size // 2, pair >= pairs.size // 2
    canary, sign, threshold = _choose(signals[chosen_on], membership[chosen_on], delta, 1.0 - confidence)
    positive = sign * signals[tested_on, canary] >= threshold
    member = membership[tested_on, canary]
    num_in, num_out = int(member.sum()), int((~member).sum())
    hits, alarms = int(positive[member].sum()), int(positive[~member].sum())
    # A low signal can only be evidence of absence: there the roles of the two sides are exchanged.
    if sign < 0:
        hits, alarms, num_in, num_out = alarms, hits, num_out, num_in
    error = 1.0 - confidence
    return EpsilonLowerBound(
        float(epsilon_of_counts(hits, alarms, num_in, num_out, delta, error)),
        "clopper_pearson",
        num_in + num_out,
        hits + num_out - alarms,
        membership.size,
        confidence,
        float(epsilon_of_counts(num_in, 0, num_in, num_out, delta, error)),
    )


def _choose(signals: FloatArray, membership: BoolArray, delta: float, error: float) -> tuple[int, int, float]:
    """Canary, direction (1: high signals, tested on members; -1: low signals, on non-members) and threshold with the
    largest bound; the middle between neighbouring values is the threshold."""
    best = (-1.0, 0, 1, 0.0)
    for canary in range(signals.shape[1]):
        for sign in (1, -1):
            value = sign * signals[:, canary]
            positive_side = membership[:, canary] if sign > 0 else ~membership[:, canary]
            order = np.argsort(-value, kind="stable")
            hits, alarms = np.cumsum(positive_side[order]), np.cumsum(~positive_side[order])
            found = epsilon_of_counts(
                hits, alarms, int(positive_side.sum()), int((~positive_side).sum()), delta, error
            )
            place = int(np.argmax(found))
            after = value[order[min(place + 1, value.size - 1)]]
            if found[place] > best[0]:
                best = (float(found[place]), canary, sign, float(0.5 * (value[order[place]] + after)))
    return best[1:]
