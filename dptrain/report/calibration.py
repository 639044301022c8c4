"""Can the probabilities be believed? AUPRC, Brier score and calibration slope with intervals, mean over models.

Two things vary, as for AUROC (`utility_interval`): the test patients, with the records of a patient kept together, and
the models, in twin pairs. The two variances add up.

* Brier score: mean squared distance of probability and outcome; 0 is perfect, 0.25 is saying 50% always.
* Calibration slope: of a logistic regression of the outcome on the logit (Cox 1958; Van Calster et al. 2019, doi
  10.1186/s12916-019-1466-7). 1 is right; below 1 the model is too sure of itself. Patients' influence by the sandwich.
  Not estimable where a model separates the outcomes without error.
* AUPRC: average precision. Patients' influence by leaving out a fortieth of the patients at a time (grouped jackknife;
  a twentieth of more than 10,000).

Several classes (one against the rest) and several labels: the mean over them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from dptrain.cohorts.cohort import Task
from dptrain.report.results import Estimate
from dptrain.report.utility_interval import interval_reach, standard_error
from dptrain.training.utility import binary_columns

_FOLDS = 40
_MANY_PATIENTS = 10_000
_LARGEST_LOGIT = 30.0


@dataclass(frozen=True)
class Calibration:
    """Means over models; None where it cannot be estimated."""

    auprc: Estimate | None
    brier: Estimate | None
    slope: Estimate | None
    prevalence: float
    """Mean share of positive records: the AUPRC of guessing."""


def calibration(
    logits_MNK: NDArray[np.floating], labels: NDArray, patient_N: NDArray[np.int64], task: Task, pair_M: NDArray
) -> Calibration:
    """Calibration of M models on the N test records of patients 0..P-1; memory O(N), time O(M K N log N)."""
    num_patients = int(patient_N.max()) + 1
    # Many patients: fewer folds, because each costs a pass over all records and the estimate is stable anyway.
    num_folds = min(_FOLDS if num_patients <= _MANY_PATIENTS else _FOLDS // 2, num_patients)
    fold_P = np.random.default_rng(0).permutation(np.arange(num_patients) % num_folds)
    rows = _rows(labels, task, logits_MNK.shape[2])
    found: dict[str, list[float]] = {"auprc": [], "brier": [], "slope": []}
    influence = {"brier": np.zeros(num_patients), "slope": np.zeros(num_patients)}
    influence["auprc"] = np.zeros(int(fold_P.max()) + 1)
    shares: list[float] = []
    for logits in logits_MNK:
        columns = [
            (where, scores if task != "multiclass" else logit(np.clip(scores, 1e-13, 1 - 1e-13)), positive)
            for where, (scores, positive) in zip(
                rows, binary_columns(np.asarray(logits, dtype=np.float64), labels, task), strict=True
            )
            if positive.any() and not positive.all()
        ]
        values: dict[str, list[float]] = {name: [] for name in found}
        for where, scores, positive in columns:
            share = 1.0 / (len(columns) * len(logits_MNK))
            shares.append(float(positive.mean()))
            who = patient_N[where]
            for name, (value, part) in {
                "auprc": _average_precision(scores, positive, fold_P[who], len(influence["auprc"])),
                "brier": _brier(scores, positive, who, num_patients),
                "slope": _slope(scores, positive, who, num_patients),
            }.items():
                values[name].append(value)
                influence[name] += part * share
        for name, several in values.items():
            found[name].append(float(np.mean(several)))
    limits = {"auprc": (0.0, 1.0), "brier": (0.0, 1.0), "slope": (-np.inf, np.inf)}
    estimates = {
        name: _estimate(np.array(found[name]), influence[name], pair_M, limits[name]) for name in limits
    }
    return Calibration(estimates["auprc"], estimates["brier"], estimates["slope"], float(np.mean(shares)))


def _estimate(
    value_M: NDArray[np.float64], influence: NDArray[np.float64], pair_M: NDArray, limits: tuple[float, float]
) -> Estimate | None:
    if not np.isfinite(value_M).all() or not np.isfinite(influence).all():
        return None
    mean = float(value_M.mean())
    reach = interval_reach(pair_M) * standard_error(influence, value_M, pair_M)
    return Estimate(mean, max(mean - reach, limits[0]), min(mean + reach, limits[1]))


def _brier(
    logit_R: NDArray[np.float64], positive_R: NDArray[np.bool_], patient_R: NDArray, num_patients: int
) -> tuple[float, NDArray[np.float64]]:
    square_R = (expit(logit_R) - positive_R) ** 2
    mean = float(square_R.mean())
    return mean, np.bincount(patient_R, (square_R - mean) / len(square_R), num_patients).astype(np.float64)


def _slope(
    logit_R: NDArray[np.float64], positive_R: NDArray[np.bool_], patient_R: NDArray, num_patients: int
) -> tuple[float, NDArray[np.float64]]:
    """Newton's method for intercept and slope; NaN where it does not settle (outcomes separated, or no spread)."""
    nothing = float("nan"), np.full(num_patients, np.nan)
    x_R = np.clip(logit_R, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    if x_R[positive_R].min() >= x_R[~positive_R].max() or np.ptp(x_R) == 0.0:
        return nothing
    scale = float(x_R.std())
    design_R2 = np.stack([np.ones(len(x_R)), (x_R - x_R.mean()) / scale], axis=1)
    beta = np.zeros(2)
    for _ in range(60):
        p_R = expit(design_R2 @ beta)
        gradient = design_R2.T @ (positive_R - p_R)
        information = (design_R2 * (p_R * (1 - p_R))[:, None]).T @ design_R2
        try:
            move = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return nothing
        # Newton may overshoot from far away: no step longer than 2 standard deviations of the logit.
        beta += move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-300))
        if np.abs(move).max() < 1e-9:
            break
    else:
        return nothing
    p_R = expit(design_R2 @ beta)
    information = (design_R2 * (p_R * (1 - p_R))[:, None]).T @ design_R2
    influence_R = (design_R2 * (positive_R - p_R)[:, None]) @ np.linalg.inv(information)[1] / scale
    return float(beta[1]) / scale, np.bincount(patient_R, influence_R, num_patients).astype(np.float64)


