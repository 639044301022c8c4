"""`tradeoff.json` and `tradeoff.csv`: the outcome of a study as numbers.

A stable contract (docs/study.md): keys are added, never renamed or given another meaning without a new `SCHEMA`. The
same result gives the same bytes: keys in a fixed order, statistics rounded to 6 decimals, no time, no path. Parameters
of the mechanism and epsilon are written in full, because rounding could make a guarantee look better than it is.
What could not be estimated is null, never NaN and never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from dptrain.audit.counts import ExposedCount
from dptrain.report import canaries
from dptrain.report.csv_text import csv_table
from dptrain.report.enough import stability_as_dict
from dptrain.report.results import ArmResult, BaselineResult, CapResult, Estimate, PairedResult, StudyResult

SCHEMA = 1
"""Raised when a key of tradeoff.json is renamed, removed or changes its meaning."""
DECIMALS = 6
WHOLE_BLOCKS = ("paired", "cap", "lower_bound", "baseline")
"""Objects that an arm may lack as a whole; the table has no column for them then."""


def tradeoff_json(result: StudyResult) -> str:
    """The text of tradeoff.json."""
    return json.dumps(as_dict(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_dict(result: StudyResult) -> dict[str, Any]:
    """The content of tradeoff.json; see docs/study.md."""
    return {
        "schema": SCHEMA,
        "cohort": result.cohort,
        "simulated": result.simulated,
        "task": result.task,
        "model": result.model,
        "unit": result.unit,
        "num_models": result.num_models,
        "fleet": None if result.growth is None else dict(result.growth),
        "num_patients": result.num_patients,
        "num_records": result.num_records,
        "num_test_patients": result.num_test_patients,
        "arms": [_arm(arm) for arm in result.arms],
        "warnings": list(result.warnings),
    }


def _arm(arm: ArmResult) -> dict[str, Any]:
    return {
        "label": arm.label,
        "target_epsilon": arm.target_epsilon,
        **_risk_targets(arm),
        "epsilon": arm.epsilon,
        "delta": arm.delta,
        "noise_multiplier": arm.noise_multiplier,
        "sampling_rate": arm.sampling_rate,
        "num_steps": arm.num_steps,
        "clipping_norm": arm.clipping_norm,
        "num_parameters": arm.num_parameters,
        "utility": {
            "metric": arm.utility.metric,
            **_named("mean", arm.utility.mean),
            "sd": _number(arm.utility.sd),
            "per_model": [_number(value) for value in arm.utility.per_model],
            **_per_label(arm),
        },
        "attack": _attack(arm),
        "risk": _risk(arm),
        "paired": None if arm.paired is None else _paired(arm.paired),
        "cap": None if arm.cap is None else cap_as_dict(arm.cap),
        "stability": stability_as_dict(arm.stability),
        "lower_bound": None if arm.lower_bound is None else canaries.as_dict(arm.lower_bound),
        "baseline": None if arm.baseline is None else _baseline(arm.baseline),
        **({} if arm.patient_level is None else {"patient_level": {k: dict(v) for k, v in arm.patient_level.items()}}),
    }


def _per_label(arm: ArmResult) -> dict[str, Any]:
    """Only for several classes or labels."""
    each = {name: _named("mean", one) for name, one in arm.utility.per_label.items()}
    return {"per_label": each} if each else {}


def _baseline(baseline: BaselineResult) -> dict[str, Any]:
    return {
        "name": "logistic regression",
        "num_models": baseline.num_models,
        "epsilon": baseline.epsilon,
        "noise_multiplier": baseline.noise_multiplier,
        "sampling_rate": baseline.sampling_rate,
        "num_steps": baseline.num_steps,
        "utility": {
            "metric": baseline.utility.metric,
            **_named("mean", baseline.utility.mean),
            "sd": _number(baseline.utility.sd),
        },
        **_named("difference", baseline.difference),
    }


def _risk_targets(arm: ArmResult) -> dict[str, float]:
    """Only for arms whose noise was chosen for an attack's success."""
    target = arm.target
    named = {
        "target_tpr": target.target_tpr,
        "target_fpr": target.target_fpr,
        "target_advantage": target.target_advantage,
    }
    return {name: value for name, value in named.items() if value is not None}


def _attack(arm: ArmResult) -> dict[str, Any]:
    attack = arm.attack
    content: dict[str, Any] = {"name": attack.name, **_named("auc", attack.auc), "auc_sd": _number(attack.auc_sd)}
    for fpr, tpr in attack.tpr_at_fpr.items():
        content |= _named(f"tpr_at_fpr_{fpr:g}", tpr)
    return content


def _risk(arm: ArmResult) -> dict[str, Any]:
    risk = arm.risk
    return {
        "patient_auc_median": _number(risk.median),
        **_named("patient_auc_p99", risk.p99),
        **_named("patient_auc_p99_null", risk.null_p99),
        "patient_auc_max": _number(risk.max),
        "at_least": {f"{one.threshold:g}": _exposed(one) for one in risk.at_least},
        "patient_attack_auc_median": _number(risk.attack_median),
        "patient_attack_auc_p99": _number(risk.attack_p99),
        "patient_attack_auc_max": _number(risk.attack_max),
    }


def _exposed(one: ExposedCount) -> dict[str, Any]:
    return {
        "count": one.count,
        "null_expected": _number(one.null_expected),
        "null_high": _number(one.null_high),
        "low": _number(one.low),
        "high": _number(one.high),
        "resolvable": one.resolvable,
    }


def _paired(paired: PairedResult) -> dict[str, Any]:
    figures = {"utility": paired.utility, **{f"patient_{name}": one for name, one in _risk_names(paired).items()}}
    return {
        name: {"difference": _number(one.value), "low": _number(one.low), "high": _number(one.high)}
        for name, one in figures.items()
    }


def _risk_names(paired: PairedResult) -> Mapping[str, Estimate]:
    """mean, median, p99 are of patient AUCs; at_least_0.9 is a number of patients."""
    return {
        f"auc_{name}" if not name.startswith("at_") else f"count_{name}": one
        for name, one in paired.patient_auc.items()
    }


def cap_as_dict(cap: CapResult) -> dict[str, Any]:
    """Rounded up: a cap may be stated too high, never too low."""
    return {
        "auc": _rounded_up(cap.auc),
        **{f"tpr_at_fpr_{fpr:g}": _rounded_up(tpr) for fpr, tpr in cap.tpr_at_fpr.items()},
        **({} if cap.advantage is None else {"advantage": _rounded_up(cap.advantage)}),
    }


def _named(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: _number(estimate.value), f"{name}_low": _number(estimate.low), f"{name}_high": _number(estimate.high)}


def _number(value: float) -> float | None:
    """Rounded to 6 decimals, without negative zero; None if not finite."""
    return round(float(value), DECIMALS) + 0.0 if math.isfinite(value) else None


def _rounded_up(value: float) -> float:
    return min(1.0, math.ceil(value * 10**DECIMALS) / 10**DECIMALS)


def tradeoff_csv(result: StudyResult) -> str:
    """One row per arm, nested keys joined by dots; `per_model` is left to the JSON."""
    rows = [_flat(_arm(arm)) for arm in result.arms]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    common = {
        "cohort": result.cohort,
        "simulated": result.simulated,
        "unit": result.unit,
        "num_models": result.num_models,
        "num_patients": result.num_patients,
    }
    return csv_table([*common, *columns], [[*common.values(), *(row.get(name) for name in columns)] for row in rows])


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list) and not (value is None and key in WHOLE_BLOCKS):
            flat[prefix + key] = value
    return flat
