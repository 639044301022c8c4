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
from scipy import optimize, special

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray
from dptrain.audit.interval import Interval, area_interval

FPRS = (0.1, 0.01, 0.001)
"""False-positive rates reported by default."""

_PLACES_IN_GAP = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where a threshold may lie between two neighbouring non-members; with more than `_FEW_PASSING` the middle will do."""

_FEW_PASSING = 48


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC, one per distinct score, from (0, 0) to (1, 1); "member" means score >= threshold."""

    fpr: FloatArray
    tpr: FloatArray
    thresholds: FloatArray
    """Falling; the first is +inf."""
    num_members: int
    num_nonmembers: int


@dataclass(frozen=True)
class TprAtFpr:
    """True-positive rate at a false-positive rate, as fractions, with a 95% (by default) interval."""

    fpr: float
    """Asked for."""
    tpr: float
    """NaN if not estimable."""
    realised_fpr: float
    """Of the conservative threshold; at most `fpr`."""
    threshold: float
    num_true_positives: int
    num_false_positives: int
    num_members: int
    num_nonmembers: int
    low: float
    high: float
    estimable: bool
    """False below 1/fpr non-members (or without members): no false positive is then allowed to be seen."""


@dataclass(frozen=True)
class RankedScores:
    """The scores of members and of non-members, each sorted rising: all that a ROC needs, sorted once."""

    inside_I: FloatArray
    outside_O: FloatArray

    @classmethod
    def of(cls, scores: npt.ArrayLike, is_member: npt.ArrayLike) -> "RankedScores":
        """Arguments and errors as `auc`."""
        values, member = _checked(scores, is_member)
        return cls(np.sort(values[member]), np.sort(values[~member]))

    @property
    def auc(self) -> float:
        """See the function `auc`."""
        below, up_to = self._places()
        return float(below.sum() + up_to.sum()) / 2.0 / (self.inside_I.size * self.outside_O.size)

    def auc_interval(self, confidence: float = 0.95) -> Interval:
        """Return the AUC with its interval over units (DeLong, DeLong & Clarke-Pearson 1988), on the logit scale.

        At an AUC of exactly 0 or 1 no spread is seen; the interval then reaches as far as it would with one pair of a
        member and a non-member in the other order (of all pairs, half a pair on average).
        """
        num_in, num_out = self.inside_I.size, self.outside_O.size
        below, up_to = self._places()
        value = float(below.sum() + up_to.sum()) / 2.0 / (num_in * num_out)
        if num_in < 2 or num_out < 2:
            return Interval(value, 0.0, 1.0)
        placement_in = (below + up_to) / (2.0 * num_out)
        # Of the sorted non-members, number j is below member i just if j < below[i].
        not_above = [np.cumsum(np.bincount(place, minlength=num_out + 1))[:num_out] for place in (below, up_to)]
        placement_out = 1.0 - (not_above[0] + not_above[1]) / (2.0 * num_in)
        variance = float(placement_in.var(ddof=1)) / num_in + float(placement_out.var(ddof=1)) / num_out
        if 0.0 < value < 1.0:
            return area_interval(value, float(np.sqrt(variance)), confidence)
        end = clopper_pearson(0, min(num_in, num_out), confidence)[1]
        return Interval(value, 1.0 - end, 1.0) if value == 1.0 else Interval(value, 0.0, end)

    def tpr_at_fpr(self, fpr: float, confidence: float = 0.95) -> TprAtFpr:
        """See the function `tpr_at_fpr`."""
        _check_fraction("fpr", fpr)
        _check_fraction("confidence", confidence)
        num_in, num_out = self.inside_I.size, self.outside_O.size
        allowed = _allowed(fpr, num_out)
        if allowed < 1:
            nan = float("nan")
            return TprAtFpr(fpr, nan, nan, float("inf"), 0, 0, num_in, num_out, nan, nan, False)
        cut = self.outside_O[num_out - 1 - allowed] if allowed < num_out else -np.inf
        tp = num_in - int(np.searchsorted(self.inside_I, cut, side="right"))
        fp = num_out - int(np.searchsorted(self.outside_O, cut, side="right"))
        lowest = [side[-count] for side, count in ((self.inside_I, tp), (self.outside_O, fp)) if count]
        low, high = self._rank_mixture_interval(fpr, confidence)
        tpr = tp / num_in
        return TprAtFpr(
            fpr=fpr,
            tpr=tpr,
            realised_fpr=fp / num_out,
            threshold=float(min(lowest, default=np.inf)),
            num_true_positives=tp,
            num_false_positives=fp,
            num_members=num_in,
            num_nonmembers=num_out,
            low=min(low, tpr),
            high=max(high, tpr),
            estimable=True,
        )

    def _places(self) -> tuple[IntArray, IntArray]:
        """For every member the number of non-members below it, and below or level with it."""
        below = np.searchsorted(self.outside_O, self.inside_I, side="left")
        next_up = self.outside_O[np.minimum(below, self.outside_O.size - 1)]
        if not np.any(next_up == self.inside_I):
            return below, below
        return below, np.searchsorted(self.outside_O, self.inside_I, side="right")

    def _hits(self, allowed: IntArray) -> FloatArray:
        """Return the most true positives of any threshold with at most so many false positives (0 if none has)."""
        num_in, num_out = self.inside_I.size, self.outside_O.size
        place = num_out - 1 - allowed
        cut = np.where(place >= 0, self.outside_O[np.clip(place, 0, num_out - 1)], -np.inf)
        hits = num_in - np.searchsorted(self.inside_I, cut, side="right")
        return np.where(allowed >= 0, hits, 0).astype(np.float64)

    def _rank_mixture_interval(self, fpr: float, confidence: float) -> tuple[float, float]:
        num_in, num_out = self.inside_I.size, self.outside_O.size
        tail = (1.0 - confidence) / 2.0
        reach = 6.0 * float(np.sqrt(num_out * fpr * (1.0 - fpr)))
        few, many = max(int(num_out * fpr - reach), 0), min(int(num_out * fpr + reach) + 8, num_out)
        # A smooth weight may be taken at fewer places, evenly spaced: 64 of them leave no visible error.
        passing = np.arange(few, many + 1, max(1, (many - few) // 64))
        log_weight = passing * np.log(fpr) + (num_out - passing) * np.log1p(-fpr)
        log_weight -= special.gammaln(passing + 1.0) + special.gammaln(num_out - passing + 1.0)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        # If k non-members pass the true threshold, it lies between the k-th and the (k+1)-th largest of them, anywhere:
        # so do the members that pass it, between those above the one and those above the other. In the far tail the
        # two differ much, and taking one of them alone covered 79% instead of 95% at one expected false positive.
        few_hits, gap = self._hits(passing - 1), self._hits(passing) - self._hits(passing - 1)
        places = _PLACES_IN_GAP if passing.size <= _FEW_PASSING else (0.5,)
        hits = np.concatenate([few_hits + gap * place for place in places])
        weight = np.tile(weight / len(places), len(places))
        # Jeffreys' prior for the fraction of members above the threshold.
        above, not_above = hits + 0.5, num_in - hits + 0.5
        mean = above / (num_in + 1.0)
        centre = float(weight @ mean)
        spread = float(weight @ (mean * (1.0 - mean) / (num_in + 2.0) + (mean - centre) ** 2)) ** 0.5
        ends = max(centre - 4.0 * spread, 0.0), min(centre + 4.0 * spread, 1.0)

        def quantile(probability: float) -> float:
            def excess(fraction: float) -> float:
                return float(weight @ special.betainc(above, not_above, fraction)) - probability

            low, high = ends[0] if excess(ends[0]) < 0.0 else 0.0, ends[1] if excess(ends[1]) > 0.0 else 1.0
            return float(optimize.brentq(excess, low, high, xtol=1e-9, rtol=1e-7))

        low = 0.0 if float(weight @ (hits < 0.5)) > tail else quantile(tail)
        high = 1.0 if float(weight @ (hits > num_in - 0.5)) > tail else quantile(1.0 - tail)
        return low, high


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
    values, member = _checked(scores, is_member)
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
    values, member = _checked(scores, is_member)
    _check_fraction("fpr", fpr)
    _check_fraction("confidence", confidence)
    nonmember_scores = rng.permutation(values[~member])
    half = nonmember_scores.size // 2
    choosing, counting = nonmember_scores[:half], nonmember_scores[half:]
    num_in, num_out = int(member.sum()), counting.size
    allowed = _allowed(fpr, half)
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


def clopper_pearson(count: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval for a fraction (Clopper & Pearson 1934, doi
    10.1093/biomet/26.4.404).

    Non-integer counts are allowed (effective sample sizes).

    Raises:
        ValueError: a count outside 0..total, or a confidence outside (0, 1).
    """
    _check_fraction("confidence", confidence)
    if not 0 <= count <= total or total <= 0:
        raise ValueError(f"count={count} must lie in 0..total={total}, with total above 0.")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(special.betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(special.betaincinv(count + 1, total - count, 1.0 - tail))
    return low, high


def _allowed(fpr: float, num_nonmembers: int) -> int:
    # 0.1 * 10 must allow one false positive whatever the rounding of the product.
    return int(np.floor(fpr * num_nonmembers * (1.0 + 1e-12)))


def _cumulative(values: FloatArray, member: BoolArray) -> tuple[FloatArray, IntArray, IntArray]:
    order = np.argsort(values)[::-1]
    ranked = values[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    true_positives = np.cumsum(member[order], dtype=np.int64)[last_of_tie]
    false_positives = last_of_tie.astype(np.int64) + 1 - true_positives
    return ranked[last_of_tie], true_positives, false_positives


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value} must be a fraction between 0 and 1, for example 0.01 for one percent.")


def _checked(scores: npt.ArrayLike, is_member: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    values = np.asarray(scores, dtype=np.float64)
    member = np.asarray(is_member)
    if values.ndim != 1 or member.shape != values.shape or member.dtype != np.bool_:
        raise ValueError(
            f"scores.shape={values.shape} and is_member.shape={member.shape} (dtype {member.dtype}) must both be (N,), "
            "the latter bool."
        )
    if np.isnan(values).any():
        raise ValueError("scores holds NaN; expected numbers. Leave units without a score out.")
    if member.all() or not member.any():
        raise ValueError(f"is_member has {int(member.sum())} members of {member.size}; expected both kinds.")
    return values, member