def _average_precision(
    score_R: NDArray[np.float64], positive_R: NDArray[np.bool_], fold_R: NDArray, num_folds: int
) -> tuple[float, NDArray[np.float64]]:
    order = np.argsort(-score_R, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(score_R[order])), len(order) - 1)
    positive, fold = positive_R[order].astype(np.float64), fold_R[order]
    whole = _area(positive, np.ones(len(order)), last_of_tie)
    without = np.array(
        [_area(positive, (fold != one).astype(np.float64), last_of_tie) for one in range(num_folds)]
    )
    without = np.where(np.isfinite(without), without, whole)
    return whole, (num_folds - 1) / num_folds * (without.mean() - without)


def _area(positive: NDArray[np.float64], weight: NDArray[np.float64], last_of_tie: NDArray) -> float:
    """Sum over thresholds of (rise in recall) * precision; NaN without a positive."""
    found = np.cumsum(positive * weight)[last_of_tie]
    called = np.cumsum(weight)[last_of_tie]
    if found[-1] == 0.0:
        return float("nan")
    precision = found / np.maximum(called, 1e-300)
    return float(np.sum(np.diff(found, prepend=0.0) * precision) / found[-1])


def _rows(labels: NDArray, task: Task, num_outputs: int) -> list[NDArray[np.int64]]:
    if task == "multilabel":
        return [np.flatnonzero(~np.isnan(labels[:, k])) for k in range(num_outputs)]
    return [np.arange(len(labels))] * (1 if task == "binary" else num_outputs)
