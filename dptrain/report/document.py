"""The report document: everything that a report's pages show, in one nested structure of frozen values.

Made by `build.document_of` from an analysed study and drawn by the renderers (HTML, Markdown, JSON), none of which
computes a statistic or knows the study. What was counted or measured on patients stands in typed leaves (`leaves`);
all plain numbers are public. `docs/report.md` describes the JSON; `SCHEMA` is raised as that of tradeoff.json.

No sentence here holds a measured number: sentences are written from the leaves when a page is drawn, so they say what
the leaves of *that* document say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dptrain.report.leaves import Count, Curve, Figure, Remark, plain

SCHEMA = 1
"""Raised when a key of report.json is renamed, removed or changes its meaning."""


@dataclass(frozen=True)
class Summary:
    """The study."""

    name: str
    cohort: str
    simulated: bool
    task: str
    """binary, multiclass or multilabel."""
    model: str
    unit: str
    """What epsilon protects: patient or record."""
    patient_word: str
    """patient, or what stands for one in data without patient identifiers (image)."""
    num_models: int
    """M per arm."""
    metric: str
    """auroc or auroc_macro."""
    num_patients: Count
    """Training pool; each patient is in half of the models."""
    num_records: Count
    num_test_patients: Count
    label_names: tuple[str, ...]
    warnings: tuple[Remark, ...]
    outside_dp: tuple[str, ...]
    """What touched private data before DP-SGD and is not covered by epsilon."""


@dataclass(frozen=True)
class Privacy:
    """The mechanism of an arm and its accounting: public."""

    target_epsilon: float | None
    target_tpr: float | None
    target_fpr: float | None
    target_advantage: float | None
    epsilon: float | None
    """None without DP."""
    delta: float | None
    noise_multiplier: float | None
    sampling_rate: float | None
    num_steps: int
    clipping_norm: float | None
    accounting: Mapping[str, Any] | None
    """Epsilon by each accountant."""
    cap: Mapping[str, float] | None
    """Largest AUC and TPR of any attack on one patient, rounded up: keys as in tradeoff.json."""
    cap_curve: Curve | None
    patient_level: Mapping[str, Mapping[str, Figure]] | None
    """Unit record only: `records` and `epsilon` of whole patients at p50, p90, p99, max."""
    ledger: Mapping[str, Any] | None
    """What ran, as the ledger of the models saw it; None without clipping."""
    lower_bound: Mapping[str, Any] | None = None
    """What planted canaries prove about epsilon, keys as in tradeoff.json; they are public constants, no patients."""


@dataclass(frozen=True)
class Performance:
    """Diagnostic performance on the test patients."""

    auroc: Figure
    auprc: Figure
    brier: Figure
    calibration_slope: Figure
    prevalence: Figure
    """Share of positive test records: the AUPRC of guessing."""
    auroc_sd: Figure
    """Standard deviation of the AUROC between models."""
    baseline: Figure | None
    """AUROC of logistic regression with the same privacy; None where none was trained."""
    baseline_difference: Figure | None
    """The arm's AUROC minus the baseline's."""


@dataclass(frozen=True)
class Attack:
    """The attack on each model in turn."""

    name: str
    auc: Figure
    tpr_at_fpr: Mapping[str, Figure]
    """By false-positive rate as text ("0.01")."""
    roc: Curve


@dataclass(frozen=True)
class Threshold:
    """Patients with an attack AUC at or above a threshold."""

    threshold: float
    count: Count
    null_expected: Figure
    """Number of patients expected if nothing leaked."""
    resolvable: bool
    """False: so few models cannot tell; the count must not be quoted."""


@dataclass(frozen=True)
class Risk:
    """Patient by patient."""

    median: Figure
    p99: Figure
    maximum: Figure
    p99_null: Figure
    """The 99th percentile if nothing leaked, with the central 95%."""
    at_least: tuple[Threshold, ...]
    survival: Curve
    exposed: Count
    """Patients surely told from chance (false discovery rate 5%)."""
    picked: Figure | None
    """Mean AUC of the most exposed 1% as picked on one half of the models: too high."""
    remeasured: Figure | None
    """The same patients on the other half."""
    p95: Figure | None = None
    """95th percentile: shown where the 99th must not be, because it is that of too few patients."""
    p95_null: Figure | None = None

    def reached_by(self, percent: int) -> tuple[Figure | None, Figure | None]:
        """(AUC that the most exposed 1 or 5 percent reach, the same if nothing leaked)."""
        return (self.p99, self.p99_null) if percent == 1 else (self.p95, self.p95_null)


@dataclass(frozen=True)
class Paired:
    """This arm minus the arm `none`, patient by patient and model by model."""

    utility: Figure
    patient_auc_mean: Figure
    patient_auc_median: Figure
    patient_auc_p99: Figure
    count_at_least: Mapping[str, Count]
    """By threshold as text ("0.9")."""


@dataclass(frozen=True)
class Access:
    """An attacker who sees only this much of the model's answers."""

    policy: str
    """logits, probabilities_2, top1, top1_2, label."""
    attack_auc: Figure
    tpr_at_fpr_001: Figure
    """At a false-positive rate of 0.01."""
    patient_auc_p99: Figure


