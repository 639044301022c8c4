"""The part of a report document that is about one arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.report.arm_risk import PAIRED_THRESHOLDS
from dptrain.report.build_leaves import (
    BOTH,
    CHANCE,
    OTHER_MODELS,
    OTHER_PATIENTS,
    TEST_AND_MODELS,
    beyond,
    figure_of,
    number_of,
    rounded,
)
from dptrain.report.canaries import as_dict as bound_as_dict
from dptrain.report.details import ACCESS_FPR, ArmDetails
from dptrain.report.document import Access, Arm, Attack, Paired, Performance, Privacy, Risk, Threshold
from dptrain.report.leaves import Count, Curve, Figure
from dptrain.report.results import ArmResult, Estimate, StudyResult
from dptrain.report.thinning import survival_points
from dptrain.report.tradeoff import DECIMALS, cap_as_dict
from dptrain.report.words import long_name, short_name


def arm_of(result: StudyResult, arm: ArmResult, ledgers: Sequence[Mapping[str, Any]]) -> Arm:
    details: ArmDetails = result.details[arm.label]
    return Arm(
        label=arm.label,
        name=short_name(arm).replace("\n", " "),
        long_name=long_name(arm),
        is_private=arm.is_private,
        num_parameters=arm.num_parameters,
        privacy=_privacy(arm, ledgers),
        performance=_performance(result, arm, details),
        attack=_attack(result, arm, details),
        risk=_risk(result, arm, details),
        paired=None if arm.paired is None else _paired(result, arm),
        access=tuple(
            Access(
                one.policy,
                figure_of(_summary(one.attack_auc), one.num_patients, about=OTHER_MODELS),
                figure_of(_summary(one.tpr_at_fpr), one.num_patients, unit="fraction", about=OTHER_MODELS),
                figure_of(one.p99, one.num_patients, about=OTHER_PATIENTS, rests_on=beyond(one.num_patients)),
            )
            for one in details.access
        ),
    )


def _privacy(arm: ArmResult, ledgers: Sequence[Mapping[str, Any]]) -> Privacy:
    target = arm.target
    curve = None
    if arm.cap is not None:
        fpr, tpr = _log_grid(arm.cap.curve.fpr, arm.cap.curve.tpr)
        curve = Curve("cap", fpr, tpr, x_unit="fraction", y_unit="fraction", public=True)
    level = None
    if arm.patient_level is not None:
        level = {
            kind: {
                name: Figure(float(value), unit=kind, rests_on=1 if name == "max" else None)
                for name, value in values.items()
            }
            for kind, values in arm.patient_level.items()
        }
    return Privacy(
        target_epsilon=arm.target_epsilon,
        target_tpr=target.target_tpr,
        target_fpr=target.target_fpr,
        target_advantage=target.target_advantage,
        epsilon=arm.epsilon,
        delta=arm.delta,
        noise_multiplier=arm.noise_multiplier,
        sampling_rate=arm.sampling_rate,
        num_steps=arm.num_steps,
        clipping_norm=arm.clipping_norm,
        accounting=arm.accounting,
        cap=None if arm.cap is None else cap_as_dict(arm.cap),
        cap_curve=curve,
        patient_level=level,
        ledger=_ledger(arm, ledgers),
        lower_bound=None if arm.lower_bound is None else bound_as_dict(arm.lower_bound),
    )


def _ledger(arm: ArmResult, ledgers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What is public of what ran: numbers of models and steps, and the noise that was found in the gradients."""
    if not ledgers:
        return None
    noises = [float(one["noise_sd"]) for one in ledgers]
    sigma = arm.noise_multiplier or 0.0
    return {
        "num_models": len(ledgers),
        "num_steps": sorted({int(one["num_steps"]) + int(one["num_lost"]) for one in ledgers}),
        "noise_multipliers": sorted({float(v) for one in ledgers for v in one["noise_multipliers"]}),
        "clipping_norms": sorted({float(v) for one in ledgers for v in one["clipping_norms"]}),
        "noise_over_sigma": [round(min(noises) / sigma, 4), round(max(noises) / sigma, 4)] if sigma else None,
    }


def _performance(result: StudyResult, arm: ArmResult, details: ArmDetails) -> Performance:
    n, found = result.num_test_patients, details.calibration
    base = arm.baseline
    return Performance(
        auroc=figure_of(arm.utility.mean, n, unit="AUROC", n_unit="test patients", about=TEST_AND_MODELS),
        auprc=figure_of(found.auprc, n, unit="AUPRC", n_unit="test patients", about=TEST_AND_MODELS),
        brier=figure_of(found.brier, n, unit="Brier score", n_unit="test patients", about=TEST_AND_MODELS),
        calibration_slope=figure_of(found.slope, n, unit="slope", n_unit="test patients", about=TEST_AND_MODELS),
        prevalence=Figure(number_of(found.prevalence), n=n, n_unit="test patients", unit="fraction"),
        auroc_sd=Figure(number_of(arm.utility.sd), n=result.num_models, n_unit="models", unit="AUROC"),
        baseline=None
        if base is None
        else figure_of(base.utility.mean, n, unit="AUROC", n_unit="test patients", about=TEST_AND_MODELS),
        baseline_difference=None
        if base is None
        else figure_of(base.difference, n, unit="AUROC", n_unit="test patients", about=TEST_AND_MODELS),
    )


