"""What a report shows of an arm beyond the trade-off: ROC, calibration, groups, access policies, the winner's curse.

Made beside `analysis.analyse` while an arm's logits are in memory. Random numbers come from the study's seed tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.access import POLICIES, seen_signals
from dptrain.attacks.patient import expand_membership, sum_over_records
from dptrain.attacks.protocol import Attack
from dptrain.attacks.twins import model_units
from dptrain.audit.exposed import benjamini_hochberg
from dptrain.audit.groups import GroupUtility, group_utility
from dptrain.audit.interval import NOT_ESTIMABLE, Interval, normal_interval
from dptrain.audit.mean_roc import MeanRoc, mean_roc
from dptrain.audit.null import NullDistribution
from dptrain.audit.patients import patient_auc, patient_evidence
from dptrain.audit.remeasure import Remeasurement, remeasure
from dptrain.audit.subgroup_difference import GroupDifference, subgroup_differences
from dptrain.audit.subgroups import SubgroupRisk, subgroup_risk
from dptrain.audit.targets import TargetSummary, summarise_attack
from dptrain.cohorts.cohort import Cohort
from dptrain.report.calibration import Calibration, calibration
from dptrain.report.quantiles import quantile_interval
from dptrain.report.results import Estimate
from dptrain.report.utility_interval import mean_interval, measure
from dptrain.seeding import numpy_stream

ACCESS_PATIENTS = 10_000
"""Access policies are compared on so many patients, drawn at random, if there are more: six attacks per arm."""
ACCESS_FPR = 0.01
MIN_PAIRS_TO_REMEASURE = 4
MANY_PATIENTS, FEWER_RESAMPLES = 10_000, 400
"""Above so many patients, groups are permuted and resampled so often instead of 2000 and 1000 times."""


@dataclass(frozen=True)
class Pool:
    """What all arms of a study share: records and patients of the training pool and of the test set."""

    cohort: Cohort
    membership_MP: NDArray[np.bool_]
    train_rows: NDArray[np.int64]
    train_patient: NDArray[np.int64]
    """Patient 0..P-1 of each of `train_rows`."""
    test_rows: NDArray[np.int64]
    test_patient: NDArray[np.int64]
    attack: Attack
    seed: int

    @property
    def num_patients(self) -> int:
        """P."""
        return int(self.membership_MP.shape[1])

    def groups(self, patients: NDArray) -> dict[str, NDArray[np.str_]]:
        """Group attributes of some patients."""
        return {name: values[patients] for name, values in sorted(self.cohort.groups.items())}

    @property
    def test_patients(self) -> NDArray[np.int64]:
        """Test patients in the order of `test_patient`."""
        return np.flatnonzero(self.cohort.is_test)


@dataclass(frozen=True)
class AccessResult:
    """The attack on answers that say only so much."""

    policy: str
    attack_auc: TargetSummary
    tpr_at_fpr: TargetSummary
    """At ACCESS_FPR."""
    p99: Estimate
    """99th percentile of patient AUC."""
    num_patients: int


@dataclass(frozen=True)
class ArmDetails:
    """The rest of what is known about an arm."""

    roc: MeanRoc
    calibration: Calibration
    num_exposed: int
    """Patients on the Benjamini-Hochberg list at 5%."""
    remeasured: Remeasurement | None
    """None with fewer than 4 pairs of twins."""
    access: tuple[AccessResult, ...]
    groups: SubgroupRisk | None
    """None without group attributes."""
    group_auc: Mapping[tuple[str, str], Interval]
    """Mean patient AUC by (attribute, group)."""
    group_auroc: tuple[GroupUtility, ...]
    """Of groups among the test patients."""
    group_outcome: Mapping[tuple[str, str], int]
    """By (attribute, group): test patients with the rarest outcome of the group; they decide its performance."""
    differences: tuple[GroupDifference, ...]
    """Risk in the arm `none` minus risk in this one; empty for `none` and without it."""


def arm_details(
    pool: Pool,
    label: str,
    logits: NDArray[np.floating],
    scores_MP: NDArray[np.float64],
    evidence_MP: NDArray[np.float64],
    auc_P: NDArray[np.float64],
    null: NullDistribution,
    reference_auc_P: NDArray[np.float64] | None,
) -> ArmDetails:
    """Details of one arm; `reference_auc_P` are the patient AUCs of the arm `none`, None for that arm itself."""
    pairs = model_units(pool.membership_MP)
    test_labels = np.asarray(pool.cohort.labels)[pool.test_rows]
    groups = pool.groups(pool.cohort.train_patients)
    grouped = len(groups) > 0
    effort = {}
    if pool.num_patients > MANY_PATIENTS:
        effort = {"num_permutations": FEWER_RESAMPLES, "num_resamples": FEWER_RESAMPLES}
    return ArmDetails(
        roc=mean_roc(scores_MP, pool.membership_MP),
        calibration=calibration(
            logits[:, pool.test_rows], test_labels, pool.test_patient, pool.cohort.task, pairs
        ),
        num_exposed=int(benjamini_hochberg(null.p_values(auc_P)).sum()),
        remeasured=_remeasured(pool, label, evidence_MP),
        access=_access(pool, logits),
        groups=subgroup_risk(auc_P, groups, numpy_stream(pool.seed, "null", "groups", label), **effort)
        if grouped
        else None,
        group_auc=_group_auc(auc_P, groups),
        group_auroc=_group_auroc(pool, logits, test_labels, pairs) if grouped else (),
        group_outcome=_group_outcome(pool, test_labels),
        differences=subgroup_differences(
            reference_auc_P, auc_P, groups, numpy_stream(pool.seed, "null", "group differences", label), **effort
        )
        if grouped and reference_auc_P is not None
        else (),
    )


def _remeasured(pool: Pool, label: str, evidence_MP: NDArray[np.float64]) -> Remeasurement | None:
    if len(evidence_MP) // 2 < MIN_PAIRS_TO_REMEASURE:
        return None
    return remeasure(evidence_MP, pool.membership_MP, numpy_stream(pool.seed, "bootstrap", "remeasure", label))


def _access(pool: Pool, logits: NDArray[np.floating]) -> tuple[AccessResult, ...]:
    """The same patients for every arm and policy."""
    chosen = np.arange(pool.num_patients)
    if pool.num_patients > ACCESS_PATIENTS:
        rng = numpy_stream(pool.seed, "subset", "access")
        chosen = np.sort(rng.choice(pool.num_patients, ACCESS_PATIENTS, replace=False))
    place = np.full(pool.num_patients, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    kept = np.flatnonzero(place[pool.train_patient] >= 0)
    rows, patient = pool.train_rows[kept], place[pool.train_patient[kept]]
    labels, membership = np.asarray(pool.cohort.labels)[rows], pool.membership_MP[:, chosen]
    membership_MN = expand_membership(membership, patient)
    seen_MNK = logits[:, rows]
    found = []
    for access in POLICIES:
        signals = seen_signals(seen_MNK, labels, pool.cohort.task, access)
        scores = sum_over_records(pool.attack.function(signals, membership_MN), patient, len(chosen))
        summary = summarise_attack(scores, membership, (ACCESS_FPR,))
        auc_P = patient_auc(patient_evidence(signals, patient, len(chosen)), membership)
        found.append(
            AccessResult(
                access.name,
                summary.auc,
                summary.tpr_at_fpr[ACCESS_FPR],
                quantile_interval(auc_P[np.isfinite(auc_P)], 0.99),
                len(chosen),
            )
        )
    return tuple(found)


def _group_auc(auc_P: NDArray[np.float64], groups: Mapping[str, NDArray]) -> dict[tuple[str, str], Interval]:
    """Mean patient AUC of every group with its t interval over patients."""
    found = {}
    for name, values in groups.items():
        for group in np.unique(values):
            inside = auc_P[(values == group) & np.isfinite(auc_P)]
            found[name, str(group)] = _mean_interval(inside)
    return found


def _mean_interval(values: NDArray[np.float64]) -> Interval:
    if len(values) < 2:
        return NOT_ESTIMABLE
    return normal_interval(
        float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))), df=float(len(values) - 1)
    )


def _group_auroc(
    pool: Pool, logits: NDArray[np.floating], test_labels: NDArray, pairs: NDArray
) -> tuple[GroupUtility, ...]:
    def measured(patients_P: NDArray[np.bool_]) -> Interval | None:
        rows = np.flatnonzero(patients_P[pool.test_patient])
        patient = np.unique(pool.test_patient[rows], return_inverse=True)[1].astype(np.int64)
        labels = test_labels[rows]
        if not _both_outcomes(labels):
            return None
        estimate: Estimate = mean_interval(
            measure(logits[:, pool.test_rows[rows]], labels, patient, pool.cohort.task), pairs
        )
        return Interval(estimate.value, estimate.low, estimate.high)

    return group_utility(pool.groups(pool.test_patients), len(pool.test_patients), measured)


def _group_outcome(pool: Pool, test_labels: NDArray) -> dict[tuple[str, str], int]:
    """Patients with the rarest outcome (class; or label, present or absent) in every group of the test patients."""
    columns = test_labels.reshape(len(test_labels), -1).astype(np.float64)
    outcomes = [columns[:, label] == value for label in range(columns.shape[1]) for value in _outcomes(columns, label)]
    found = {}
    for name, values in pool.groups(pool.test_patients).items():
        group_of_record = values[pool.test_patient]
        for group in np.unique(values):
            inside = group_of_record == group
            found[name, str(group)] = min(len(np.unique(pool.test_patient[inside & has])) for has in outcomes)
    return found


def _outcomes(columns_NL: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """Values that a label takes anywhere in the test."""
    column = columns_NL[:, label]
    return np.unique(column[~np.isnan(column)])


def _both_outcomes(labels: NDArray) -> bool:
    """Whether an AUROC can be taken: some label or class has both outcomes."""
    columns = labels.reshape(len(labels), -1)
    return any(len(np.unique(column[~np.isnan(column)])) > 1 for column in columns.T.astype(np.float64))
