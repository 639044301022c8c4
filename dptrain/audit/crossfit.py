"""The attacker's likelihood ratio per patient, cross-fitted so that chance reads 0.5.

Pooling leave-one-out scores over models into one AUC per patient is biased: each target's own signal is
missing from its side's reference mean, which pushes the AUC of a patient without any leakage below 0.5. Here
the twin pairs are cut into folds, the parameters of the ratio come from the other folds, and the AUC is taken
*within* a fold, where all scores were made with the same parameters (cross-fitting: Chernozhukov et al. 2018,
doi 10.1111/ectj.12097).
"""

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, checked_matrix, checked_membership, checked_patient
from dptrain.attacks.gaussian import Moments, Variance, log_density, predict
from dptrain.attacks.lira import default_variance
from dptrain.attacks.twins import model_units
from dptrain.audit.patients import auc_from_ranks, patient_ranks


def patient_attack_auc(
    signals_MN: npt.ArrayLike,
    membership_MP: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    num_folds: int = 4,
    variance: Variance | None = None,
) -> FloatArray:
    """Return (P,) the AUC of the sum of the records' log-likelihood ratios, cross-fitted over twin pairs.

    Fold k holds the pairs k, k + num_folds, ...; the folds' AUCs are averaged with weights n_in * n_out. With
    fewer pairs than folds every pair is a fold. NaN for patients who are in every model or in none.

    Args:
        signals_MN: (M, N) finite signals.
        membership_MP: (M, P) bool.
        patient_N: (N,) integers in 0..P-1.
        num_folds: at least 2.
        variance: per_record, pooled or shrunk; None means the default for the models outside a fold.

    Raises:
        ValueError: shapes that do not fit, signals that are not finite, fewer than 2 folds, or fewer than 2
        twin pairs.
    """
    signals = checked_matrix(signals_MN, "signals")
    num_patients = np.asarray(membership_MP).shape[-1]
    membership = checked_membership(membership_MP, (signals.shape[0], num_patients))
    patient = checked_patient(patient_N, signals.shape[1], num_patients)
    unit_M = model_units(membership)
    num_units = int(unit_M.max()) + 1
    if num_folds < 2 or num_units < 2:
        raise ValueError(
            f"num_folds={num_folds} over {num_units} twin pairs: expected at least 2 of each. "
            "Train at least 4 models, or use patient_auc, which needs no references."
        )
    folds = min(num_folds, num_units)
    fold_M = unit_M % folds
    weighted_P = np.zeros(num_patients)
    weight_P = np.zeros(num_patients)
    for fold in range(folds):
        inside = fold_M == fold
        scores_FP = _held_out_scores(signals, membership, patient, inside, variance)
        auc_P = auc_from_ranks(patient_ranks(scores_FP), membership[inside])
        num_in = membership[inside].sum(axis=0)
        weight = (num_in * (int(inside.sum()) - num_in)).astype(np.float64)
        weighted_P += np.where(weight > 0, np.nan_to_num(auc_P) * weight, 0.0)
        weight_P += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weighted_P / weight_P, dtype=np.float64)


def _held_out_scores(
    signals: FloatArray,
    membership: BoolArray,
    patient: npt.NDArray[np.int64],
    held_out: BoolArray,
    variance: Variance | None,
) -> FloatArray:
    """Return (F, P) scores of the held-out models with parameters from all others."""
    references = np.flatnonzero(~held_out)
    how = variance or default_variance(references.size)
    centre_N = signals[references].mean(axis=0)
    sides = [_moments(signals, membership, patient, references, centre_N, member) for member in (True, False)]
    p_in, p_out = predict(sides[0], how, sides[1]), predict(sides[1], how, sides[0])
    known_N = p_in.known_N * p_out.known_N
    targets = np.flatnonzero(held_out)
    scores_FP = np.empty((targets.size, membership.shape[1]))
    for place, target in enumerate(targets):
        signal = signals[target] - centre_N
        ratio = (log_density(p_in, signal) - log_density(p_out, signal)) * known_N
        scores_FP[place] = np.bincount(patient, weights=ratio, minlength=membership.shape[1])
    return scores_FP


def _moments(
    signals: FloatArray,
    membership: BoolArray,
    patient: npt.NDArray[np.int64],
    references: npt.NDArray[np.int64],
    centre_N: FloatArray,
    member: bool,
) -> Moments:
    count = np.zeros(patient.size, dtype=np.int64)
    total, square = np.zeros(patient.size), np.zeros(patient.size)
    for model in references:
        on_side = membership[model][patient] == member
        value = np.where(on_side, signals[model] - centre_N, 0.0)
        count += on_side
        total += value
        square += value * value
    mean = total / np.maximum(count, 1)
    return Moments(count, mean, np.maximum(square - total * mean, 0.0) * (count > 1))
