"""A declared risk appetite: which limits a study's arm must keep before its kind of model may be released.

`conf/policy/` ships strict, research and none; `load_policy` takes one of their names or a file of the same form. Every
rule may be left out; there is then no such limit. What each rule compares is said once, in `judge`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dptrain.audit.counts import THRESHOLDS
from dptrain.conf_dir import config_dir
from dptrain.errors import ConfigError
from dptrain.options import near_miss, parse_options
from dptrain.report.results import FPRS


@dataclass(frozen=True)
class PrivacyRules:
    """What the guarantee must be."""

    unit: str | None = None
    """Whom epsilon must protect: `patient` (with all records) or `record`. A guarantee for patients is one for records
    too."""
    max_epsilon: float | None = None
    """Largest epsilon; for patients, if `unit` is patient."""
    max_delta: float | None = None
    """Largest delta."""
    max_delta_times_patients: float | None = None
    """Largest product of delta and the number of training patients."""
    checked: bool = False
    """The preflight passed, and the ledger of every model agrees with what was accounted."""
    max_tpr: float | None = None
    """Largest TPR at FPR `at_fpr` that the guarantee leaves to ANY attack, also to one that nobody has found."""
    at_fpr: float = 0.01
    """Of `max_tpr`."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.unit not in (None, "patient", "record"):
            problems.append(f"privacy.unit={self.unit!r} must be patient, record or null.")
        _check_positive(problems, "privacy", self, "max_epsilon", "max_delta_times_patients")
        _check_fractions(problems, "privacy", self, "max_delta", "max_tpr")
        _check_listed(problems, "privacy.at_fpr", self.at_fpr, FPRS)
        _raise_if(problems)


@dataclass(frozen=True)
class RiskRules:
    """What the attacks may achieve."""

    patient_auc: float = 0.9
    """A patient with at least this patient AUC counts as exposed."""
    max_share: float | None = None
    """Largest fraction of exposed patients."""
    max_tpr: float | None = None
    """Largest TPR of the attack, averaged over models, at FPR `at_fpr`."""
    at_fpr: float = 0.01
    """Of `max_tpr`."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        _check_listed(problems, "risk.patient_auc", self.patient_auc, THRESHOLDS)
        _check_listed(problems, "risk.at_fpr", self.at_fpr, FPRS)
        _check_fractions(problems, "risk", self, "max_share", "max_tpr")
        _raise_if(problems)


@dataclass(frozen=True)
class GroupRules:
    """How far a group's risk may lie above that of the others."""

    max_ratio_in_top: float | None = None
    """Largest ratio of a group's share among the most exposed 1% to its share among all patients; 1 is no excess."""
    max_higher: float | None = None
    """Largest probability that a patient of the group is more exposed than one outside it; 0.5 is no difference."""
    min_patients: int = 10
    """Smaller groups are named and not judged."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.max_ratio_in_top is not None and self.max_ratio_in_top < 1:
            problems.append(
                f"groups.max_ratio_in_top={self.max_ratio_in_top} must be at least 1: some group is always at 1."
            )
        if self.max_higher is not None and not 0.5 <= self.max_higher <= 1:
            problems.append(f"groups.max_higher={self.max_higher} must be in [0.5, 1]: 0.5 is no difference.")
        if self.min_patients < 10:
            problems.append(
                f"groups.min_patients={self.min_patients} must be at least 10: smaller groups have no figure."
            )
        _raise_if(problems)


@dataclass(frozen=True)
class PerformanceRules:
    """What the model must be good for."""

    min_utility: float | None = None
    """Smallest diagnostic performance (AUROC)."""
    max_loss: float | None = None
    """Largest loss of performance against the arm `none`."""
    min_gain_over_baseline: float | None = None
    """Smallest gain of performance over logistic regression with the same privacy; may be negative."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        _check_fractions(problems, "performance", self, "min_utility", "max_loss")
        gain = self.min_gain_over_baseline
        if gain is not None and not -1 <= gain <= 1:
            problems.append(f"performance.min_gain_over_baseline={gain} must be in [-1, 1]: a difference of AUROCs.")
        _raise_if(problems)


