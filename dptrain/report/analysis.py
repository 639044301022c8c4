"""From a study folder to a `StudyResult`: every figure of a report, computed once, from the folder alone.

The risk is measured on the training pool (every patient is in half of the models), performance on the test patients.
Random numbers come from the study's own seed tree, so the same folder gives the same bytes. This is the only place that
knows both what was claimed (epsilon) and what was observed; `contradictions` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.patient import expand_membership, sum_over_records
from dptrain.attacks.protocol import Attack, attack_named, default_attack
from dptrain.attacks.signals import compute_signals
from dptrain.attacks.twins import model_units
from dptrain.audit.common import common_parts
from dptrain.audit.counts import THRESHOLDS, exposed_counts
from dptrain.audit.crossfit import patient_attack_auc
from dptrain.audit.enough import Stability, stability
from dptrain.audit.matched import MOST_PATIENTS, Difference, paired_difference
from dptrain.audit.null import NullDistribution, null_of_ranks
from dptrain.audit.patients import auc_from_ranks, patient_auc, patient_evidence, patient_ranks
from dptrain.audit.targets import TargetSummary, summarise_attack
from dptrain.cohorts.cohort import Cohort
from dptrain.errors import ConfigError, StudyError
from dptrain.privacy.tradeoff import tradeoff
from dptrain.report.canaries import bound_of_arm, merged, refuted_by_canaries
from dptrain.report.contradictions import GuaranteeRefuted, contradictions, pairs_won
from dptrain.report.details import ArmDetails, Pool, arm_details
from dptrain.report.parallel import in_order
from dptrain.report.quantiles import null_quantile, quantile_interval
from dptrain.report.results import (
    FPRS,
    ArmLike,
    ArmResult,
    AttackResult,
    BaselineResult,
    CapResult,
    Curves,
    Estimate,
    LowerBoundResult,
    NullBand,
    PairedResult,
    RiskResult,
    StudyLike,
    StudyResult,
    UtilityResult,
)
from dptrain.report.utility_interval import Performance, difference_interval, mean_interval, measure, measure_each
from dptrain.seeding import numpy_stream
from dptrain.training.arms import arm_from_label
from dptrain.training.utility import METRIC_NAMES

PAIRED_THRESHOLDS = (0.8, 0.9)
STABILITY_PATIENTS = 20_000
MANY_PATIENTS_RESAMPLES = 200
LARGE = 1_000_000
"""Models times patients from which two arms are analysed, and two files written, at the same time."""


def analyse(study: StudyLike, *, details: bool = False) -> StudyResult:
    """Every figure of a study's complete arms; with `details` also what only the report's pages show.

    Raises:
        StudyError: no arm is complete.
        GuaranteeRefuted: an attack did better than the guarantee of a private arm allows: the training is broken.
    """
    arms = study.arms()
    if not arms:
        raise StudyError("The study has no complete arm yet; run its command again to train what is missing.")
    cohort = study.cohort()
    membership = study.membership()
    train_rows, train_patient = records_of(cohort.patient, cohort.train_patients, cohort.num_patients)
    test_rows, test_patient = records_of(cohort.patient, np.flatnonzero(cohort.is_test), cohort.num_patients)
    attack = attack_of_study(study, len(membership))
    pool = Pool(
        cohort,
        membership,
        train_rows,
        train_patient,
        test_rows,
        test_patient,
        attack,
        int(study.settings["seed"]),
    )
    before = _before(study, pool) if arms[0].label == "none" else None
    # Each worker holds the arrays of one arm: two of them for a large study, to stay within a small machine's memory.
    analysed = in_order(
        lambda arm: _analyse_arm(study, pool, arm, before, details=details),
        arms,
        most_workers=2 if membership.size > LARGE else 1,
    )
    results = [one.result for one in analysed]
    wins = {one.result.label: one.wins for one in analysed}
    nulls = [one.null for one in analysed]
    refuted = merged(contradictions(results, wins, membership), refuted_by_canaries(results))
    if refuted:
        raise GuaranteeRefuted(refuted)
    return StudyResult(
        cohort=cohort.name,
        simulated=cohort.simulated,
        task=cohort.task,
        model=str(study.settings["model"]["name"]),
        unit=arms[0].unit,
        num_models=len(membership),
        num_patients=membership.shape[1],
        num_records=len(train_rows),
        num_test_patients=int(cohort.is_test.sum()),
        patient_ids=cohort.patient_ids[cohort.train_patients],
        groups={name: values[cohort.train_patients] for name, values in cohort.groups.items()},
        null=_null_band(nulls),
        arms=tuple(results),
        warnings=cohort.warnings,
        growth=study.growth(),
        details={one.result.label: one.details for one in analysed if one.details is not None},
    )


@dataclass(frozen=True)
class _Before:
    """What every other arm is compared with: of the arm `none`."""

    performance: Performance
    evidence: NDArray[np.float64]
    patient_auc: NDArray[np.float64]


def _before(study: StudyLike, pool: Pool) -> _Before:
    logits = study.logits("none")
    evidence = _evidence(pool, _signals(pool, logits))
    return _Before(_performance(pool, logits), evidence, patient_auc(evidence, pool.membership_MP))


def _performance(pool: Pool, logits: NDArray[np.float32]) -> Performance:
    labels = np.asarray(pool.cohort.labels)[pool.test_rows]
    return measure(logits[:, pool.test_rows], labels, pool.test_patient, pool.cohort.task)


def _signals(pool: Pool, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    labels = np.asarray(pool.cohort.labels)[pool.train_rows]
    return compute_signals(logits[:, pool.train_rows], labels, pool.cohort.task)


def _evidence(pool: Pool, signals: NDArray[np.float64]) -> NDArray[np.float64]:
    return patient_evidence(signals, pool.train_patient, pool.membership_MP.shape[1])


@dataclass(frozen=True)
class _Analysed:
    """One arm, and what the study needs of it beside the result."""

    result: ArmResult
    null: NullDistribution
    wins: NDArray[np.int64]
    details: ArmDetails | None


def _analyse_arm(study: StudyLike, pool: Pool, arm: ArmLike, before: _Before | None, *, details: bool) -> _Analysed:
    """Everything about one arm; `before` is of the arm `none`, None for studies without it."""
    cohort, membership = pool.cohort, pool.membership_MP
    train_rows, train_patient = pool.train_rows, pool.train_patient
    test_rows, test_patient = pool.test_rows, pool.test_patient
    labels = np.asarray(cohort.labels)
    pairs = model_units(membership)
    logits = study.logits(arm.label)
    signals = _signals(pool, logits)
    if arm.label == "none" and before is not None:
        performance, evidence, before = before.performance, before.evidence, None
    else:
        performance, evidence = _performance(pool, logits), _evidence(pool, signals)
    by_label = _by_label(cohort, logits[:, test_rows], labels[test_rows], test_patient, pairs)
    risk, null = _risk(study, arm.label, signals, evidence, membership, train_patient)
    measured, scores = _attack_result(pool.attack, signals, membership, train_patient)
    more = None
    if details:
        auc_before = None if before is None else before.patient_auc
        more = arm_details(pool, arm.label, logits, scores, evidence, risk.patient_auc, null, auc_before)
    result = ArmResult(
        label=arm.label,
        target_epsilon=arm.target_epsilon,
        epsilon=arm.epsilon,
        delta=arm.delta,
        noise_multiplier=arm.noise_multiplier,
        sampling_rate=arm.sampling_rate,
        num_steps=arm.num_steps,
        clipping_norm=arm.clipping_norm,
        num_parameters=arm.num_parameters,
        utility=replace(_utility(performance, METRIC_NAMES[cohort.task], pairs), per_label=by_label),
        attack=measured,
        risk=risk,
        paired=None if before is None else _paired(study, arm.label, performance, evidence, membership, before),
        cap=_cap(arm, unit_is_patient=arm.unit == "patient" or len(train_rows) == membership.shape[1]),
        curves=_curves(study, arm.label),
        baseline=_baseline(study, arm.label, logits, membership, test_rows, test_patient),
        patient_level=arm.patient_level,
        accounting=arm.accounting,
        lower_bound=_lower_bound(study, arm, membership),
        stability=_stability(study, arm.label, evidence, membership),
    )
    return _Analysed(result, null, pairs_won(evidence, membership), more)


def records_of(
    patient_N: NDArray[np.int64], patients: NDArray[np.int64], num_patients: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the records of `patients`, and the position in `patients` of each."""
    position = np.full(num_patients, -1, dtype=np.int64)
    position[patients] = np.arange(len(patients))
    rows = np.flatnonzero(position[patient_N] >= 0)
    return rows, position[patient_N[rows]]


