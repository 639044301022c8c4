"""What `dptrain attack` writes: attack.json without any patient, restricted/patients.csv with all, a table to read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dptrain import __version__
from dptrain.attack_files import SavedModels
from dptrain.attacks.gaussian import Variance
from dptrain.attacks.twins import find_twins
from dptrain.audit.access_table import AccessRow
from dptrain.audit.groups import MIN_SIZE
from dptrain.audit.interval import Interval
from dptrain.audit.remeasure import Remeasurement
from dptrain.audit.risk import FALSE_DISCOVERY_RATE, PatientRisk
from dptrain.audit.roc import TprAtFpr
from dptrain.audit.subgroups import Excess, GroupRisk, SubgroupRisk
from dptrain.audit.targets import AttackSummary, TargetSummary
from dptrain.audit.whole import WholeAudit

DECIMALS = 10
NOT_ESTIMABLE = "not estimable"


def attack_json(
    models: SavedModels,
    audit: WholeAudit,
    variance: Mapping[str, Variance],
    not_run: Mapping[str, str],
    access: Sequence[AccessRow] | None,
) -> str:
    """Figures of all patients together; null stands for what cannot be estimated."""
    attacks = {}
    for name, summary in audit.attacks.items():
        extra: dict[str, Any] = {"variance": variance[name]} if name in variance else {}
        if name in audit.max_over_records:
            extra["max_over_records"] = named("auc", _of_targets(audit.max_over_records[name]))
        attacks[name] = {**extra, **_attack(summary), "per_target": _per_target(summary, audit.targets.tolist())}
    content = {
        "dptrain": __version__,
        "num_models": models.num_models,
        "num_twin_pairs": int((find_twins(models.membership_MP) >= 0).sum()) // 2,
        "num_records": models.patient_N.size,
        "num_patients": models.membership_MP.shape[1],
        "task": models.task,
        "targets": audit.targets.tolist(),
        "attacks": attacks,
        "not_run": dict(not_run),
        "risk": risk_block(audit.risk),
        "remeasured": None if audit.remeasured is None else _remeasured(audit.remeasured),
        "subgroups": None if audit.subgroups is None else _subgroups(audit.subgroups),
        "access": None if access is None else {row.policy: _access(row) for row in access},
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _attack(summary: AttackSummary) -> dict[str, Any]:
    """Mean over targets; with one target its own interval, over patients."""
    alone = len(summary.auc_T) == 1
    auc = summary.auc_interval_T[0] if alone else _of_targets(summary.auc)
    content: dict[str, Any] = {**named("auc", auc), "auc_sd": number(summary.auc.sd)}
    notes = []
    for fpr, over_targets in summary.tpr_at_fpr.items():
        one = summary.tpr_at_fpr_T[fpr][0]
        tpr = Interval(one.tpr, one.low, one.high) if alone else _of_targets(over_targets)
        content |= named(f"tpr_at_fpr_{fpr:g}", tpr)
        if not tpr.estimable:
            notes.append(f"tpr_at_fpr_{fpr:g}: {NOT_ESTIMABLE}, a target has fewer than {1 / fpr:.0f} non-members")
    interval = "over patients" if alone else "over targets, twins as one"
    return {**content, "interval": interval, "num_targets": len(summary.auc_T), "notes": notes}


def _of_targets(summary: TargetSummary) -> Interval:
    return Interval(summary.mean, max(summary.low, 0.0), min(summary.high, 1.0))


def _per_target(summary: AttackSummary, targets: list[int]) -> list[dict[str, Any]]:
    rows = []
    for place, target in enumerate(targets):
        row: dict[str, Any] = {"target": target, **named("auc", summary.auc_interval_T[place])}
        for fpr, each in summary.tpr_at_fpr_T.items():
            row |= _tpr(fpr, each[place])
        rows.append(row)
    return rows


def _tpr(fpr: float, one: TprAtFpr) -> dict[str, Any]:
    name = f"tpr_at_fpr_{fpr:g}"
    return {
        **named(name, Interval(one.tpr, one.low, one.high)),
        f"{name}_realised_fpr": number(one.realised_fpr),
        f"{name}_true_positives": one.num_true_positives if one.estimable else None,
        f"{name}_false_positives": one.num_false_positives if one.estimable else None,
        "num_members": one.num_members,
        "num_nonmembers": one.num_nonmembers,
    }


def risk_block(risk: PatientRisk) -> dict[str, Any]:
    """The per-patient block, with the keys of a study's tradeoff.json and some more."""
    attack = risk.attack_auc
    content = {
        **named("patient_auc_mean", risk.mean),
        "patient_auc_median": number(risk.median),
        **named("patient_auc_p99", risk.p99),
        **named("patient_auc_p99_null", risk.null_p99),
        "patient_auc_max": number(risk.max),
        "at_least": {
            f"{one.threshold:g}": {
                "count": one.count,
                "null_expected": number(one.null_expected),
                "null_high": number(one.null_high),
                "low": number(one.low),
                "high": number(one.high),
                "resolvable": one.resolvable,
            }
            for one in risk.at_least
        },
    }
    for name, value in (
        ("median", np.nanmedian),
        ("p99", lambda values: np.nanquantile(values, 0.99)),
        ("max", np.nanmax),
    ):
        content[f"patient_attack_auc_{name}"] = None if attack is None else number(float(value(attack)))
    known = risk.knolle2026[np.isfinite(risk.knolle2026)]
    resolved = risk.resolution
    return {
        **content,
        "patient_auc_knolle2026": {
            "median_clipped": number(float(np.median(np.maximum(known, 0.5)))) if known.size else None,
            "median": number(float(np.median(known))) if known.size else None,
            "max": number(float(known.max())) if known.size else None,
        },
        "num_patients_without": int((~np.isfinite(risk.patient_auc)).sum()),
        "listed": {"false_discovery_rate": FALSE_DISCOVERY_RATE, "count": risk.num_listed},
        "resolution": {
            "standard_error": {f"{area:g}": number(error) for area, error in resolved.standard_error.items()},
            "count_from": number(resolved.count_from),
            "list_from": number(resolved.list_from),
        },
    }


