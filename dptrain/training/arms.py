"""Arms: the privacy levels of a study, their labels and their mechanisms."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from dptrain.config import Config, PrivacyConfig
from dptrain.errors import ConfigError
from dptrain.privacy.accounting import Accounting, account
from dptrain.privacy.calibration import calibrate_noise, calibrate_to_advantage, calibrate_to_tpr
from dptrain.privacy.mechanism import Mechanism

ArmKind = Literal["none", "matched", "clip", "private"]


@dataclass(frozen=True)
class Arm:
    """One privacy level."""

    kind: ArmKind
    """none: usual recipe. matched, clip: controls with the private recipe. private: DP."""
    target_epsilon: float | None = None
    """Asked for; None without DP and where an attack's success was asked for instead."""
    target_tpr: float | None = None
    """Asked for: largest TPR of any attack with FPR `target_fpr`."""
    target_fpr: float | None = None
    """Given with `target_tpr`."""
    target_advantage: float | None = None
    """Asked for: largest TPR - FPR of any attack."""

    @property
    def label(self) -> str:
        """Name of the arm in every table, chart and folder; `arm_from_label` is its inverse."""
        if self.target_tpr is not None and self.target_fpr is not None:
            return f"tpr={_exact(self.target_tpr)}@fpr={_exact(self.target_fpr)}"
        if self.target_advantage is not None:
            return f"adv={_exact(self.target_advantage)}"
        return self.kind if self.target_epsilon is None else f"eps={_exact(self.target_epsilon)}"

    @property
    def is_by_risk(self) -> bool:
        """Whether the noise was chosen for an attack's success instead of epsilon."""
        return self.target_tpr is not None or self.target_advantage is not None

    @property
    def sort_key(self) -> tuple[int, float, float, float]:
        """none, matched, clip, then what was asked for, least private first."""
        order = ("none", "matched", "clip", "private").index(self.kind)
        per_fpr = (self.target_tpr or 0.0) / (self.target_fpr or 1.0)
        return order, -(self.target_epsilon or 0.0), -per_fpr, -(self.target_advantage or 0.0)


def _exact(value: float) -> str:
    """The shortest text that is read back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def arm_from_label(label: str) -> Arm:
    """The arm with this label; raises ValueError for anything else."""
    if label in ("none", "matched", "clip"):
        return Arm(label)  # type: ignore[arg-type]
    if label.startswith("eps="):
        return Arm("private", float(label[4:]))
    if label.startswith("tpr=") and "@fpr=" in label:
        tpr, _, fpr = label[4:].partition("@fpr=")
        return Arm("private", target_tpr=float(tpr), target_fpr=float(fpr))
    if label.startswith("adv="):
        return Arm("private", target_advantage=float(label[4:]))
    raise ValueError(f"label={label!r} must be none, matched, clip, eps=NUMBER, tpr=NUMBER@fpr=NUMBER or adv=NUMBER.")


def private_arm(privacy: PrivacyConfig) -> Arm | None:
    """The arm with DP that a run asks for; None for `privacy.epsilon=inf`."""
    if privacy.target == "tpr":
        return Arm("private", target_tpr=privacy.tpr, target_fpr=privacy.fpr)
    if privacy.target == "advantage":
        return Arm("private", target_advantage=privacy.advantage)
    return None if math.isinf(privacy.epsilon) else Arm("private", privacy.epsilon)


def arms_of_run(privacy: PrivacyConfig) -> list[Arm]:
    """Arms that a run needs in the study, in the order of training: its matched no-DP arm, the controls, its own."""
    arms = [Arm("none")]
    own = private_arm(privacy)
    if own is None:
        return arms
    if privacy.controls:
        arms += [Arm("matched"), Arm("clip")]
    return [*arms, own]


def build_mechanism(config: Config, arm: Arm, nominal_units: float) -> tuple[Mechanism | None, dict[str, Any] | None]:
    """Mechanism of an arm and its accounting (plain values); (None, None) for the arm `none`.

    `nominal_units` is the PUBLIC number of units that a model of the arm trains on; the divisor is q times that.
    Raises ConfigError if no noise keeps what the arm promises.
    """
    if arm.kind == "none":
        return None, None
    recipe = config.training.private
    noise_multiplier, accounting = 0.0, None
    if arm.kind == "private":
        found = calibrated(arm, recipe.sampling_rate, recipe.num_steps, config.privacy.delta)
        noise_multiplier, accounting = found.noise_multiplier, dataclasses.asdict(found)
    mechanism = Mechanism(
        unit=config.privacy.unit,  # type: ignore[arg-type]
        sampling_rate=recipe.sampling_rate,
        noise_multiplier=noise_multiplier,
        clipping_norm=config.privacy.clipping_norm,
        num_steps=recipe.num_steps,
        expected_batch_size=recipe.sampling_rate * nominal_units,
        delta=config.privacy.delta,
    )
    return mechanism, accounting


def calibrated(arm: Arm, sampling_rate: float, num_steps: int, delta: float) -> Accounting:
    """Accounting of the smallest noise that keeps what a private arm promises: epsilon at delta, or a cap on attacks.

    Raises ConfigError if no noise does, or if its epsilon is not finite.
    """
    try:
        if arm.target_tpr is not None and arm.target_fpr is not None:
            by_risk = calibrate_to_tpr(arm.target_tpr, arm.target_fpr, sampling_rate, num_steps)
        elif arm.target_advantage is not None:
            by_risk = calibrate_to_advantage(arm.target_advantage, sampling_rate, num_steps)
        else:
            assert arm.target_epsilon is not None
            return calibrate_noise(arm.target_epsilon, sampling_rate, num_steps, delta).accounting
        return account(sampling_rate, by_risk.noise_multiplier, num_steps, delta)
    except ValueError as error:
        raise ConfigError(
            f"Arm {arm.label}: {error} Ask for another target (privacy.target, privacy.epsilon, privacy.tpr, "
            "privacy.advantage) or change training.private."
        ) from None
