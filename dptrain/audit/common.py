"""What all patients share: if models differ in how much they leak, redrawing them moves all patients together.

Redrawing the models moves each patient on his own, which the spread over patients shows; the common part it does not
show. It is measured on half-samples of the twin pairs, as in `matched`: the variance of a figure over half-samples,
less what the patients' own movements explain. Without it the interval of the mean AUC covered 50% instead of 95%, and
that of a count 60%, where all patients leak and the models' strength varies by a factor of 1.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import checked_membership
from dptrain.attacks.twins import find_twins
from dptrain.audit.interval import Interval, normal_interval
from dptrain.audit.matched import half_sample_auc, half_samples
from dptrain.audit.patients import patient_auc

_SAMPLE = 4_000
"""Patients, evenly spaced, on whom the common part is measured."""

_NUM_HALVES = 200
_FEWEST_PAIRS = 4


def mean_auc_interval(
    evidence_MP: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean patient AUC with its interval.

    Fleets that are not all twins, or with fewer than 4 pairs, get the spread over patients alone.

    Args:
        evidence_MP: (M, P) `patient_evidence`, finite.
        membership_MP: (M, P) bool.
        rng: draws the half-samples.
        confidence: of the interval.

    Raises:
        ValueError: shapes that do not fit, or no patient with both IN and OUT models.
    """
    evidence = np.asanyarray(evidence_MP)
    membership = checked_membership(membership_MP, (evidence.shape[0], evidence.shape[1]))
    area_P = patient_auc(evidence, membership)
    return mean_interval(area_P, common_parts(evidence, membership, rng), confidence)


@dataclass(frozen=True)
class CommonParts:
    """Variances over redraws of the twin pairs that all patients share."""

    of_mean: float = 0.0
    of_share: dict[float, float] = field(default_factory=dict)
    """Of the fraction of patients at or above an AUC, by AUC."""
    df: int = 1
    """Pairs of twins minus one."""


def common_parts(
    evidence_MP: npt.NDArray[np.floating],
    membership_MP: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    thresholds: Sequence[float] = (),
) -> CommonParts:
    """Return the common parts of the mean AUC and of the shares above `thresholds`; 0 without twins."""
    twin = find_twins(membership_MP)
    num_pairs = twin.size // 2
    if np.any(twin < 0) or num_pairs < _FEWEST_PAIRS:
        return CommonParts()
    some = slice(None, None, max(1, evidence_MP.shape[1] // _SAMPLE))
    halves_RP = half_sample_auc(
        np.asarray(evidence_MP[:, some], dtype=np.float64),
        membership_MP[:, some],
        half_samples(num_pairs, _NUM_HALVES, rng),
    )
    shrink = (num_pairs // 2) / (num_pairs - num_pairs // 2)

    def common(value_RP: npt.NDArray[np.float32]) -> float:
        of_mean = float(value_RP.mean(axis=1, dtype=np.float64).var(ddof=1))
        own = float(value_RP.var(axis=0, ddof=1, dtype=np.float64).mean()) / value_RP.shape[1]
        return float(shrink * max(of_mean - own, 0.0))

    shares = {t: common((halves_RP >= t - 1e-6).astype(np.float32)) for t in thresholds}
    return CommonParts(common(halves_RP), shares, num_pairs - 1)


def mean_interval(
    values_P: npt.ArrayLike, common_part: CommonParts = CommonParts(), confidence: float = 0.95
) -> Interval:
    """Return the mean of the values that are not NaN, with the variance over patients and the common one added.

    The degrees of freedom are Satterthwaite's (1946).

    Raises:
        ValueError: no value.
    """
    values = np.asarray(values_P, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise ValueError("patient_auc holds no number; expected at least one patient with both IN and OUT models.")
    value = float(values.mean())
    if values.size < 2:
        return Interval(value, 0.0, 1.0)
    common, common_df = common_part.of_mean, common_part.df
    own = float(values.var(ddof=1)) / values.size
    df = (own + common) ** 2 / (own**2 / (values.size - 1) + common**2 / max(common_df, 1)) if own + common else np.inf
    found = normal_interval(value, float(np.sqrt(own + common)), confidence, float(df))
    return Interval(value, max(found.low, 0.0), min(found.high, 1.0))