@dataclass(frozen=True)
class Arm:
    """One privacy level."""

    label: str
    name: str
    """A few words: "no privacy", "ε = 8"."""
    long_name: str
    is_private: bool
    num_parameters: int
    privacy: Privacy
    performance: Performance
    attack: Attack
    risk: Risk
    paired: Paired | None
    access: tuple[Access, ...]


@dataclass(frozen=True)
class GroupInArm:
    """One group under one arm."""

    num_in_top: Count
    """Of the most exposed 1% of patients."""
    share_in_top: Figure
    relative_change: Figure
    """Share of the top against share of all, minus 1; 0 is no excess."""
    p_holm: Figure
    """Of that excess, by permutation, Holm over all groups."""
    mean_auc: Figure
    """Mean patient AUC of the group."""
    auroc: Figure
    """Diagnostic performance on the group's test patients."""
    fall: Figure | None
    """Mean fall of the patient AUC from the arm `none` to this one; above 0 is safer."""
    fall_against_others: Figure | None
    """That minus the fall of all other patients; below 0 the group gains less."""


@dataclass(frozen=True)
class Group:
    """One group of one attribute."""

    attribute: str
    group: str
    num_patients: Count
    num_test_patients: Count
    arms: Mapping[str, GroupInArm]
    """By label of the arm; empty if the group has too few patients."""


@dataclass(frozen=True)
class Repeat:
    """How to make the study again."""

    commands: tuple[str, ...]
    dptrain: str
    fingerprint: str
    """Of the configuration."""
    settings: Mapping[str, Any]
    """Frozen configuration, without paths."""


@dataclass(frozen=True)
class JudgedArm:
    """One arm under a policy."""

    label: str
    verdict: Remark
    """Met, or the rules that are not, with their figures."""


@dataclass(frozen=True)
class Choice:
    """Which epsilon a declared risk appetite allows."""

    policy: str
    """Name."""
    description: Remark
    answer: Remark
    """The largest epsilon that meets the policy and what it costs, or why there is none."""
    arms: tuple[JudgedArm, ...]


@dataclass(frozen=True)
class Document:
    """A study's report."""

    summary: Summary
    arms: tuple[Arm, ...]
    """none, matched, clip, then epsilon falling."""
    null: Curve
    """kind null: number of patients at or above each AUC if nothing leaked."""
    groups: tuple[Group, ...]
    not_tested: tuple[str, ...]
    repeat: Repeat
    choice: Choice | None = None
    """None if no policy was named."""
    audience: str = "house"
    """house: whoever may see the study's results; release: after disclosure control."""
    remarks: tuple[str, ...] = field(default=())
    """What was done to this document, one sentence each: printed at its top."""
    schema: int = SCHEMA

    def arm(self, label: str) -> Arm | None:
        """The arm called `label`, or None."""
        return next((arm for arm in self.arms if arm.label == label), None)

    @property
    def headline_percent(self) -> int:
        """Whose risk the headline is about: the most exposed 1%, or 5% where that figure is known of no arm."""
        shares = (percent for percent in (1, 5) if any(_is_known(arm.risk.reached_by(percent)[0]) for arm in self.arms))
        return next(shares, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, "schema" first."""
        content: dict[str, Any] = plain(self)
        return {"schema": content.pop("schema"), **content}

    def to_json(self) -> str:
        """The text of report.json; the same document gives the same bytes."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _is_known(figure: Figure | None) -> bool:
    return figure is not None and figure.value is not None
