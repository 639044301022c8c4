"""From scores to figures with honest uncertainty: ROC, risk per patient, null, counts, matched differences, groups.

Nothing here knows the epsilon that was claimed; the report puts claim and measurement side by side.
"""

from dptrain.audit.counts import ExposedCount, exposed_counts
from dptrain.audit.crossfit import patient_attack_auc
from dptrain.audit.exposed import adjusted_p_values, benjamini_hochberg
from dptrain.audit.groups import GroupUtility, group_utility
from dptrain.audit.interval import Interval
from dptrain.audit.matched import Difference, PairedDifference, paired_difference
from dptrain.audit.null import NullDistribution, NullSummary, null_patient_auc, permuted_memberships
from dptrain.audit.patients import (
    patient_auc,
    patient_auc_interval,
    patient_auc_knolle2026,
    patient_auc_standard_error,
    patient_evidence,
)
from dptrain.audit.remeasure import PickedPatients, Remeasurement, remeasure
from dptrain.audit.roc import (
    RocCurve,
    TprAtFpr,
    auc,
    clopper_pearson,
    roc_curve,
    tpr_at_fpr,
    tpr_at_fpr_split,
)
from dptrain.audit.subgroup_difference import GroupDifference, subgroup_differences
from dptrain.audit.subgroups import Excess, GroupRisk, SubgroupRisk, subgroup_risk
from dptrain.audit.targets import AttackSummary, TargetSummary, summarise_attack, summarise_targets

__all__ = [
    "AttackSummary",
    "Difference",
    "Excess",
    "ExposedCount",
    "GroupDifference",
    "GroupRisk",
    "GroupUtility",
    "Interval",
    "NullDistribution",
    "NullSummary",
    "PairedDifference",
    "PickedPatients",
    "Remeasurement",
    "RocCurve",
    "SubgroupRisk",
    "TargetSummary",
    "TprAtFpr",
    "adjusted_p_values",
    "auc",
    "benjamini_hochberg",
    "clopper_pearson",
    "exposed_counts",
    "group_utility",
    "null_patient_auc",
    "paired_difference",
    "patient_attack_auc",
    "patient_auc",
    "patient_auc_interval",
    "patient_auc_knolle2026",
    "patient_auc_standard_error",
    "patient_evidence",
    "permuted_memberships",
    "remeasure",
    "roc_curve",
    "subgroup_differences",
    "subgroup_risk",
    "summarise_attack",
    "summarise_targets",
    "tpr_at_fpr",
    "tpr_at_fpr_split",
]