def _attack(result: StudyResult, arm: ArmResult, details: ArmDetails) -> Attack:
    roc = details.roc
    return Attack(
        name=arm.attack.name,
        auc=figure_of(arm.attack.auc, result.num_patients, about=OTHER_MODELS),
        tpr_at_fpr={
            f"{fpr:g}": figure_of(tpr, result.num_patients, unit="fraction", about=OTHER_MODELS)
            for fpr, tpr in arm.attack.tpr_at_fpr.items()
        },
        roc=Curve(
            "roc",
            rounded(roc.fpr_G),
            rounded(roc.tpr_G),
            rounded(np.clip(roc.low_G, 0.0, 1.0)),
            rounded(np.clip(roc.high_G, 0.0, 1.0)),
            x_unit="fraction",
            y_unit="fraction",
            n=roc.num_members,
            n_x=roc.num_nonmembers,
        ),
    )


def _risk(result: StudyResult, arm: ArmResult, details: ArmDetails) -> Risk:
    n, risk, again = result.num_patients, arm.risk, details.remeasured
    x, y = survival_points(risk.patient_auc)
    return Risk(
        median=Figure(number_of(risk.median), n=n, rests_on=None),
        p99=figure_of(risk.p99, n, about=OTHER_PATIENTS, rests_on=beyond(n)),
        maximum=Figure(number_of(risk.max), n=n, rests_on=1),
        p99_null=figure_of(risk.null_p99, n, about=CHANCE),
        p95=None if risk.p95 is None else figure_of(risk.p95, n, about=OTHER_PATIENTS, rests_on=beyond(n, 0.05)),
        p95_null=None if risk.null_p95 is None else figure_of(risk.null_p95, n, about=CHANCE),
        at_least=tuple(
            Threshold(
                one.threshold,
                Count(
                    one.count,
                    n,
                    number_of(one.low),
                    number_of(one.high),
                    cell=f"at least {one.threshold:g}/{arm.label}",
                ),
                Figure(number_of(one.null_expected), high=number_of(one.null_high), n=n, unit="patients", about=CHANCE),
                one.resolvable,
            )
            for one in risk.at_least
        ),
        survival=Curve("survival", rounded(x), rounded(y), n=n),
        exposed=Count(details.num_exposed, n),
        picked=None
        if again is None
        else Figure(number_of(again.picked), n=again.num_picked, rests_on=again.num_picked),
        remeasured=None
        if again is None
        else figure_of(again.remeasured, again.num_picked, about=OTHER_MODELS, rests_on=again.num_picked),
    )


def _paired(result: StudyResult, arm: ArmResult) -> Paired:
    assert arm.paired is not None
    n, paired = result.num_patients, arm.paired
    auc = paired.patient_auc
    counts = {}
    for threshold in PAIRED_THRESHOLDS:
        one = auc[f"at_least_{threshold:g}"]
        counts[f"{threshold:g}"] = Count(
            number_of(one.value),
            n,
            number_of(one.low),
            number_of(one.high),
            difference=True,
            cell=f"at least {threshold:g}/{arm.label}",
        )
    return Paired(
        utility=figure_of(
            paired.utility, result.num_test_patients, unit="AUROC", n_unit="test patients", about=TEST_AND_MODELS
        ),
        patient_auc_mean=figure_of(auc["mean"], n, about=BOTH),
        patient_auc_median=figure_of(auc["median"], n, about=BOTH),
        patient_auc_p99=figure_of(auc["p99"], n, about=BOTH, rests_on=beyond(n)),
        count_at_least=counts,
    )


def _summary(one: Any) -> Estimate:
    return Estimate(one.mean, max(one.low, 0.0), min(one.high, 1.0))


def _log_grid(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The cap on a grid that is even on a log axis, rounded up."""
    grid = np.unique(np.concatenate([np.geomspace(1e-5, 1.0, 101), [ACCESS_FPR, 0.001]]))
    cap = np.interp(grid, fpr, tpr)
    up = np.minimum(np.ceil(cap * 10**DECIMALS) / 10**DECIMALS, 1.0)
    return tuple(float(f"{x:.6g}") for x in grid), rounded(up)
