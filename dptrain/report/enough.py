"""Looks at the arms of a study and says how wide the interval of the chosen headline is (`fleet.num_models=auto`), and
how stable the list of exposed patients is for how many models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.patient import expand_membership, sum_over_records
from dptrain.attacks.protocol import attack_named, default_attack
from dptrain.attacks.signals import compute_signals
from dptrain.attacks.twins import model_units
from dptrain.audit.enough import Stability, fraction_at_least, headline_interval, is_resolvable, p99_interval
from dptrain.audit.patients import patient_evidence
from dptrain.audit.targets import summarise_attack
from dptrain.report.results import StudyLike

COUNT_THRESHOLD = 0.9


def headline_widths(study: StudyLike, labels: Sequence[str]) -> dict[str, float]:
    """Width of the 95% interval of `fleet.headline` in each of these arms, which must be complete; infinite where it
    cannot be told with so few models."""
    cohort, membership = study.cohort(), study.membership()
    rows = np.flatnonzero(~cohort.is_test[cohort.patient])
    position = np.cumsum(~cohort.is_test) - 1
    patient = position[cohort.patient[rows]]
    widths = {}
    for label in labels:
        signals = compute_signals(study.logits(label)[:, rows], np.asarray(cohort.labels)[rows], cohort.task)
        width = _width(study, signals, patient, membership)
        widths[label] = width if math.isfinite(width) else math.inf
    return widths


def _width(
    study: StudyLike, signals: NDArray[np.float64], patient: NDArray[np.int64], membership: NDArray[np.bool_]
) -> float:
    headline = study.settings["fleet"]["headline"]
    num_models, num_patients = membership.shape
    if headline == "attack_auc":
        name = study.settings["attack"]["name"]
        attack = default_attack(num_models) if name == "auto" else attack_named(name)
        scores = attack.function(signals, expand_membership(membership, patient))
        found = summarise_attack(sum_over_records(scores, patient, num_patients), membership, ()).auc
        return found.high - found.low
    evidence = patient_evidence(signals, patient, num_patients)
    if headline == "count_0.9" and not is_resolvable(num_models, num_patients, COUNT_THRESHOLD):
        return math.inf
    pair = model_units(membership)
    if headline == "patient_auc_p99":
        interval = p99_interval(evidence, membership, pair)
    else:
        interval = headline_interval(evidence, membership, pair, fraction_at_least(COUNT_THRESHOLD))
    return interval.high - interval.low


def stability_as_dict(found: Sequence[Stability]) -> list[dict[str, Any]]:
    """`stability` of tradeoff.json."""
    return [
        {
            "num_models": one.num_models,
            "standard_error": _number(one.standard_error),
            "reliability": _number(one.reliability),
            "overlap": _number(one.overlap),
            "is_measured": one.is_measured,
        }
        for one in found
    ]


def _number(value: float) -> float | None:
    return round(float(value), 6) + 0.0 if math.isfinite(value) else None