def attack_of_study(study: StudyLike, num_models: int) -> Attack:
    """The attack that the study's settings name; raises ConfigError if there is no such attack."""
    name = study.settings["attack"]["name"]
    if name == "auto":
        return default_attack(num_models)
    try:
        return attack_named(name)
    except ValueError as error:
        raise ConfigError(f"attack.name={name!r}: {error}") from None


def _utility(performance: Performance, metric: str, pair_M: NDArray[np.int64]) -> UtilityResult:
    return UtilityResult(
        metric,
        mean_interval(performance, pair_M),
        float(performance.auroc_M.std(ddof=1)),
        tuple(float(value) for value in performance.auroc_M),
    )


def _by_label(
    cohort: Cohort,
    logits: NDArray[np.float32],
    labels: NDArray,
    patient: NDArray[np.int64],
    pair_M: NDArray[np.int64],
) -> dict[str, Estimate]:
    """Performance on each label or class; empty for a binary task."""
    if cohort.task == "binary":
        return {}
    each = measure_each(logits, labels, patient, cohort.task)
    return {
        name: mean_interval(one, pair_M) for name, one in zip(cohort.label_names, each, strict=True) if one is not None
    }


def _baseline(
    study: StudyLike,
    label: str,
    logits: NDArray[np.float32],
    membership: NDArray[np.bool_],
    test_rows: NDArray[np.int64],
    test_patient: NDArray[np.int64],
) -> BaselineResult | None:
    """Performance of the logistic regressions beside an arm; differences are taken on the models that both have."""
    record = study.baseline(label)
    if record is None:
        return None
    cohort = study.cohort()
    labels = np.asarray(cohort.labels)[test_rows]
    theirs_logits = study.logits(record.label)
    num_models = len(theirs_logits)
    pairs = model_units(membership[:num_models])
    theirs = measure(theirs_logits[:, test_rows], labels, test_patient, cohort.task)
    ours = measure(logits[:num_models, test_rows], labels, test_patient, cohort.task)
    return BaselineResult(
        num_models=num_models,
        epsilon=record.epsilon,
        noise_multiplier=record.noise_multiplier,
        sampling_rate=record.sampling_rate,
        num_steps=record.num_steps,
        utility=_utility(theirs, METRIC_NAMES[cohort.task], pairs),
        difference=difference_interval(ours, theirs, pairs),
    )


