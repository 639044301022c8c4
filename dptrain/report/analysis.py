"""From a study folder to a `StudyResult`: every figure of a report, computed once, from the folder alone.

The risk is measured on the training pool (every patient is in half of the models), performance on the test patients.
Random numbers come from the study's own seed tree, so the same folder gives the same bytes. This is the only place that
knows both what was claimed (epsilon) and what was observed; `contradictions` compares them. The figures of one arm are
in `arm_risk` and `arm_performance`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.protocol import Attack, attack_named, default_attack
from dptrain.attacks.signals import compute_signals
from dptrain.attacks.twins import model_units
from dptrain.audit.null import NullDistribution
from dptrain.audit.patients import patient_auc, patient_evidence
from dptrain.errors import ConfigError, StudyError
from dptrain.report.arm_performance import baseline_beside, curves_of, performance_by_label, utility_of
from dptrain.report.arm_risk import (
    Before,
    attack_result,
    cap_of,
    lower_bound_of,
    paired_with,
    risk_of_arm,
    stability_of,
)
from dptrain.report.canaries import merged, refuted_by_canaries
from dptrain.report.contradictions import GuaranteeRefuted, contradictions, pairs_won
from dptrain.report.details import ArmDetails, Pool, arm_details
from dptrain.report.parallel import in_order
from dptrain.report.results import (
    ArmLike,
    ArmResult,
    NullBand,
    StudyLike,
    StudyResult,
)
from dptrain.report.utility_interval import Performance, measure
from dptrain.training.utility import METRIC_NAMES

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


def _before(study: StudyLike, pool: Pool) -> Before:
    logits = study.logits("none")
    evidence = _evidence(pool, _signals(pool, logits))
    return Before(_performance(pool, logits), evidence, patient_auc(evidence, pool.membership_MP))


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


def _analyse_arm(study: StudyLike, pool: Pool, arm: ArmLike, before: Before | None, *, details: bool) -> _Analysed:
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
    by_label = performance_by_label(cohort, logits[:, test_rows], labels[test_rows], test_patient, pairs)
    risk, null = risk_of_arm(study, arm.label, signals, evidence, membership, train_patient)
    measured, scores = attack_result(pool.attack, signals, membership, train_patient)
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
        utility=replace(utility_of(performance, METRIC_NAMES[cohort.task], pairs), per_label=by_label),
        attack=measured,
        risk=risk,
        paired=None if before is None else paired_with(study, arm.label, performance, evidence, membership, before),
        cap=cap_of(arm, unit_is_patient=arm.unit == "patient" or len(train_rows) == membership.shape[1]),
        curves=curves_of(study, arm.label),
        baseline=baseline_beside(study, arm.label, logits, membership, test_rows, test_patient),
        patient_level=arm.patient_level,
        accounting=arm.accounting,
        lower_bound=lower_bound_of(study, arm, membership),
        stability=stability_of(study, arm.label, evidence, membership),
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


def _null_band(nulls: list[NullDistribution]) -> NullBand:
    """Number of patients at or above each AUC; widest over arms (the arms' nulls differ by ties and chance only)."""
    size = nulls[0].num_patients
    return NullBand(
        nulls[0].thresholds_T,
        np.mean([null.survival_mean_T for null in nulls], axis=0) * size,
        np.min([null.survival_low_T for null in nulls], axis=0) * size,
        np.max([null.survival_high_T for null in nulls], axis=0) * size,
    )
