"""What is protected and how much: the settings that stand in every statement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dptrain.config.problems import check_positive, raise_if


@dataclass(frozen=True)
class PrivacyConfig:
    """What is protected and how much."""

    epsilon: float
    """target_epsilon of this run's arm if `target=epsilon`; `inf` trains the arm `none` only."""
    delta: float
    """delta of the guarantee; must be below 1 / number of training patients."""
    unit: str = "patient"
    """What epsilon protects: `patient` (add or remove one patient with all records) or `record`."""
    clipping_norm: float = 1.0
    """C: largest norm that one unit's gradient can have in a step."""
    controls: bool = True
    """Train the controls `matched` (private recipe, no clipping, no noise) and `clip` (clipping, no noise)."""
    target: str = "epsilon"
    """What the noise of this run's arm is chosen for: `epsilon`; `tpr`: no attack with false-positive rate `fpr` has a
    true-positive rate above `tpr`; `advantage`: no attack has TPR - FPR above `advantage`. The resulting epsilon is
    accounted and reported in every case."""
    tpr: float = 0.05
    """Fraction; only with `target=tpr`."""
    fpr: float = 0.01
    """Fraction; only with `target=tpr`. Guessing alone reaches tpr = fpr."""
    advantage: float = 0.1
    """Fraction; only with `target=advantage`. Guessing alone has 0."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.epsilon > 0:
            problems.append(
                f"privacy.epsilon={self.epsilon} must be > 0. For a run without DP use privacy.epsilon=inf."
            )
        if self.target not in ("epsilon", "tpr", "advantage"):
            problems.append(f"privacy.target={self.target!r} must be epsilon, tpr or advantage.")
        elif self.target != "epsilon" and math.isinf(self.epsilon):
            problems.append(
                f"privacy.epsilon=inf asks for no privacy and privacy.target={self.target} for some. Leave "
                "privacy.epsilon out: the arm without privacy is trained anyway."
            )
        for name in ("tpr", "fpr", "advantage"):
            value = getattr(self, name)
            if not 0 < value < 1:
                percent = f" For {value:g}% write {value / 100:g}." if 1 <= value < 100 else ""
                problems.append(f"privacy.{name}={value} must be in (0, 1). It is a fraction, not percent.{percent}")
        if self.target == "tpr" and 0 < self.tpr <= self.fpr < 1:
            problems.append(
                f"privacy.tpr={self.tpr} must be above privacy.fpr={self.fpr}: guessing alone reaches tpr = fpr. Raise "
                "privacy.tpr or lower privacy.fpr."
            )
        if not 0 < self.delta < 1:
            problems.append(f"privacy.delta={self.delta} must be between 0 and 1 and below 1 / number of patients.")
        if self.unit not in ("patient", "record"):
            problems.append(f"privacy.unit={self.unit!r} must be patient or record.")
        check_positive(problems, "privacy", self, "clipping_norm")
        raise_if(problems)