def _attack_result(
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


def _risk(
    study: StudyLike,
    label: str,
    signals: NDArray[np.float64],
    evidence: NDArray[np.float64],
    membership: NDArray[np.bool_],
    patient: NDArray[np.int64],
) -> tuple[RiskResult, NullDistribution]:
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


def _paired(
    study: StudyLike,
    label: str,
    performance: Performance,
    evidence: NDArray[np.float64],
    membership: NDArray[np.bool_],
    before: _Before,
) -> PairedResult:
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


def _cap(arm: ArmLike, *, unit_is_patient: bool) -> CapResult | None:
    if arm.epsilon is None or not unit_is_patient:
        return None
    assert arm.sampling_rate is not None
    assert arm.noise_multiplier is not None
    curve = tradeoff(arm.sampling_rate, arm.noise_multiplier, arm.num_steps)
    target = arm_from_label(arm.label)
    rates = dict.fromkeys([*FPRS, *([] if target.target_fpr is None else [target.target_fpr])])
    advantage = curve.max_advantage() if target.is_by_risk else None
    return CapResult(curve.auc_cap(), {fpr: curve.max_tpr(fpr) for fpr in rates}, curve, advantage)


def _lower_bound(study: StudyLike, arm: ArmLike, membership: NDArray[np.bool_]) -> LowerBoundResult | None:
    """From the canaries, at the arm's delta or, for arms without one, at the study's."""
    canaries = study.canaries(arm.label)
    if canaries is None:
        return None
    delta = study.settings["privacy"]["delta"] if arm.delta is None else arm.delta
    return bound_of_arm(canaries, study.cohort().task, membership, float(delta))


def _stability(
    study: StudyLike, label: str, evidence: NDArray[np.float64], membership: NDArray[np.bool_]
) -> tuple[Stability, ...]:
    """On at most `STABILITY_PATIENTS` of the patients, evenly spaced: more would not make it surer, only slower."""
    step = -(-membership.shape[1] // STABILITY_PATIENTS)
    rng = numpy_stream(study.settings["seed"], "bootstrap", "stability", label)
    return stability(evidence[:, ::step], membership[:, ::step], model_units(membership), rng)


def _curves(study: StudyLike, label: str) -> Curves:
    found = study.curves(label)
    epsilon = found.get("epsilon")
    return Curves(np.asarray(found["step"], dtype=np.int64), found["train_loss"], found["utility"], epsilon)


def _null_band(nulls: list[NullDistribution]) -> NullBand:
    """Number of patients at or above each AUC; widest over arms (the arms' nulls differ by ties and chance only)."""
    size = nulls[0].num_patients
    return NullBand(
        nulls[0].thresholds_T,
        np.mean([null.survival_mean_T for null in nulls], axis=0) * size,
        np.min([null.survival_low_T for null in nulls], axis=0) * size,
        np.max([null.survival_high_T for null in nulls], axis=0) * size,
    )
