"""LiRA, the likelihood ratio attack: how typical is the target's signal of models with and without the
record?

Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv 2112.03570), algorithm 1 and
the offline variant of section V-D. Each of the M models is the target once; its references are all other
models *except its twin*, every one of them, whatever the number on each side. Sums over all models are kept
and the target's and the twin's own values taken out of them, so the whole costs O(MN) time and, beside the
result, O(N) memory.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import (
    BoolArray,
    FloatArray,
    IntArray,
    checked_matrix,
    checked_membership,
    checked_targets,
)
from dptrain.attacks.gaussian import Moments, Variance, log_density, predict, tail_score
from dptrain.attacks.twins import find_twins

SHRUNK_BELOW = 64
"""Below this number of references the shrunk variance is the default."""


def default_variance(num_references: int) -> Variance:
    """Return the variance estimate used when none is asked for: shrunk below 64 references, else per
    record."""
    return "shrunk" if num_references < SHRUNK_BELOW else "per_record"


def lira_online(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    variance: Variance | None = None,
    *,
    targets: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return (T, N) log p(signal | IN) - log p(signal | OUT) for every target and record. HIGHER MEANS
    MEMBER.

    A record without any IN or without any OUT reference scores 0 (no evidence); with a single reference on a
    side the spread is pooled over records (see `gaussian.predict`).

    Args:
        signals_MN: (M, N) finite signals.
        membership_MN: (M, N) bool.
        variance: per_record, pooled or shrunk; None means `default_variance`.
        targets: indices of the attacked models; None means all, T = M.

    Raises:
        ValueError: shapes that do not fit, signals that are not finite, or fewer than 2 references for a
        target.
    """
    references = _References.of(signals_MN, membership_MN)
    chosen = checked_targets(targets, references.num_models)
    scores_TN = np.empty((chosen.size, references.signals.shape[1]), dtype=np.float64)
    for place, target in enumerate(chosen):
        inside, outside, num_references = references.without(int(target))
        how = variance or default_variance(num_references)
        p_in = predict(inside, how, outside)
        p_out = predict(outside, how, inside)
        signal = references.centred(int(target))
        ratio = log_density(p_in, signal) - log_density(p_out, signal)
        scores_TN[place] = ratio * p_in.known_N * p_out.known_N
    return scores_TN


def lira_offline(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    variance: Variance | None = None,
    *,
    targets: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return (T, N) -log Pr[OUT signal >= observed signal]: the one-sided test. HIGHER MEANS MEMBER.

    Uses OUT references only, as an attacker who cannot train on the record must. One-sided, because the
    density of the OUT signals would also call a signal that is far too *low* a member. The order of records
    is that of Pr[OUT <= observed] in the paper; on the logarithmic scale there are no ties at the top and
    patients' records can be added up (Fisher's combination of p-values). A record without OUT references
    scores log 2, the value of a signal exactly at its expected place.

    Arguments and errors as `lira_online`.
    """
    references = _References.of(signals_MN, membership_MN)
    chosen = checked_targets(targets, references.num_models)
    scores_TN = np.empty((chosen.size, references.signals.shape[1]), dtype=np.float64)
    for place, target in enumerate(chosen):
        _, outside, num_references = references.without(int(target))
        p_out = predict(outside, variance or default_variance(num_references))
        score = tail_score(p_out, references.centred(int(target)))
        scores_TN[place] = np.where(p_out.known_N > 0, score, np.log(2.0))
    return scores_TN


@dataclass(frozen=True)
class _References:
    """Sums over all models, from which a target and its twin can be taken out. Index 0 is OUT, 1 is IN."""

    signals: FloatArray
    membership: BoolArray
    twin_M: IntArray
    centre_N: FloatArray
    count_2N: IntArray
    sum_2N: FloatArray
    square_2N: FloatArray

    @classmethod
    def of(cls, signals_MN: npt.ArrayLike, membership_MN: npt.ArrayLike) -> "_References":
        signals = checked_matrix(signals_MN, "signals")
        num_models, num_records = signals.shape
        membership = checked_membership(membership_MN, (num_models, num_records))
        twin_M = find_twins(membership)
        # Signals are centred on each record's mean: sums of squares then lose no digits to a large common
        # offset.
        centre_N = signals.mean(axis=0)
        count_2N = np.zeros((2, num_records), dtype=np.int64)
        sum_2N = np.zeros((2, num_records))
        square_2N = np.zeros((2, num_records))
        for row, member_N in zip(signals, membership, strict=True):
            _add(count_2N, sum_2N, square_2N, row - centre_N, member_N, 1)
        return cls(signals, membership, twin_M, centre_N, count_2N, sum_2N, square_2N)

    @property
    def num_models(self) -> int:
        return int(self.signals.shape[0])

    def centred(self, model: int) -> FloatArray:
        return np.asarray(self.signals[model] - self.centre_N, dtype=np.float64)

    def without(self, target: int) -> tuple[Moments, Moments, int]:
        """Return the IN and OUT moments and the number of the references of `target`."""
        left_out = [target] if self.twin_M[target] < 0 else [target, int(self.twin_M[target])]
        num_references = self.num_models - len(left_out)
        if num_references < 2:
            raise ValueError(
                f"num_models={self.num_models} leaves {num_references} reference models for target {target} "
                "(its twin is never one); expected at least 2. Train at least 4 models, or use the threshold attack."
            )
        count, total, square = self.count_2N.copy(), self.sum_2N.copy(), self.square_2N.copy()
        for model in left_out:
            _add(count, total, square, self.centred(model), self.membership[model], -1)
        filled = np.maximum(count, 1)
        mean = total / filled
        deviation = np.maximum(square - total * mean, 0.0) * (count > 1)
        inside = Moments(count[1], mean[1], deviation[1])
        outside = Moments(count[0], mean[0], deviation[0])
        return inside, outside, num_references


def _add(
    count_2N: IntArray,
    sum_2N: FloatArray,
    square_2N: FloatArray,
    value_N: FloatArray,
    member_N: BoolArray,
    sign: int,
) -> None:
    inside = member_N.astype(np.float64)
    value_in = value_N * inside
    value_out = value_N - value_in
    count_2N[1] += sign * member_N
    count_2N[0] += sign * ~member_N
    sum_2N[1] += sign * value_in
    sum_2N[0] += sign * value_out
    square_2N[1] += sign * (value_in * value_in)
    square_2N[0] += sign * (value_out * value_out)
