"""What the attacker gets to see: the same attacks on the model's answers as a hospital might hand them out.

A team that fears membership inference can train with DP, or let the model say less, or both. From the stored logits
this module makes the signals that are left when the model answers with

- ``logits``: everything;
- ``probabilities_D``: probabilities rounded to D decimal digits;
- ``top1`` and ``top1_D``: the predicted class and its probability (rounded to D digits), nothing about the others;
- ``label``: the predicted class alone.

Saying less never protects as DP does: it bounds neither other attackers nor many queries. All is float64 and ties are
well-defined: a probability that rounds to 0 or 1 counts as a quarter of a step away from it, so that equal answers get
equal signals and the order is never reversed. HIGHER MEANS MEMBER.

Yes/no outputs (one output, and each of several labels): the prediction is positive if the logit is above 0, and top1
without rounding says as much as the logit. Classes: the first of equally likely classes is predicted; a wrong top1
answer leaves the true class an equal share of the rest, so every wrong answer scores at most as every right one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import special

from dptrain.attacks.checks import BoolArray, FloatArray
from dptrain.attacks.signals import (
    Task,
    checked_logits,
    compute_log_probabilities,
    compute_signals,
    log_odds_of_class,
    logit_chunks,
)

Answer = Literal["logits", "probabilities", "top1", "label"]

MAX_DIGITS = 15


@dataclass(frozen=True)
class Access:
    """What the model answers.

    Raises:
        ValueError: digits where there are none, none where they are needed, or digits outside 1..15.
    """

    answer: Answer
    digits: int | None = None
    """Decimal digits to which probabilities are rounded; None: not rounded."""

    def __post_init__(self) -> None:
        if self.answer not in get_args(Answer):
            raise ValueError(f"answer={self.answer!r} must be one of {', '.join(get_args(Answer))}.")
        if self.digits is None:
            if self.answer == "probabilities":
                raise ValueError(
                    "digits=None: probabilities need digits; unrounded ones say what the logits say."
                )
            return
        if self.answer in ("logits", "label") or not 1 <= self.digits <= MAX_DIGITS:
            raise ValueError(
                f"answer={self.answer!r}, digits={self.digits}: only probabilities and top1 have digits, "
                f"1 to {MAX_DIGITS} of them."
            )

    @property
    def name(self) -> str:
        """For example logits, probabilities_2, top1, label."""
        return self.answer if self.digits is None else f"{self.answer}_{self.digits}"


POLICIES = (
    Access("logits"),
    Access("probabilities", 3),
    Access("probabilities", 2),
    Access("top1"),
    Access("top1", 2),
    Access("label"),
)
"""From everything to nearly nothing: what a comparison of access policies shows."""


def access_named(name: str) -> Access:
    """Return the policy called `name`: logits, probabilities_D, top1, top1_D or label.

    Raises:
        ValueError: no such policy.
    """
    found = re.fullmatch(r"(logits|label|top1|probabilities)(?:_(\d+))?", name)
    if found is None:
        raise ValueError(f"access={name!r} must be logits, probabilities_2 (any digits), top1, top1_2 or label.")
    return Access(found[1], None if found[2] is None else int(found[2]))  # type: ignore[arg-type]


def seen_signals(logits_MNK: npt.ArrayLike, labels: npt.ArrayLike, task: Task, access: Access) -> FloatArray:
    """Return (M, N) float64 signals of an attacker who sees `access`. HIGHER MEANS MEMBER.

    The log odds that the answer gives to the true label (nats), summed over the present labels of a multilabel model;
    for ``label`` 1 if the prediction is right and 0 if not, the number of right labels for a multilabel model.
    Arguments and errors as `compute_signals`.
    """
    if access.answer == "logits":
        return compute_signals(logits_MNK, labels, task)
    logits, checked = checked_logits(logits_MNK, labels, task)
    signals_MN = np.empty(logits.shape[:2], dtype=np.float64)
    for model, records, seen in _answers(logits, checked, task, access):
        values_NL = seen.right_NL if access.answer == "label" else seen.log_p_NL - seen.log_not_p_NL
        signals_MN[model, records] = np.where(seen.present_NL, values_NL, 0.0).sum(axis=1)
    return signals_MN


def seen_log_probabilities(logits_MNK: npt.ArrayLike, labels: npt.ArrayLike, task: Task, access: Access) -> FloatArray:
    """Return (M, N) float64 log-probabilities of the true label as far as `access` shows them, for RMIA.

    ``label`` counts as a probability of 3/4 for the predicted class, the rest shared equally. Arguments and errors as
    `compute_log_probabilities`.
    """
    if access.answer == "logits":
        return compute_log_probabilities(logits_MNK, labels, task)
    logits, checked = checked_logits(logits_MNK, labels, task)
    log_probability_MN = np.empty(logits.shape[:2], dtype=np.float64)
    for model, records, seen in _answers(logits, checked, task, access):
        log_probability_MN[model, records] = np.where(seen.present_NL, seen.log_p_NL, 0.0).sum(axis=1)
    return log_probability_MN


@dataclass(frozen=True)
class _Seen:
    """About the true label of every record (and label): is the prediction right, log p and log (1 - p)."""

    right_NL: BoolArray
    log_p_NL: FloatArray
    log_not_p_NL: FloatArray
    present_NL: BoolArray


def _answers(
    logits: npt.NDArray[np.floating], labels: FloatArray, task: Task, access: Access
) -> Iterator[tuple[int, slice, _Seen]]:
    for model, records, values_NK in logit_chunks(logits):
        if task == "multiclass":
            yield model, records, _of_classes(values_NK, labels[records].astype(np.int64), access)
        else:
            yield model, records, _of_yes_no(values_NK, labels[records], access)


def _of_yes_no(logits_NL: FloatArray, labels_NL: FloatArray, access: Access) -> _Seen:
    present_NL = ~np.isnan(labels_NL)
    predicted_NL = logits_NL > 0.0
    right_NL = predicted_NL == (labels_NL == 1.0)
    if access.answer == "probabilities":
        log_yes, log_no = _rounded(logits_NL, access.digits)
        truth_NL = labels_NL == 1.0
        log_p, log_not_p = np.where(truth_NL, log_yes, log_no), np.where(truth_NL, log_no, log_yes)
    else:
        log_top, log_rest = _top(np.abs(logits_NL), access)
        log_p, log_not_p = np.where(right_NL, log_top, log_rest), np.where(right_NL, log_rest, log_top)
    return _Seen(right_NL, log_p, log_not_p, present_NL)


def _of_classes(logits_NK: FloatArray, label_N: npt.NDArray[np.int64], access: Access) -> _Seen:
    predicted_N = np.argmax(logits_NK, axis=1)
    right_N = predicted_N == label_N
    if access.answer == "probabilities":
        log_p, log_not_p = _rounded(log_odds_of_class(logits_NK, label_N), access.digits)
    else:
        log_top, log_rest = _top(log_odds_of_class(logits_NK, predicted_N), access)
        # Rounding may leave the others more than the predicted class has; they cannot have.
        log_share = np.minimum(log_rest - np.log(logits_NK.shape[1] - 1.0), log_top)
        log_p = np.where(right_N, log_top, log_share)
        with np.errstate(divide="ignore"):
            log_not_p = np.where(right_N, log_rest, np.log1p(-np.exp(log_share)))
    one = np.ones((label_N.size, 1), dtype=np.bool_)
    return _Seen(right_N[:, None], log_p[:, None], log_not_p[:, None], one)


def _top(log_odds: FloatArray, access: Access) -> tuple[FloatArray, FloatArray]:
    """Return log p and log (1 - p) of the predicted class, as far as the answer shows them."""
    if access.answer == "label":
        return np.full(log_odds.shape, np.log(0.75)), np.full(log_odds.shape, np.log(0.25))
    return _rounded(log_odds, access.digits)


def _rounded(log_odds: FloatArray, digits: int | None) -> tuple[FloatArray, FloatArray]:
    """Return log p and log (1 - p) of the probability rounded to `digits`, half to even, never 0 or 1."""
    if digits is None:
        return special.log_expit(log_odds), special.log_expit(-log_odds)
    num_steps = 10.0**digits
    step = np.clip(np.rint(special.expit(log_odds) * num_steps), 0.25, num_steps - 0.25)
    return np.log(step) - np.log(num_steps), np.log(num_steps - step) - np.log(num_steps)
