"""Members' and non-members' scores, each sorted once: AUC, TPR at an FPR, and their intervals over units."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray
from dptrain.audit.interval import Interval, area_interval, check_fraction, clopper_pearson

_PLACES_IN_GAP = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where a threshold may lie between two neighbouring non-members; with more than `_FEW_PASSING` the middle will do."""

_FEW_PASSING = 48


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
        values, member = checked_scores(scores, is_member)
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
        check_fraction("fpr", fpr)
        check_fraction("confidence", confidence)
        num_in, num_out = self.inside_I.size, self.outside_O.size
        allowed = allowed_false_positives(fpr, num_out)
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


def allowed_false_positives(fpr: float, num_nonmembers: int) -> int:
    # 0.1 * 10 must allow one false positive whatever the rounding of the product.
    return int(np.floor(fpr * num_nonmembers * (1.0 + 1e-12)))


def checked_scores(scores: npt.ArrayLike, is_member: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
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
