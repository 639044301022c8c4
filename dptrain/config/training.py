"""How a model is trained: the usual recipe, the private one, and the random variants of records."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from dptrain.config.problems import check_positive, raise_if
from dptrain.errors import ConfigError


@dataclass(frozen=True)
class AugmentSpec:
    """What is done to a record at random; everything is off by default. Operations come in the order of the fields."""

    flip: float = 0.0
    """Images: probability of mirroring left and right. Hearts and livers then change sides."""
    shift: float = 0.0
    """Images, signals: largest shift in each direction, as a fraction of height and width, or of the length."""
    rotate: float = 0.0
    """Images: largest rotation in each direction, in degrees."""
    crop: float = 1.0
    """Images: smallest crop, as a fraction of height and width; the crop is enlarged to the whole again. 1 is off."""
    scale: float = 0.0
    """Signals: largest relative change of the amplitude of all leads together."""
    noise: float = 0.0
    """Signals, tables: standard deviation of added Gaussian noise, in units of the features."""
    dropout: float = 0.0
    """Tables: probability that a feature is set to 0."""

    def __post_init__(self) -> None:
        problems = []
        for name, most in (("flip", 1), ("shift", 0.5), ("rotate", 180), ("scale", 0.9), ("dropout", 0.9)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                unit = "in degrees" if name == "rotate" else "a fraction, not percent"
                problems.append(f"augment.{name}={value} must be in [0, {most}], {unit}.")
        if not 0.1 <= self.crop <= 1:
            problems.append(
                f"augment.crop={self.crop} must be in [0.1, 1]: smallest side of a crop (1 is off)."
            )
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            problems.append(f"augment.noise={self.noise} must be a finite number >= 0.")
        if problems:
            raise ConfigError(problems)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the operations that are on."""
        return tuple(f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True)
class PrivateRecipe:
    """Training settings of the arms `matched`, `clip` and `eps=...`: fewer, larger batches and smaller steps."""

    optimizer: str = "sgd"
    """sgd or adam."""
    learning_rate: float = 1.0
    """Step size at the first step."""
    momentum: float = 0.0
    """Momentum of sgd; ignored by adam."""
    weight_decay: float = 0.0
    """L2 penalty, applied after the noise (post-processing)."""
    schedule: str = "constant"
    """constant or cosine (to 0 at the last step)."""
    num_steps: int = 60
    """T: exactly this many noisy steps. Public."""
    sampling_rate: float = 0.5
    """q: every unit of privacy enters a step with this probability, independently. Public."""
    averaging: float = 0.0
    """Decay of the exponential moving average of weights that is evaluated; 0 takes the last weights."""
    max_records_per_patient: int | None = None
    """Patient unit only: at most this many records of a patient enter a step (a random choice, made patient by
    patient); null takes all."""
    max_batch_records: int = 4096
    """Records per forward pass: larger Poisson batches are cut at patient borders into passes whose clipped sums add
    up. Changes memory and rounding, not the mechanism."""
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    """Random variants of records; everything is off by default."""
    copies: int = 1
    """Variants of each record in a step, averaged inside the clipped unit (augmentation multiplicity): less variance of
    a unit's gradient for the same epsilon, for as many times the work."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        where = "training.private"
        _check_optimizer(problems, where, self)
        if not 0 < self.sampling_rate <= 1:
            problems.append(f"{where}.sampling_rate={self.sampling_rate} must be in (0, 1].")
        if self.max_records_per_patient is not None and self.max_records_per_patient < 1:
            problems.append(f"{where}.max_records_per_patient={self.max_records_per_patient} must be >= 1 or null.")
        if self.max_batch_records < 1:
            problems.append(f"{where}.max_batch_records={self.max_batch_records} must be >= 1.")
        if self.copies < 1:
            problems.append(f"{where}.copies={self.copies} must be >= 1.")
        elif self.copies > 1 and not self.augment.active:
            problems.append(
                f"{where}.copies={self.copies} without augmentation averages {self.copies} equal gradients. Switch an "
                f"operation on ({where}.augment.noise=0.1, ...), or leave copies at 1."
            )
        raise_if(problems)


@dataclass(frozen=True)
class TrainingConfig:
    """Training settings of the arm `none` (the usual training) and, below `private`, of all others."""

    optimizer: str = "adam"
    """sgd or adam."""
    learning_rate: float = 0.01
    """Step size at the first step."""
    momentum: float = 0.0
    """Momentum of sgd; ignored by adam."""
    weight_decay: float = 0.0
    """L2 penalty."""
    schedule: str = "constant"
    """constant or cosine (to 0 at the last step)."""
    num_steps: int = 400
    """Number of minibatch steps."""
    batch_size: int = 32
    """Records per shuffled minibatch."""
    averaging: float = 0.0
    """Decay of the exponential moving average of weights that is evaluated; 0 takes the last weights."""
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    """Random variants of records, one per record and step; everything is off by default."""
    num_evaluations: int = 20
    """How often performance on the test patients is logged during training (curves only; nothing is chosen by it)."""
    private: PrivateRecipe = field(default_factory=PrivateRecipe)
    """The private recipe."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        _check_optimizer(problems, "training", self)
        if self.batch_size < 1:
            problems.append(f"training.batch_size={self.batch_size} must be >= 1.")
        if self.num_evaluations < 1:
            problems.append(f"training.num_evaluations={self.num_evaluations} must be >= 1.")
        raise_if(problems)


def _check_optimizer(problems: list[str], where: str, recipe: TrainingConfig | PrivateRecipe) -> None:
    check_positive(problems, where, recipe, "learning_rate")
    if recipe.optimizer not in ("sgd", "adam"):
        problems.append(f"{where}.optimizer={recipe.optimizer!r} must be sgd or adam.")
    if recipe.schedule not in ("constant", "cosine"):
        problems.append(f"{where}.schedule={recipe.schedule!r} must be constant or cosine.")
    if recipe.num_steps < 1:
        problems.append(f"{where}.num_steps={recipe.num_steps} must be >= 1.")
    if not 0 <= recipe.momentum < 1:
        problems.append(f"{where}.momentum={recipe.momentum} must be in [0, 1).")
    if recipe.weight_decay < 0:
        problems.append(f"{where}.weight_decay={recipe.weight_decay} must be >= 0.")
    if not 0 <= recipe.averaging < 1:
        problems.append(f"{where}.averaging={recipe.averaging} must be in [0, 1).")
