"""Risk of an arm: what attacks found, how it differs from the arm without privacy, and what its guarantee allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.patient import expand_membership, sum_over_records
from dptrain.attacks.protocol import Attack
from dptrain.attacks.twins import model_units
from dptrain.audit.common import common_parts
from dptrain.audit.counts import THRESHOLDS, exposed_counts
from dptrain.audit.crossfit import patient_attack_auc
from dptrain.audit.enough import Stability, stability
from dptrain.audit.matched import MOST_PATIENTS, Difference, paired_difference
from dptrain.audit.null import NullDistribution, null_of_ranks
from dptrain.audit.patients import auc_from_ranks, patient_ranks
from dptrain.audit.targets import TargetSummary, summarise_attack
from dptrain.privacy.tradeoff import tradeoff
from dptrain.report.canaries import bound_of_arm
from dptrain.report.quantiles import null_quantile, quantile_interval
from dptrain.report.results import (
    FPRS,
    ArmLike,
    AttackResult,
    CapResult,
    Estimate,
    LowerBoundResult,
    PairedResult,
    RiskResult,
    StudyLike,
)
from dptrain.report.utility_interval import Performance, difference_interval
from dptrain.seeding import numpy_stream
from dptrain.training.arms import arm_from_label

PAIRED_THRESHOLDS = (0.8, 0.9)
STABILITY_PATIENTS = 20_000
MANY_PATIENTS_RESAMPLES = 200


@dataclass(frozen=True)
class Before:
    """What every other arm is compared with: of the arm `none`."""

    performance: Performance
    evidence: NDArray[np.float64]
    patient_auc: NDArray[np.float64]


def risk_of_arm(
    study: StudyLike,
    label: str,
    signals: NDArray[np.float64],
    evidence: NDArray[np.float64],
    membership: NDArray[np.bool_],
    patient: NDArray[np.int64],
) -> tuple[RiskResult, NullDistribution]:
    """Risk of single patients, and what chance alone would show; draws from the study's seed tree."""
    rng = numpy_stream(study.settings["seed"], "null", label)
    ranks = patient_ranks(evidence)
    null = null_of_ranks(ranks, membership, int(study.settings["attack"]["num_permutations"]), rng)
    auc = auc_from_ranks(ranks, membership)
    del ranks
    attack_auc = patient_attack_auc(signals, membership, patient)
    common = common_parts(
        evidence, membership, numpy_stream(study.settings["seed"], "bootstrap", "common", label), THRESHOLDS
    )
    risk = RiskResult(
        patient_auc=auc,
        patient_attack_auc=attack_auc,
        median=float(np.nanmedian(auc)),
        p99=quantile_interval(auc[np.isfinite(auc)], 0.99),
        max=float(np.nanmax(auc)),
        null_p99=null_quantile(null, 0.99),
        at_least=tuple(exposed_counts(auc, null, THRESHOLDS, common_share=common.of_share)),
        common_share=common.of_share,
        attack_median=float(np.nanmedian(attack_auc)),
        attack_p99=float(np.nanquantile(attack_auc, 0.99)),
        attack_max=float(np.nanmax(attack_auc)),
        p95=quantile_interval(auc[np.isfinite(auc)], 0.95),
        null_p95=null_quantile(null, 0.95),
    )
    return risk, null


def attack_result(
    attack: Attack, signals: NDArray[np.float64], membership: NDArray[np.bool_], patient: NDArray[np.int64]
) -> tuple[AttackResult, NDArray[np.float64]]:
    """The attack's figures, and its (M, P) scores."""
    record_scores = attack.function(signals, expand_membership(membership, patient))
    scores = sum_over_records(record_scores, patient, membership.shape[1])
    summary = summarise_attack(scores, membership, FPRS)
    result = AttackResult(
        attack.name,
        _fraction(summary.auc),
        summary.auc.sd,
        {fpr: _fraction(one) if one.estimable else None for fpr, one in summary.tpr_at_fpr.items()},
    )
    return result, scores


def _fraction(summary: TargetSummary) -> Estimate:
    return Estimate(summary.mean, max(summary.low, 0.0), min(summary.high, 1.0))


def paired_with(
    study: StudyLike,
    label: str,
    performance: Performance,
    evidence: NDArray[np.float64],
    membership: NDArray[np.bool_],
    before: Before,
) -> PairedResult:
    """The arm minus the arm without privacy, patient by patient and model by model."""
    found = paired_difference(
        evidence,
        before.evidence,
        membership,
        numpy_stream(study.settings["seed"], "bootstrap", label),
        quantiles=(0.5, 0.99),
        thresholds=PAIRED_THRESHOLDS,
        num_resamples=num_resamples(int(study.settings["attack"]["num_bootstrap"]), membership.shape[1]),
    )
    differences: dict[str, Difference] = {
        "mean": found.mean,
        "median": found.quantiles[0.5],
        "p99": found.quantiles[0.99],
        **{f"at_least_{threshold:g}": found.counts[threshold] for threshold in PAIRED_THRESHOLDS},
    }
    return PairedResult(
        difference_interval(performance, before.performance, model_units(membership)),
        {name: Estimate(one.estimate, *one.both) for name, one in differences.items()},
    )


def num_resamples(asked_for: int, num_patients: int) -> int:
    """As asked for, but no more than 200 where there are so many patients that each resample takes long."""
    return asked_for if num_patients <= MOST_PATIENTS else min(asked_for, MANY_PATIENTS_RESAMPLES)


def stability_of(
    study: StudyLike, label: str, evidence: NDArray[np.float64], membership: NDArray[np.bool_]
) -> tuple[Stability, ...]:
    """On at most `STABILITY_PATIENTS` of the patients, evenly spaced: more would not make it surer, only slower."""
    step = -(-membership.shape[1] // STABILITY_PATIENTS)
    rng = numpy_stream(study.settings["seed"], "bootstrap", "stability", label)
    return stability(evidence[:, ::step], membership[:, ::step], model_units(membership), rng)


def cap_of(arm: ArmLike, *, unit_is_patient: bool) -> CapResult | None:
    """What the guarantee allows any attack; None without DP, and where it protects records of patients with several."""
    if arm.epsilon is None or not unit_is_patient:
        return None
    assert arm.sampling_rate is not None
    assert arm.noise_multiplier is not None
    curve = tradeoff(arm.sampling_rate, arm.noise_multiplier, arm.num_steps)
    target = arm_from_label(arm.label)
    rates = dict.fromkeys([*FPRS, *([] if target.target_fpr is None else [target.target_fpr])])
    advantage = curve.max_advantage() if target.is_by_risk else None
    return CapResult(curve.auc_cap(), {fpr: curve.max_tpr(fpr) for fpr in rates}, curve, advantage)


def lower_bound_of(study: StudyLike, arm: ArmLike, membership: NDArray[np.bool_]) -> LowerBoundResult | None:
    """From the canaries, at the arm's delta or, for arms without one, at the study's."""
    canaries = study.canaries(arm.label)
    if canaries is None:
        return None
    delta = study.settings["privacy"]["delta"] if arm.delta is None else arm.delta
    return bound_of_arm(canaries, study.cohort().task, membership, float(delta))
