"""`StudyResult`: everything a report says about a study, as frozen values. Made by `analysis.analyse`, drawn and
written by the other modules of this room, none of which computes a statistic.

Fractions are fractions, never percent. Intervals are 95%. The arrays with one value per patient are RESTRICTED: they go
to `restricted/patient_risk.csv` and, without any identity, into the survival curves of the chart; nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dptrain.audit.counts import ExposedCount
from dptrain.audit.enough import Stability
from dptrain.audit.lower_bound import EpsilonLowerBound
from dptrain.cohorts.cohort import Cohort
from dptrain.privacy.tradeoff import TradeOff
from dptrain.training.arms import Arm, arm_from_label

FPRS = (0.01, 0.001)
"""False-positive rates at which the attack is reported."""
HEADLINE_THRESHOLD = 0.9
"""The threshold named in tables with room for one."""


class ArmLike(Protocol):
    """What the analysis asks of an arm (`dptrain.study.arm_record.ArmRecord`)."""

    @property
    def label(self) -> str: ...
    @property
    def target_epsilon(self) -> float | None: ...
    @property
    def epsilon(self) -> float | None: ...
    @property
    def delta(self) -> float | None: ...
    @property
    def noise_multiplier(self) -> float | None: ...
    @property
    def sampling_rate(self) -> float | None: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def clipping_norm(self) -> float | None: ...
    @property
    def unit(self) -> str: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def patient_level(self) -> dict[str, Any] | None: ...
    @property
    def accounting(self) -> dict[str, Any] | None: ...


class StudyLike(Protocol):
    """What the analysis asks of a study (`dptrain.study.folder.StudyFolder`): reading, nothing else."""

    @property
    def settings(self) -> dict[str, Any]: ...
    def cohort(self) -> Cohort: ...
    def membership(self) -> NDArray[np.bool_]: ...
    def arms(self) -> list[Any]: ...
    def baseline(self, label: str) -> Any: ...
    def logits(self, label: str) -> NDArray[np.float32]: ...
    def canaries(self, label: str) -> Any: ...
    def growth(self) -> dict[str, Any] | None: ...
    def curves(self, label: str) -> dict[str, NDArray[np.float64]]: ...


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval (or, for a null, the expectation and the central 95% of what chance shows)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class UtilityResult:
    """Diagnostic performance of an arm's models on the test patients."""

    metric: str
    """auroc, or auroc_macro for several classes or labels."""
    mean: Estimate
    """Mean over models; the interval covers the choice of test patients and of models (`utility_interval`)."""
    sd: float
    """Standard deviation between models."""
    per_model: tuple[float, ...]
    """M values."""
    per_label: Mapping[str, Estimate] = field(default_factory=dict)
    """Several classes (each against the rest) or labels: the same mean of each that has both outcomes, by name."""


@dataclass(frozen=True)
class AttackResult:
    """The attack on every model of an arm, patients scored by the sum of their records' evidence."""

    name: str
    """Name in `dptrain.attacks.ATTACKS`."""
    auc: Estimate
    """Mean over targets; interval over twin pairs."""
    auc_sd: float
    """Standard deviation between targets."""
    tpr_at_fpr: Mapping[float, Estimate | None]
    """Mean over targets at each false-positive rate; None where it cannot be estimated with so few non-members."""


@dataclass(frozen=True)
class RiskResult:
    """How surely each patient of the training pool is recognised as a member."""

    patient_auc: NDArray[np.float64]
    """(P,) RESTRICTED. From the patient's evidence."""
    patient_attack_auc: NDArray[np.float64]
    """(P,) RESTRICTED. From a cross-fitted attacker's likelihood ratio."""
    median: float
    p99: Estimate
    """99th percentile over patients; interval from order statistics (which patients are in the cohort)."""
    max: float
    null_p99: Estimate
    """What the 99th percentile shows without any leakage."""
    at_least: tuple[ExposedCount, ...]
    """One per threshold, with interval and the count expected without leakage."""
    attack_median: float
    attack_p99: float
    attack_max: float
    p95: Estimate | None = None
    """95th percentile over patients, for those who may not see the 99th: with few patients that is one of them."""
    null_p95: Estimate | None = None
    common_share: Mapping[float, float] = field(default_factory=dict)
    """By threshold, the variance of the share of patients that all patients have in common (`CommonParts.of_share`)."""


@dataclass(frozen=True)
class PairedResult:
    """This arm minus the arm `none`, patient by patient and model by model."""

    utility: Estimate
    """Difference of mean performance on the same test patients and models."""
    patient_auc: Mapping[str, Estimate]
    """Differences of mean, p99, and of the counts at each threshold; interval over patients and twin pairs."""