def _remeasured(found: Remeasurement) -> dict[str, Any]:
    return {
        "num_picked": found.num_picked,
        "num_twin_pairs": list(found.num_twin_pairs),
        "picked": number(found.picked),
        **named("remeasured", found.remeasured),
    }


def _subgroups(found: SubgroupRisk) -> dict[str, Any]:
    return {
        "num_patients": found.num_patients,
        "num_in_top": found.num_in_top,
        "size_correlation": number(found.size_correlation),
        "size_p": number(found.size_p),
        "groups": [_group(group) for group in found.groups],
    }


def _group(group: GroupRisk) -> dict[str, Any]:
    head = {"attribute": group.attribute, "group": group.group}
    if not group.reportable:
        return {**head, "not_reported": f"n<{MIN_SIZE}"}
    return {
        **head,
        "num_patients": group.num_patients,
        "share": number(group.share),
        "share_in_top": number(group.share_in_top),
        **named("relative_change", group.relative_change),
        "pearson_residual": number(group.excess.pearson_residual),
        "p": number(group.excess.p),
        "p_holm": number(group.excess.p_holm),
        **named("higher", group.higher),
        "within_labels": None if group.excess_in_strata is None else _excess(group.excess_in_strata),
    }


def _excess(excess: Excess) -> dict[str, Any]:
    return {
        "relative_change": number(excess.relative_change),
        "pearson_residual": number(excess.pearson_residual),
        "p": number(excess.p),
        "p_holm": number(excess.p_holm),
    }


def _access(row: AccessRow) -> dict[str, Any]:
    return {
        "attacks": {name: _attack(summary) for name, summary in row.attacks.items()},
        **named("patient_auc_mean", row.mean),
        **named("patient_auc_p99", row.p99),
    }


