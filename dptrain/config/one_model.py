"""Settings of the commands that train one model instead of a fleet: `dptrain train` and `dptrain screen`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dptrain.card_texts import CardTexts
from dptrain.config.problems import raise_if
from dptrain.errors import ConfigError


@dataclass(frozen=True)
class ReleaseConfig:
    """`dptrain train`: the model to release. A study does not read these settings."""

    dir: str | None = None
    """Folder of the release; null takes `releases/<study.name>/<arm>`."""
    history: str | None = None
    """File that lists all releases on these patients, append-only; null takes `releases/restricted/<data.name>.jsonl`.
    Everything that was ever trained on the same patients belongs into one file."""
    study: str | None = None
    """Folder of the study whose measured risks go into the statement; null: none was made."""
    hold_out: bool = True
    """Keep the test patients out of the training, so that performance can be stated. false trains on all patients;
    the statement then has no performance of its own."""
    selection: str = "fixed"
    """How many private models were trained on these patients before this one was kept: `fixed`, a known number, or
    `geometric`, `poisson`: a number drawn at random beforehand, of which only the best model was looked at."""
    num_runs: float = 1
    """fixed: how many, this one included. geometric, poisson: the mean of the distribution."""
    checkpoint_overhead: float = 0.1
    """Fraction of the time that checkpoints may take (50 are written in any case; 0: none). Steps that a kill loses
    are spent, not repeated."""
    max_lost_fraction: float = 0.1
    """A killed run that lost more than this fraction of all steps is not continued."""
    card: CardTexts = field(default_factory=CardTexts)
    """What only people can say: texts of the model card."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.selection not in ("fixed", "geometric", "poisson"):
            problems.append(f"release.selection={self.selection!r} must be fixed, geometric or poisson.")
        if not (self.num_runs >= 1 and math.isfinite(self.num_runs)):
            problems.append(f"release.num_runs={self.num_runs} must be at least 1: this run counts.")
        elif self.selection == "fixed" and self.num_runs != int(self.num_runs):
            problems.append(f"release.num_runs={self.num_runs} must be a whole number with release.selection=fixed.")
        for name in ("checkpoint_overhead", "max_lost_fraction"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                problems.append(f"release.{name}={value} must be in [0, 1]. It is a fraction, not percent.")
        raise_if(problems)


@dataclass(frozen=True)
class ScreenConfig:
    """`dptrain screen`: ranks of patients from one training. A study does not read these settings."""

    dir: str | None = None
    """Folder of the screen; null takes `screens/<study.name>`."""
    study: str | None = None
    """Folder of a study of the same patients and network: the agreement with its measured risk is then given."""
    num_points: int = 50
    """How often during the training the loss of every record is taken."""
    seed: int = 0
    """Another number gives another training on the same patients: initial weights, batches."""

    def __post_init__(self) -> None:
        if self.num_points < 4:
            raise ConfigError(
                f"screen.num_points={self.num_points} must be at least 4: a trace needs points to have quartiles."
            )
