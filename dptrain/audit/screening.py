"""Ranks of patients from one training, and how far they agree with the risk that a fleet measured.

LT-IQR (Pollock, Shilov, Dodd & de Montjoye 2024, arXiv 2411.05743): a record whose loss moves far during training is
one that the model had to learn by itself. Its score is the interquartile range of its loss trace, q_0.75 - q_0.25 over
the points of the trace. HIGHER MEANS MORE EXPOSED. A score has no unit and is no probability: only the order of
patients means something, and only as far as the measured agreement goes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dptrain.attacks.checks import BoolArray, FloatArray, checked_matrix, checked_patient
from dptrain.audit.interval import NOT_ESTIMABLE, Interval
from dptrain.audit.patients import patient_auc
from dptrain.audit.roc import RankedScores, clopper_pearson

TOP_FRACTIONS = (0.01, 0.05)
EXPOSED_AUC = 0.8


@dataclass(frozen=True)
class TopAgreement:
    """Of the patients ranked first by the screen, how many are among as many that the fleet found most exposed."""

    fraction: float
    """Of all patients; also what blind guessing reaches."""
    num_patients: int
    """Picked by either."""
    num_shared: int
    precision: Interval


@dataclass(frozen=True)
class Agreement:
    """A screen's score against a fleet's patient AUC."""

    spearman: Interval
    """Rank correlation over patients."""
    top: tuple[TopAgreement, ...]
    exposed_auc: Interval
    """Probability that an exposed patient (patient AUC >= 0.8) is ranked before one who is not; NaN without both."""
    num_exposed: int


def loss_trace_iqr(losses_ER: npt.ArrayLike) -> FloatArray:
    """Return (R,) the interquartile range over the E points of each record's loss.

    Raises:
        ValueError: not a finite matrix.
    """
    low, high = np.quantile(checked_matrix(losses_ER, "losses"), [0.25, 0.75], axis=0)
    return np.asarray(high - low, dtype=np.float64)


def record_scores(losses_ER: npt.ArrayLike, gradients_GR: npt.ArrayLike | None) -> dict[str, FloatArray]:
    """Return the scores of R records by name: `lt_iqr`; `mean_loss` over the trace; `final_loss`; and, with gradients,
    `gradient_norm`, their mean over the trace."""
    losses = checked_matrix(losses_ER, "losses")
    scores = {"lt_iqr": loss_trace_iqr(losses), "mean_loss": losses.mean(axis=0), "final_loss": losses[-1].copy()}
    if gradients_GR is not None:
        scores["gradient_norm"] = checked_matrix(gradients_GR, "gradients").mean(axis=0)
    return scores


def patient_scores(scores_R: FloatArray, patient_R: npt.ArrayLike, num_patients: int) -> FloatArray:
    """Return (P,) sums over each patient's records: evidence adds up over records, so does what betrays it.

    Raises:
        ValueError: a patient without records.
    """
    patient = checked_patient(patient_R, scores_R.size, num_patients)
    return np.bincount(patient, weights=scores_R, minlength=num_patients).astype(np.float64)


def agreement(scores_P: npt.ArrayLike, risk_P: npt.ArrayLike, confidence: float = 0.95) -> Agreement:
    """Compare a screen's scores with the patient AUCs of a fleet; patients without an AUC are left out.

    Intervals are over patients: Spearman by Fisher's transformation with the variance of Bonett & Wright 2000 (doi
    10.1007/BF02294183), precision by Clopper & Pearson, AUC by DeLong. Ties at a cut are broken by position.

    Raises:
        ValueError: vectors of different lengths, or fewer than 10 patients with an AUC.
    """
    score, risk = np.asarray(scores_P, dtype=np.float64), np.asarray(risk_P, dtype=np.float64)
    if score.ndim != 1 or score.shape != risk.shape:
        raise ValueError(f"scores.shape={score.shape} and risk.shape={risk.shape} must be the same (P,).")
    known = np.isfinite(risk)
    score, risk = score[known], risk[known]
    if risk.size < 10:
        raise ValueError(f"{risk.size} patients have a measured risk; expected at least 10 to compare ranks.")
    exposed = risk >= EXPOSED_AUC - 1e-9
    return Agreement(
        spearman_interval(score, risk, confidence),
        tuple(_top(score, risk, fraction, confidence) for fraction in TOP_FRACTIONS),
        RankedScores.of(score, exposed).auc_interval(confidence) if 0 < exposed.sum() < risk.size else NOT_ESTIMABLE,
        int(exposed.sum()),
    )


def agreements(scores: Mapping[str, FloatArray], risk_P: npt.ArrayLike) -> dict[str, Agreement]:
    """Return `agreement` for every score."""
    return {name: agreement(values, risk_P) for name, values in scores.items()}


def spearman_interval(first_P: FloatArray, second_P: FloatArray, confidence: float = 0.95) -> Interval:
    """Return Spearman's correlation with its interval; NaN if one of the vectors is constant."""
    if np.ptp(first_P) == 0 or np.ptp(second_P) == 0:
        return NOT_ESTIMABLE
    value = float(np.corrcoef(stats.rankdata(first_P), stats.rankdata(second_P))[0, 1])
    if abs(value) >= 1.0 - 1e-12:
        return Interval(value, value, value)
    error = np.sqrt((1.0 + value**2 / 2.0) / max(1, first_P.size - 3))
    reach = float(stats.norm.ppf(0.5 + confidence / 2.0)) * error
    return Interval(value, float(np.tanh(np.arctanh(value) - reach)), float(np.tanh(np.arctanh(value) + reach)))


def fleet_reliability(
    evidence_MP: npt.ArrayLike, membership_MP: npt.ArrayLike, pair_M: npt.ArrayLike, rng: np.random.Generator
) -> float:
    """Return how far the fleet's own ranks would agree with those of another fleet as large: Spearman's correlation of
    the AUCs of two random halves of the twin pairs, stepped up to the whole (Spearman & Brown). A perfect screen can
    agree with the fleet to the square root of it. NaN if it cannot be told.

    Args:
        evidence_MP, membership_MP: as in `patient_auc`.
        pair_M: (M,) which models are twins.
        rng: for the halves; the mean over 10 ways to cut is returned.
    """
    evidence, membership = np.asarray(evidence_MP), np.asarray(membership_MP, dtype=bool)
    pair = np.unique(np.asarray(pair_M), return_inverse=True)[1]
    num_pairs = int(pair.max()) + 1
    if num_pairs < 4:
        return float("nan")
    found = []
    for _ in range(10):
        first = np.isin(pair, rng.permutation(num_pairs)[: num_pairs // 2])
        half = [_auc_of(evidence, membership, side) for side in (first, ~first)]
        known = np.isfinite(half[0]) & np.isfinite(half[1])
        if known.sum() > 2:
            found.append(spearman_interval(half[0][known], half[1][known]).value)
    mean = float(np.mean(found)) if found else float("nan")
    return 2.0 * mean / (1.0 + mean) if mean > 0 else (0.0 if np.isfinite(mean) else mean)


def _auc_of(evidence: FloatArray, membership: BoolArray, side: BoolArray) -> FloatArray:
    return patient_auc(evidence[side], membership[side])


def _top(score: FloatArray, risk: FloatArray, fraction: float, confidence: float) -> TopAgreement:
    count = max(1, int(np.ceil(fraction * score.size)))
    picked = set(np.argsort(-score, kind="stable")[:count].tolist())
    shared = len(picked & set(np.argsort(-risk, kind="stable")[:count].tolist()))
    return TopAgreement(
        fraction, count, shared, Interval(shared / count, *clopper_pearson(shared, count, confidence))
    )
