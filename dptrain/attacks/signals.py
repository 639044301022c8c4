"""Signals: one number per model and record from the model's logits. HIGHER MEANS MEMBER.

Signals are computed in float64 from logits, never from probabilities: in float32 sigmoid(20) is already 1,
and clipped probabilities flatten exactly the overfitted models that leak the most.

For one output or several classes the signal is the log odds of the true label, log p_y / (1 - p_y) (Carlini
et al. 2022, arXiv 2112.03570, section V-A); for several independent labels it is the sum of the log odds over
the labels, the log-likelihood ratio of a model whose labels are independent.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import special

from dptrain.attacks.checks import FloatArray

Task = Literal["binary", "multiclass", "multilabel"]

_CHUNK_VALUES = 1 << 20
"""Logits converted to float64 at one time: 8 MiB, whatever the number of records."""


def compute_signals(logits_MNK: npt.ArrayLike, labels: npt.ArrayLike, task: Task) -> FloatArray:
    """Return (M, N) float64 signals in log-odds units (nats). HIGHER MEANS MEMBER.

    - binary (K = 1): (2y - 1) z
    - multiclass (K >= 2): z_y - log sum_{j != y} exp z_j
    - multilabel (K = L): sum over labels of (2y_l - 1) z_l; labels that are NaN are left out (a record whose
      labels are
      all missing has signal 0 in every model and so says nothing).

    Args:
        logits_MNK: (M, N, K) of any float type; may be a memory map, it is read in pieces.
        labels: (N,) or (N, 1) for binary (0 or 1), (N,) class numbers for multiclass, (N, L) of 0, 1 or NaN
        for
            multilabel.
        task: what the model predicts.

    Raises:
        ValueError: shapes or labels that do not fit the task, or logits that are not finite.
    """
    logits, checked = checked_logits(logits_MNK, labels, task)
    signals = np.empty(logits.shape[:2], dtype=np.float64)
    for model, records, values_NK in logit_chunks(logits):
        if task == "multiclass":
            signals[model, records] = log_odds_of_class(values_NK, checked[records].astype(np.int64))
        else:
            signals[model, records] = np.einsum("nk,nk->n", _signs(checked[records]), values_NK)
    return signals


def compute_label_signals(logits_MNL: npt.ArrayLike, labels_NL: npt.ArrayLike) -> FloatArray:
    """Return (M, N, L) float64 signals of a multilabel model label by label, NaN where the label is missing.

    Their sum over the present labels is `compute_signals(..., task="multilabel")`. Arguments and errors as
    there.
    """
    logits, labels = checked_logits(logits_MNL, labels_NL, "multilabel")
    signals = np.empty(logits.shape, dtype=np.float64)
    for model, records, values_NL in logit_chunks(logits):
        signals[model, records] = (2.0 * labels[records] - 1.0) * values_NL
    return signals


def compute_regression_signals(outputs_MNK: npt.ArrayLike, targets: npt.ArrayLike) -> FloatArray:
    """Return (M, N) float64 signals of regression models: minus the squared error, summed over outputs.

    HIGHER MEANS MEMBER. Up to a factor this is the log-likelihood of normal errors, so evidence adds up.

    Args:
        outputs_MNK: (M, N, K) predictions of any float type.
        targets: (N,) or (N, K) true values; NaN ones are left out.

    Raises:
        ValueError: shapes that do not fit, or predictions that are not finite.
    """
    outputs = np.asanyarray(outputs_MNK)
    if outputs.ndim != 3 or outputs.size == 0 or not np.issubdtype(outputs.dtype, np.floating):
        raise ValueError(f"outputs.shape={outputs.shape}, dtype={outputs.dtype} must be (models, records, outputs).")
    truth = np.asarray(targets, dtype=np.float64)
    truth = truth[:, None] if truth.ndim == 1 else truth
    if truth.shape != outputs.shape[1:]:
        raise ValueError(f"targets.shape={np.shape(targets)} must be {outputs.shape[1:]}, one value per output.")
    signals = np.empty(outputs.shape[:2], dtype=np.float64)
    for model, records, values_NK in logit_chunks(outputs):
        error_NK = np.nan_to_num(values_NK - truth[records], nan=0.0)
        signals[model, records] = -np.einsum("nk,nk->n", error_NK, error_NK)
    return signals


def compute_log_probabilities(logits_MNK: npt.ArrayLike, labels: npt.ArrayLike, task: Task) -> FloatArray:
    """Return (M, N) float64 log p(y | x), the log-probability of the true label (nats, at most 0). HIGHER MEANS MEMBER.

    For one output and for classes this is log sigmoid of the signal, accurate at both ends: a probability of
    1 - 1e-40 keeps its digits. Several labels are taken as independent given the record: the sum over labels; a
    record whose labels are all missing has 0 in every model. Arguments and errors as `compute_signals`.
    """
    if task != "multilabel":
        return np.asarray(special.log_expit(compute_signals(logits_MNK, labels, task)), dtype=np.float64)
    logits, checked = checked_logits(logits_MNK, labels, task)
    log_probability_MN = np.empty(logits.shape[:2], dtype=np.float64)
    for model, records, values_NL in logit_chunks(logits):
        signs_NL = _signs(checked[records])
        log_probability_NL = special.log_expit(signs_NL * values_NL)
        log_probability_MN[model, records] = np.where(signs_NL != 0.0, log_probability_NL, 0.0).sum(axis=1)
    return log_probability_MN


def logit_chunks(logits: npt.NDArray[np.floating]) -> Iterator[tuple[int, slice, FloatArray]]:
    """Yield (model, records, (n, K) float64 logits), a bounded number of values at a time.

    Raises:
        ValueError: logits that are not finite; the model is named.
    """
    num_models, num_records, num_outputs = logits.shape
    step = max(1, _CHUNK_VALUES // num_outputs)
    for model in range(num_models):
        for start in range(0, num_records, step):
            records = slice(start, min(start + step, num_records))
            values_NK = np.asarray(logits[model, records], dtype=np.float64)
            if not np.isfinite(values_NK).all():
                raise ValueError(
                    f"logits: model {model} gave NaN or infinite outputs; expected finite logits. "
                    "A model that diverged cannot be audited: leave it and its twin out, or train them again."
                )
            yield model, records, values_NK


def log_odds_of_class(logits_NK: FloatArray, label_N: npt.NDArray[np.int64]) -> FloatArray:
    """Return (N,) z_y - log sum_{j != y} exp z_j for the class of every record."""
    rows = np.arange(label_N.size)
    true_N = logits_NK[rows, label_N]
    others_NK = logits_NK.copy()
    others_NK[rows, label_N] = -np.inf
    largest_N = others_NK.max(axis=1)
    rest_N: FloatArray = largest_N + np.log(np.exp(others_NK - largest_N[:, None]).sum(axis=1))
    return np.asarray(true_N - rest_N, dtype=np.float64)


def _signs(labels_NL: FloatArray) -> FloatArray:
    return np.nan_to_num(2.0 * labels_NL - 1.0, nan=0.0)


def checked_logits(
    logits: npt.ArrayLike, labels: npt.ArrayLike, task: Task
) -> tuple[npt.NDArray[np.floating], FloatArray]:
    """Return (M, N, K) logits as they are and float64 labels, (N,) classes or (N, L) of 0, 1 or NaN.

    Raises:
        ValueError: shapes or labels that do not fit the task.
    """
    if task not in get_args(Task):
        raise ValueError(f"task={task!r} must be one of {', '.join(get_args(Task))}.")
    values = np.asanyarray(logits)
    if values.ndim != 3 or values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"logits.shape={values.shape}, dtype={values.dtype} must be (models, records, outputs) of a float type; "
            "for one output use a last axis of length 1."
        )
    num_records, num_outputs = values.shape[1:]
    truth = np.asarray(labels, dtype=np.float64)
    if task == "multiclass":
        _expect_shape(truth, [(num_records,)], task)
        if num_outputs < 2:
            raise ValueError(f"task='multiclass' needs at least 2 outputs, got {num_outputs}. Use task='binary'.")
        if not np.isin(truth, np.arange(num_outputs)).all():
            raise ValueError(f"labels must be class numbers 0..{num_outputs - 1} without missing values.")
        return values, truth
    if task == "binary":
        _expect_shape(truth, [(num_records,), (num_records, 1)], task)
        if num_outputs != 1:
            raise ValueError(
                f"task='binary' needs 1 output, got {num_outputs}. With two outputs use task='multiclass'."
            )
        truth = truth.reshape(num_records, 1)
        if not np.isin(truth, (0.0, 1.0)).all():
            raise ValueError("labels of task='binary' must be 0 or 1. Leave records without a label out.")
        return values, truth
    _expect_shape(truth, [(num_records, num_outputs)], task)
    if not (np.isin(truth, (0.0, 1.0)) | np.isnan(truth)).all():
        raise ValueError("labels of task='multilabel' must be 0, 1 or NaN (missing).")
    return values, truth


def _expect_shape(labels: FloatArray, allowed: list[tuple[int, ...]], task: str) -> None:
    if labels.shape not in allowed:
        expected = " or ".join(str(shape) for shape in allowed)
        raise ValueError(f"labels.shape={labels.shape} must be {expected} for task={task!r} and these logits.")
