"""LiRA, the likelihood ratio attack: how typical is the target's signal of models with and without the
record?

Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv 2112.03570), algorithm 1 and
the offline variant of section V-D. Each of the M models is the target once; its references are all other
models *except its twin*, every one of them, whatever the number on each side. The whole costs O(MN) time and, beside
the result, O(N) memory; `lira_pieces` does not even hold the result.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, IntArray, checked_targets
from dptrain.attacks.gaussian import (
    Moments,
    Predictive,
    Prior,
    SpreadSums,
    Variance,
    log_density,
    predict_with,
    prior_sample,
    prior_stride,
    tail_score,
)
from dptrain.attacks.moments import References, slices

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
    return _collected(signals_MN, membership_MN, variance, targets, online=True)


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
    return _collected(signals_MN, membership_MN, variance, targets, online=False)


def lira_pieces(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    variance: Variance | None = None,
    *,
    online: bool,
    targets: npt.ArrayLike | None = None,
) -> Iterator[tuple[int, slice, FloatArray]]:
    """Yield the scores of `lira_online` or `lira_offline` as (place in targets, records, their scores).

    Every target and record comes once; memory does not grow with the number of targets. Arguments and errors as
    `lira_online`.
    """
    references = References.of(signals_MN, membership_MN)
    chosen = checked_targets(targets, references.num_models)
    for places, models in references.units(chosen):
        how = variance or default_variance(references.num_models - models.size)
        sides = [references.without(models, records) for records in slices(references.num_records)]
        prior_in, prior_out = fit_priors(sides, references.num_records, how)
        for records, (inside, outside) in zip(slices(references.num_records), sides, strict=True):
            p_out = predict_with(outside, how, prior_out)
            p_in = predict_with(inside, how, prior_in) if online else None
            for place in places:
                signal = references.centred(int(chosen[place]), records)
                yield int(place), records, log_ratio(p_in, p_out, signal) if p_in else _offline(p_out, signal)


def _collected(
    signals_MN: npt.ArrayLike,
    membership_MN: npt.ArrayLike,
    variance: Variance | None,
    targets: npt.ArrayLike | None,
    *,
    online: bool,
) -> FloatArray:
    num_models, num_records = np.shape(signals_MN) if np.ndim(signals_MN) == 2 else (1, 1)
    scores_TN = np.empty((checked_targets(targets, num_models).size, num_records), dtype=np.float64)
    for place, records, scores in lira_pieces(signals_MN, membership_MN, variance, online=online, targets=targets):
        scores_TN[place, records] = scores
    return scores_TN


def fit_priors(sides: Sequence[tuple[Moments, Moments]], num_records: int, variance: Variance) -> tuple[Prior, Prior]:
    """Return what all records say about the spread of IN and of OUT signals, from the moments of their pieces."""
    stride = prior_stride(num_records)
    sums = [SpreadSums(0.0, 0.0), SpreadSums(0.0, 0.0)]
    samples: list[list[tuple[IntArray, FloatArray]]] = [[], []]
    start = 0
    for both in sides:
        for place, (side, other) in enumerate((both, both[::-1])):
            sums[place] += SpreadSums.of(side, other)
            samples[place].append(prior_sample(side, stride, start))
        start += both[0].count_N.size
    counts_squares = [[np.concatenate(parts) for parts in zip(*side, strict=True)] for side in samples]
    prior_in, prior_out = (
        total.prior(count, squares, variance) for total, (count, squares) in zip(sums, counts_squares, strict=True)
    )
    return prior_in, prior_out


def log_ratio(p_in: Predictive, p_out: Predictive, signal: FloatArray) -> FloatArray:
    """Return log p(signal | IN) - log p(signal | OUT), 0 without references on either side."""
    ratio = log_density(p_in, signal) - log_density(p_out, signal)
    return np.asarray(ratio * (p_in.known_N & p_out.known_N), dtype=np.float64)


def _offline(p_out: Predictive, signal: FloatArray) -> FloatArray:
    return np.where(p_out.known_N, tail_score(p_out, signal), np.log(2.0))
