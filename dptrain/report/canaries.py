"""The lower bound on epsilon from planted canaries, beside the epsilon that was accounted.

`audit.lower_bound*` know outputs and coins only. Here the bound of the models meets the claim; if it is above, what ran
is not what was accounted. A bound is wrong with probability at most 5%, so at most one sound training in twenty is
accused; with canaries that see only the finished model far fewer are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.signals import compute_signals
from dptrain.attacks.twins import model_units
from dptrain.audit.lower_bound import (
    EpsilonLowerBound,
    best_over_guesses,
    coins_of_first_twins,
    largest_epsilon_of_models,
)
from dptrain.audit.lower_bound_f_dp import f_dp_bound
from dptrain.audit.lower_bound_models import models_bound
from dptrain.audit.lower_bound_one_run import one_run_bound
from dptrain.cohorts.cohort import Task
from dptrain.report.results import ArmResult, LowerBoundResult

HEADLINE = "f_dp_one_run"
"""The method that is reported and held against the claim: fixed beforehand, so that no best of several is claimed."""


class CanariesLike(Protocol):
    """What the models of an arm answer on the canaries (`dptrain.study.arm_record.Canaries`)."""

    @property
    def logits(self) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> NDArray[Any]: ...
    @property
    def membership(self) -> NDArray[np.bool_]: ...


def bound_of_arm(
    canaries: CanariesLike, task: Task, membership_MP: NDArray[np.bool_], delta: float
) -> LowerBoundResult:
    """All three bounds for the models of an arm; twins are those of the whole membership."""
    signals = compute_signals(canaries.logits, canaries.labels, task)
    pair = model_units(membership_MP)
    scores, coins = coins_of_first_twins(signals, canaries.membership, pair)
    found = (*_one_run_bounds(scores, coins, delta), models_bound(signals, canaries.membership, pair, delta))
    return _result(found, num_canaries=signals.shape[1], num_models=signals.shape[0])


def bound_of_release(
    logits_CK: NDArray[np.float32],
    untrained_CK: NDArray[np.float32],
    labels: NDArray[Any],
    coins: NDArray[np.bool_],
    task: Task,
    delta: float,
) -> LowerBoundResult:
    """Both one-run bounds for one model. A canary's score is its signal minus that of the untrained network: initial
    weights are independent of every coin, and some canaries are easier than others."""
    signals = compute_signals(np.stack([logits_CK, untrained_CK]), labels, task)
    found = _one_run_bounds(signals[0] - signals[1], coins, delta)
    return _result(found, num_canaries=len(coins), num_models=1)


def _one_run_bounds(
    scores: NDArray[np.float64], coins: NDArray[np.bool_], delta: float
) -> tuple[EpsilonLowerBound, EpsilonLowerBound]:
    return (
        best_over_guesses(scores, coins, delta, "f_dp_one_run", f_dp_bound),
        best_over_guesses(scores, coins, delta, "one_run", one_run_bound),
    )


def _result(found: Sequence[EpsilonLowerBound], num_canaries: int, num_models: int) -> LowerBoundResult:
    by_method = {one.method: one for one in found}
    return LowerBoundResult(by_method[HEADLINE], num_canaries, num_models, by_method)


def as_dict(bound: LowerBoundResult) -> dict[str, Any]:
    """`lower_bound` of tradeoff.json and of a privacy statement. Bounds are rounded down."""
    one = bound.headline
    return {
        "epsilon_lower_bound": _down(one.epsilon),
        "method": one.method,
        "num_canaries": bound.num_canaries,
        "num_models": bound.num_models,
        "num_coins": one.num_coins,
        "num_guesses": one.num_guesses,
        "num_correct": one.num_correct,
        "confidence": one.confidence,
        "largest_possible": _down(one.largest_possible),
        "largest_of_models": None if bound.num_models < 2 else _down(largest_epsilon_of_models(bound.num_models // 2)),
        "by_method": {
            method: {"epsilon_lower_bound": _down(other.epsilon), "largest_possible": _down(other.largest_possible)}
            for method, other in bound.by_method.items()
        },
    }


def contradiction(epsilon: float, delta: float, bound: LowerBoundResult) -> str | None:
    """One sentence if the canaries prove more than this epsilon, else None."""
    one = bound.headline
    if not one.epsilon > epsilon:
        return None
    return (
        f"Canaries: epsilon is at least {one.epsilon:.4g} at delta={delta:g} ({one.confidence:.0%} confidence, method "
        f"{one.method}, {one.num_correct} of {one.num_guesses} guesses right), but {epsilon:.4g} is accounted."
    )


def refuted_by_canaries(arms: Sequence[ArmResult]) -> Mapping[str, list[str]]:
    """Lines for every arm whose canaries prove more than its epsilon; an empty mapping if none does."""
    refuted = {}
    for arm in arms:
        if arm.epsilon is None or arm.delta is None or arm.lower_bound is None:
            continue
        found = contradiction(arm.epsilon, arm.delta, arm.lower_bound)
        if found:
            refuted[arm.label] = [
                f"Arm {arm.label} is refuted: its canaries are recognised more surely than its guarantee allows.",
                f"  {found}",
                "  Chance alone does this in at most 5% of sound arms: what was trained is not the mechanism that was "
                "accounted. Publish neither a model nor a figure of this arm, nor of another private arm that the same "
                "software trained. Find the fault (dptrain check with the same settings looks at single steps); all "
                f"trained models are kept. With arms/{arm.label} and restricted/blocks/{arm.label} moved out of the "
                "study's folder the same command trains this arm again.",
            ]
    return refuted


def merged(*refuted: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Lines of several looks, arm by arm."""
    lines: dict[str, list[str]] = {}
    for one in refuted:
        for label, found in one.items():
            lines[label] = [*lines.get(label, []), *found]
    return lines


def _down(value: float) -> float:
    """Lower bounds are rounded down: they may be stated too low, never too high."""
    return float(np.floor(value * 1e6) / 1e6)