def patients_csv(models: SavedModels, risk: PatientRisk) -> str:
    """RESTRICTED. One row per patient."""
    num_in = models.membership_MP.sum(axis=0)
    columns: dict[str, Sequence[Any]] = {"patient_id": models.patient_ids.tolist()}
    columns |= {f"group_{name}": values.tolist() for name, values in sorted(models.groups.items())}
    columns["num_records"] = np.bincount(models.patient_N, minlength=num_in.size).tolist()
    columns["num_in"] = num_in.tolist()
    columns["num_out"] = (models.num_models - num_in).tolist()
    for name, values in (
        ("patient_auc", risk.patient_auc),
        ("standard_error", risk.standard_error),
        ("low", risk.low),
        ("high", risk.high),
        ("p_value", risk.p_value),
        ("p_adjusted", risk.p_adjusted),
        ("patient_attack_auc", risk.attack_auc),
        ("patient_auc_knolle2026", risk.knolle2026),
    ):
        if values is not None:
            columns[name] = [float(f"{value:.6g}") if math.isfinite(value) else "" for value in values.tolist()]
    columns["listed"] = [int(p <= FALSE_DISCOVERY_RATE) for p in risk.p_adjusted.tolist()]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return stream.getvalue()


def table(models: SavedModels, audit: WholeAudit, access: Sequence[AccessRow] | None) -> str:
    """A few lines for the terminal."""
    num_patients = models.membership_MP.shape[1]
    lines = [
        f"{models.num_models} models, {num_patients:,} patients, {models.patient_N.size:,} records; "
        f"{len(audit.targets)} attacked",
        "",
    ]
    rows = [["attack", "AUC (95%)", *(f"TPR at FPR {fpr:g} (95%)" for fpr in _fprs(audit))]]
    for name, summary in audit.attacks.items():
        content = _attack(summary)
        keys = ["auc", *(f"tpr_at_fpr_{fpr:g}" for fpr in _fprs(audit))]
        rows.append([name, *(_shown(content, key) for key in keys)])
    lines += [*_aligned(rows), "", *_risk_lines(audit.risk, models.num_models)]
    if access is not None:
        rows = [["the model answers", "patient AUC p99", *audit.attacks]]
        for row in access:
            found = [f"{row.attacks[name].auc.mean:.3f}" if name in row.attacks else "-" for name in audit.attacks]
            rows.append([row.policy, f"{row.p99.value:.3f}", *found])
        lines += ["", *_aligned(rows)]
    return "\n".join(lines)


def _fprs(audit: WholeAudit) -> list[float]:
    return list(next(iter(audit.attacks.values())).tpr_at_fpr) if audit.attacks else []


def _shown(content: Mapping[str, Any], key: str) -> str:
    value, low, high = content[key], content[f"{key}_low"], content[f"{key}_high"]
    if value is None:
        return NOT_ESTIMABLE
    return f"{value:.4f}" if low is None else f"{value:.4f} ({low:.4f}-{high:.4f})"


def _risk_lines(risk: PatientRisk, num_models: int) -> list[str]:
    lines = [
        f"patient AUC: median {risk.median:.3f}, 99th percentile {risk.p99.value:.3f} "
        f"({risk.p99.low:.3f}-{risk.p99.high:.3f}; {risk.null_p99.value:.3f} by chance), largest {risk.max:.3f}",
        f"on the list at a false discovery rate of {FALSE_DISCOVERY_RATE:g}: {risk.num_listed:,} patients",
    ]
    for one in risk.at_least:
        found = f"{one.count:,} (95%: {one.low:.1f}-{one.high:.1f}; {one.null_expected:.2g} by chance)"
        shown = found if one.resolvable else f"not resolvable with {num_models} models"
        lines.append(f"patients at {one.threshold:g} or above: {shown}")
    return lines


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def named(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: number(interval.value), f"{name}_low": number(interval.low), f"{name}_high": number(interval.high)}


def number(value: float) -> float | None:
    """Rounded to 10 decimals, without negative zero; None if not finite."""
    return round(float(value), DECIMALS) + 0.0 if math.isfinite(value) else None
