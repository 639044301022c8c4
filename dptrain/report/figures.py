"""What a policy is held against: the figures of one arm and the evidence that its guarantee holds.

Taken from the study folder itself, never from a written report: a table can be old or edited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dptrain.audit.counts import ExposedCount
from dptrain.audit.subgroups import GroupRisk, subgroup_risk
from dptrain.errors import StudyError
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.verify import void_reasons
from dptrain.report.results import Estimate, StudyResult
from dptrain.seeding import numpy_stream
from dptrain.study.folder import StudyFolder


@dataclass(frozen=True)
class Evidence:
    """Why an arm's epsilon may be believed."""

    preflight: str | None = None
    """`passed`, or what is wrong; None if there is no record of one."""
    ledger: tuple[str, ...] | None = None
    """What disagrees between what ran and what is accounted; () if nothing does, None if no ledger was kept."""


@dataclass(frozen=True)
class ArmFigures:
    """One arm. None stands for a figure that the study does not have."""

    label: str
    unit: str
    """What epsilon protects."""
    epsilon: float | None
    patient_epsilon: float | None
    """Epsilon of every patient with all records; equal to `epsilon` where a patient is a unit."""
    delta: float | None
    num_models: int
    num_patients: int
    """Of the training pool."""
    num_test_patients: int
    evidence: Evidence
    cap_tpr_at_fpr: Mapping[float, float]
    """Largest TPR that the guarantee leaves to any attack; empty without a guarantee for patients."""
    exposed: Mapping[float, ExposedCount]
    """By threshold of the patient AUC."""
    tpr_at_fpr: Mapping[float, Estimate | None]
    """Of the attack; None where there are too few patients."""
    null_p99: float
    """99th percentile of patient AUCs if nothing leaked."""
    groups: tuple[GroupRisk, ...]
    """All groups of all attributes; empty if the cohort has no group attribute."""
    utility: Estimate
    difference_to_none: Estimate | None
    """Performance minus that of the arm `none`, paired; None for that arm itself."""
    gain_over_baseline: Estimate | None


def arm_figures(result: StudyResult, label: str, evidence: Evidence, seed: int) -> ArmFigures:
    """The figures of one arm of an analysed study."""
    arm = result.arm(label)
    one_record = result.num_records == result.num_patients
    level = None if arm.patient_level is None else arm.patient_level["epsilon"].get("max")
    return ArmFigures(
        label=label,
        unit=result.unit,
        epsilon=arm.epsilon,
        patient_epsilon=arm.epsilon if result.unit == "patient" or one_record else level,
        delta=arm.delta,
        num_models=result.num_models,
        num_patients=result.num_patients,
        num_test_patients=result.num_test_patients,
        evidence=evidence,
        cap_tpr_at_fpr={} if arm.cap is None else arm.cap.tpr_at_fpr,
        exposed={one.threshold: one for one in arm.risk.at_least},
        tpr_at_fpr=arm.attack.tpr_at_fpr,
        null_p99=arm.risk.null_p99.value,
        groups=_groups(result, label, seed),
        utility=arm.utility.mean,
        difference_to_none=None if arm.paired is None else arm.paired.utility,
        gain_over_baseline=None if arm.baseline is None else arm.baseline.difference,
    )


def _groups(result: StudyResult, label: str, seed: int) -> tuple[GroupRisk, ...]:
    """As in the report, whose details hold them already."""
    if label in result.details:
        known = result.details[label].groups
        return () if known is None else known.groups
    if not result.groups:
        return ()
    groups = {name: result.groups[name] for name in sorted(result.groups)}
    risk = result.arm(label).risk.patient_auc
    return subgroup_risk(risk, groups, numpy_stream(seed, "null", "groups", label)).groups


def read_evidence(study: StudyFolder) -> dict[str, Evidence]:
    """The evidence of every complete arm, by label: preflight and ledgers are read and checked anew."""
    records = study.arms()
    ledgers = {
        record.label: study.ledgers(record.label)
        for record in records
        if record.mechanism is not None and record.clipping_norm is not None
    }
    shared = shared_noise([entry for entries in ledgers.values() for entry in entries])
    found = {}
    for record in records:
        reasons: tuple[str, ...] | None = None
        if ledgers.get(record.label):
            assert record.mechanism is not None
            entries = ledgers[record.label]
            listed = void_reasons(Mechanism(**record.mechanism), record.epsilon, entries)
            if len(entries) != study.num_models:
                listed.append(f"{len(entries)} ledgers were kept for {study.num_models} models.")
            if shared and not shared_noise(entries):
                listed.append("Noise streams are shared between arms: their models are not independent releases.")
            reasons = tuple(listed)
        found[record.label] = Evidence(_preflight(study, record.label), reasons)
    return found


def _preflight(study: StudyFolder, label: str) -> str | None:
    path = study.arm_path(label).with_name("preflight.json")
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        passed, findings = content["passed"], len(content["findings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"Cannot read {path}: {error}. Run the study's command again.") from error
    return "passed" if passed is True and not findings else f"{findings} findings"