@dataclass(frozen=True)
class PowerRules:
    """What the study must be able to see. Too few models to tell is a fail."""

    min_models: int | None = None
    """Fewest models per arm."""
    min_patients: int | None = None
    """Fewest training patients."""
    min_test_patients: int | None = None
    """Fewest test patients."""
    max_null_auc: float | None = None
    """Largest patient AUC that chance alone shows for the most exposed 1% of patients; fewer models, larger values."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        _check_positive(problems, "power", self, "min_models", "min_patients", "min_test_patients")
        if self.max_null_auc is not None and not 0.5 <= self.max_null_auc <= 1:
            problems.append(f"power.max_null_auc={self.max_null_auc} must be in [0.5, 1]: an AUC.")
        _raise_if(problems)


@dataclass(frozen=True)
class Policy:
    """All limits together."""

    name: str
    description: str = ""
    privacy: PrivacyRules = field(default_factory=PrivacyRules)
    risk: RiskRules = field(default_factory=RiskRules)
    groups: GroupRules = field(default_factory=GroupRules)
    performance: PerformanceRules = field(default_factory=PerformanceRules)
    power: PowerRules = field(default_factory=PowerRules)

    def to_dict(self) -> dict[str, Any]:
        """As nested plain values."""
        return dataclasses.asdict(self)


GROUPS: dict[str, type] = {
    "privacy": PrivacyRules,
    "risk": RiskRules,
    "groups": GroupRules,
    "performance": PerformanceRules,
    "power": PowerRules,
}


def load_policy(name_or_path: str) -> Policy:
    """The policy of a file, or one of those in conf/policy/ by name; raises ConfigError with every problem."""
    path = Path(name_or_path)
    shipped = {file.stem: file for file in sorted((config_dir() / "policy").glob("*.yaml"))}
    if not path.suffix and not path.exists():
        if name_or_path not in shipped:
            raise ConfigError(
                f"policy={name_or_path!r} is neither a file nor one of {', '.join(shipped)}"
                f"{near_miss(name_or_path, shipped)}."
            )
        path = shipped[name_or_path]
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the policy {path}: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The policy {path} is not YAML: {' '.join(str(error).split())}") from error
    return parse_policy({} if raw is None else raw, path.stem, str(path))


def parse_policy(raw: Any, name: str, where: str = "policy") -> Policy:
    """The policy that plain values describe; raises one ConfigError that lists every problem."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"The policy {where} must hold the groups {', '.join(GROUPS)}, not {raw!r}.")
    problems: list[str] = []
    parts: dict[str, Any] = {}
    known = ["description", *GROUPS]
    for key, value in raw.items():
        if key == "description":
            parts[key] = str(value)
        elif key not in GROUPS:
            problems.append(f"{key} is not part of a policy{near_miss(str(key), known)}; expected {', '.join(known)}.")
        elif value is not None and not isinstance(value, Mapping):
            problems.append(f"{key}={value!r} must be a group of rules, not a single value.")
        else:
            try:
                parts[key] = parse_options(GROUPS[key], value or {}, key)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return Policy(name=name, **parts)


def _check_positive(problems: list[str], where: str, rules: object, *names: str) -> None:
    for name in names:
        value = getattr(rules, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            problems.append(f"{where}.{name}={value} must be a finite number > 0, or null for no limit.")


def _check_fractions(problems: list[str], where: str, rules: object, *names: str) -> None:
    for name in names:
        value = getattr(rules, name)
        if value is not None and not 0 <= value <= 1:
            percent = f" For {value:g}% write {value / 100:g}." if 1 < value <= 100 else ""
            problems.append(f"{where}.{name}={value} must be in [0, 1]. It is a fraction, not percent.{percent}")


def _check_listed(problems: list[str], name: str, value: float, known: tuple[float, ...]) -> None:
    if value not in known:
        listed = ", ".join(f"{one:g}" for one in known)
        problems.append(f"{name}={value:g} must be one of {listed}: a study has its figures there.")


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)