@dataclass(frozen=True)
class CapResult:
    """What the accounted mechanism allows any attacker on one patient, from the privacy loss distribution."""

    auc: float
    tpr_at_fpr: Mapping[float, float]
    """At FPRS, and at the arm's own rate if its noise was chosen for one."""
    curve: TradeOff
    """The whole cap: largest TPR at every FPR."""
    advantage: float | None = None
    """Largest TPR - FPR; only where the noise was chosen for an attack's success."""


@dataclass(frozen=True)
class BaselineResult:
    """Logistic regression beside an arm: the same target, patients and test, its own recipe. It is not attacked."""

    num_models: int
    epsilon: float | None
    """None beside the arm `none`."""
    noise_multiplier: float | None
    sampling_rate: float | None
    num_steps: int
    utility: UtilityResult
    difference: Estimate
    """The arm's performance minus the baseline's, on the same test patients and training halves."""


@dataclass(frozen=True)
class LowerBoundResult:
    """What planted canaries prove about epsilon."""

    headline: EpsilonLowerBound
    """The bound that is held against the claim."""
    num_canaries: int
    num_models: int
    by_method: Mapping[str, EpsilonLowerBound]


@dataclass(frozen=True)
class Curves:
    """Training curves of an arm."""

    step: NDArray[np.int64]
    """(E,)"""
    train_loss: NDArray[np.float64]
    """(M, E), NaN where no record was sampled."""
    utility: NDArray[np.float64]
    """(M, E)"""
    epsilon: NDArray[np.float64] | None
    """(E,) spent up to the step; None without DP."""


@dataclass(frozen=True)
class ArmResult:
    """One point of the trade-off."""

    label: str
    target_epsilon: float | None
    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    sampling_rate: float | None
    num_steps: int
    clipping_norm: float | None
    num_parameters: int
    utility: UtilityResult
    attack: AttackResult
    risk: RiskResult
    paired: PairedResult | None
    """None for the arm `none` and where the study has none."""
    cap: CapResult | None
    """None without DP, and where the guarantee is for records but patients have several."""
    curves: Curves
    baseline: BaselineResult | None = None
    """None for the controls and where the study was made without."""
    patient_level: Mapping[str, Mapping[str, float]] | None = None
    """With records as the unit: `records` and `epsilon` of patients with all records, at p50, p90, p99 and max."""
    accounting: Mapping[str, Any] | None = None
    """Epsilon by each accountant; None without DP."""

    lower_bound: LowerBoundResult | None = None
    """None without planted canaries."""
    stability: tuple[Stability, ...] = ()
    """How far two fleets agree on who is exposed, by number of models; empty with few."""

    @property
    def is_private(self) -> bool:
        """Whether the arm has a differential privacy guarantee."""
        return self.epsilon is not None

    @property
    def target(self) -> Arm:
        """What was asked for."""
        return arm_from_label(self.label)

    def exposed(self, threshold: float) -> ExposedCount:
        """The count at one of THRESHOLDS."""
        return next(one for one in self.risk.at_least if one.threshold == threshold)


@dataclass(frozen=True)
class NullBand:
    """Number of patients at or above each AUC if the models leaked nothing, for this number of models."""

    auc: NDArray[np.float64]
    """(G,) grid."""
    expected: NDArray[np.float64]
    """(G,)"""
    low: NDArray[np.float64]
    """(G,) 2.5% of permutations are below."""
    high: NDArray[np.float64]
    """(G,) 2.5% of permutations are above."""


@dataclass(frozen=True)
class StudyResult:
    """A study, analysed."""

    cohort: str
    simulated: bool
    task: str
    model: str
    unit: str
    """What epsilon protects: patient or record."""
    num_models: int
    """M per arm."""
    num_patients: int
    """Patients of the training pool; each is in half of the models."""
    num_records: int
    """Their records."""
    num_test_patients: int
    patient_ids: NDArray[np.str_]
    """(P,) RESTRICTED."""
    groups: Mapping[str, NDArray[np.str_]]
    """Each (P,) RESTRICTED."""
    null: NullBand
    """Envelope over arms."""
    arms: tuple[ArmResult, ...]
    """none, matched, clip, then epsilon falling."""
    warnings: tuple[str, ...] = ()
    """What the reader must know, one sentence each."""
    growth: Mapping[str, Any] | None = None
    """With `fleet.num_models=auto`: what was asked and what the study did."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """`details.ArmDetails` by label of the arm, if they were asked for."""

    def arm(self, label: str) -> ArmResult:
        """The arm called `label`."""
        return next(arm for arm in self.arms if arm.label == label)
