"""The attacker's likelihood ratio per patient, cross-fitted so that chance reads 0.5.

Pooling leave-one-out scores over models into one AUC per patient is biased: each target's own signal is
missing from its side's reference mean, which pushes the AUC of a patient without any leakage below 0.5. Here
the twin pairs are cut into folds, the parameters of the ratio come from the other folds, and the AUC is taken
*within* a fold, where all scores were made with the same parameters (cross-fitting: Chernozhukov et al. 2018,
doi 10.1111/ectj.12097).
"""

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, IntArray, checked_membership, checked_patient
from dptrain.attacks.gaussian import Variance, predict_with
from dptrain.attacks.lira import default_variance, fit_priors, log_ratio
from dptrain.attacks.moments import References, slices
from dptrain.attacks.patient import add_pieces
from dptrain.attacks.protocol import Pieces
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
    num_records, num_patients = np.asarray(patient_N).size, np.asarray(membership_MP).shape[-1]
    patient = checked_patient(patient_N, num_records, num_patients)
    membership = checked_membership(membership_MP, (np.shape(membership_MP)[0], num_patients))
    references = References.of(signals_MN, membership[:, patient])
    unit_M = references.unit_M
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
        scores_FP = add_pieces(
            _held_out(references, np.flatnonzero(inside), variance), patient, inside.sum(), num_patients
        )
        auc_P = auc_from_ranks(patient_ranks(scores_FP), membership[inside])
        num_in = membership[inside].sum(axis=0)
        weight = (num_in * (int(inside.sum()) - num_in)).astype(np.float64)
        weighted_P += np.where(weight > 0, np.nan_to_num(auc_P) * weight, 0.0)
        weight_P += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weighted_P / weight_P, dtype=np.float64)


def _held_out(references: References, models: IntArray, variance: Variance | None) -> Pieces:
    """Yield the scores of the held-out models, with parameters from all others."""
    how = variance or default_variance(references.num_models - models.size)
    sides = [references.without(models, records) for records in slices(references.num_records)]
    prior_in, prior_out = fit_priors(sides, references.num_records, how)
    for records, (inside, outside) in zip(slices(references.num_records), sides, strict=True):
        p_in, p_out = predict_with(inside, how, prior_in), predict_with(outside, how, prior_out)
        for place, model in enumerate(models):
            yield place, records, log_ratio(p_in, p_out, references.centred(int(model), records))
