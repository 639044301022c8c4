"""Patients in groups of ten: a study's result in which no value is that of fewer patients (micro-aggregation).

For what is copied around without disclosure control, above all TensorBoard's event files. Patients are sorted by their
AUC and put together by tens, the most exposed first; each gets the mean of its group. Averages stay what they are,
curves have no step of fewer patients, a maximum is the mean of ten, and every count is one of whole groups.
(Domingo-Ferrer and Mateo-Sanz, IEEE TKDE 2002.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dptrain.audit.counts import count_at_least, count_interval
from dptrain.report.quantiles import quantile_interval
from dptrain.report.results import ArmResult, RiskResult, StudyResult
from dptrain.report.suppression import Rule


def coarse(result: StudyResult, rule: Rule | None = None) -> StudyResult:
    """The result with every figure about single patients taken from groups of `rule.min_count`; without identities."""
    size = (rule or Rule()).min_count
    return replace(
        result,
        arms=tuple(_arm(arm, size) for arm in result.arms),
        patient_ids=np.empty(0, dtype=np.str_),
        groups={},
        details={},
    )


def grouped_means(value_P: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(P,) each patient's value replaced by the mean of its group of `size` or more; NaN stays NaN.

    Fewer than `size` patients with a value are one group.
    """
    known = np.flatnonzero(np.isfinite(value_P))
    order = known[np.argsort(-value_P[known], kind="stable")]
    num_groups = max(1, len(order) // size)
    group = np.minimum(np.arange(len(order)) // size, num_groups - 1)
    found = np.full(len(value_P), np.nan)
    if len(order):
        found[order] = (np.bincount(group, weights=value_P[order]) / np.bincount(group))[group]
    return found


def _arm(arm: ArmResult, size: int) -> ArmResult:
    return replace(arm, risk=_risk(arm.risk, size), patient_level=None, paired=None)


def _risk(risk: RiskResult, size: int) -> RiskResult:
    auc, attack = grouped_means(risk.patient_auc, size), grouped_means(risk.patient_attack_auc, size)
    known = auc[np.isfinite(auc)]
    counts = []
    for one in risk.at_least:
        count = count_at_least(known, one.threshold)
        low, high = count_interval(count, len(known), risk.common_share.get(one.threshold, 0.0))
        counts.append(replace(one, count=count, low=low, high=high))
    return replace(
        risk,
        patient_auc=auc,
        patient_attack_auc=attack,
        median=float(np.median(known)),
        p99=quantile_interval(known, 0.99),
        max=float(known.max()),
        at_least=tuple(counts),
        attack_median=float(np.nanmedian(attack)),
        attack_p99=float(np.nanquantile(attack, 0.99)),
        attack_max=float(np.nanmax(attack)),
        p95=quantile_interval(known, 0.95),
    )
