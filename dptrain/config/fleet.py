"""The fleet of models, how it is attacked, and what stands beside it: canaries and the simplest model."""

from __future__ import annotations

from dataclasses import dataclass, field

from dptrain.config.problems import raise_if
from dptrain.config.training import PrivateRecipe
from dptrain.errors import ConfigError

HEADLINES = ("patient_auc_p99", "attack_auc", "count_0.9")


@dataclass(frozen=True)
class FleetConfig:
    """The models of an arm and how they are cut into blocks."""

    num_models: int = 64
    """M: models per arm, in twins; even and at least 4. `auto` (0) adds twins until the interval of `headline` is as
    narrow as `headline_width` in every arm."""
    headline: str = "patient_auc_p99"
    """With `auto`: the figure that must be known so well. `patient_auc_p99`, `attack_auc`, or `count_0.9`, the fraction
    of patients with a patient AUC of at least 0.9."""
    headline_width: float = 0.02
    """With `auto`: largest width of its 95% interval over models."""
    max_models: int = 256
    """With `auto`: never more models per arm than this."""
    block_size: int = 4
    """Models trained and written together. A killed block is trained again as a whole."""
    workers: int = 0
    """Worker processes, one thread each; 0 takes one per core. Changes speed only."""
    engine: str = "auto"
    """What makes the steps: `fused` (all models of a pass at once), `opacus` (one model after another), or `auto`, the
    fused engine for every model whose layers it knows. The same mechanism and ledger; other rounding."""
    shards: int = 1
    """Jobs that share the work of a sweep, through a launcher such as `hydra/launcher=submitit_slurm`. Changes speed
    only."""
    shard: int = 0
    """Which of them this is; filled in by `shards`."""
    arms: tuple[str, ...] = ()
    """Labels of all arms of the sweep, which every shard brings to completion; filled in by `shards`."""
    device: str = "cpu"
    """cpu, cuda, or auto (cuda where there is a GPU). Several GPUs take blocks in turn. Fixed when the study is
    created, because it changes rounding."""
    tune: bool = False
    """Choose how many models go through a pass, and the library for matrix products, by a short trial when the study
    is created. Off, two studies of one configuration are the same bytes on machines of one kind."""
    tf32: bool = False
    """On a GPU: TF32 products for arms without clipping. Private arms never use it."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.headline not in HEADLINES:
            problems.append(f"fleet.headline={self.headline!r} must be one of {', '.join(HEADLINES)}.")
        if not 0 < self.headline_width < 1:
            problems.append(f"fleet.headline_width={self.headline_width} must be in (0, 1): the width of an interval.")
        if self.max_models < 8:
            problems.append(f"fleet.max_models={self.max_models} must be at least 8.")
        if self.num_models and (self.num_models < 4 or self.num_models % 2):
            problems.append(
                f"fleet.num_models={self.num_models} must be even and at least 4: models come in twins trained on "
                "complementary halves of the patients, and an attack needs at least one other pair to calibrate on. Or "
                "auto."
            )
        if self.block_size < 1:
            problems.append(f"fleet.block_size={self.block_size} must be >= 1.")
        if self.workers < 0:
            problems.append(f"fleet.workers={self.workers} must be >= 0 (0 takes one worker per core).")
        if self.engine not in ("auto", "fused", "opacus"):
            problems.append(f"fleet.engine={self.engine!r} must be auto, fused or opacus.")
        if self.shards < 1:
            problems.append(f"fleet.shards={self.shards} must be >= 1: jobs that share the work.")
        elif not 0 <= self.shard < self.shards:
            problems.append(f"fleet.shard={self.shard} must be in 0..{self.shards - 1}. Leave it out: it is filled in.")
        if self.device not in ("auto", "cpu", "cuda"):
            problems.append(f"fleet.device={self.device!r} must be auto, cpu or cuda. Several GPUs are used in turn.")
        raise_if(problems)


@dataclass(frozen=True)
class AttackConfig:
    """How the fleets are attacked and what is counted."""

    name: str = "auto"
    """The attack whose aggregate figures are charted; `auto` takes the default for this number of models."""
    num_permutations: int = 200
    """Permutations of whole patients behind the null curve."""
    num_bootstrap: int = 1000
    """Bootstrap draws behind the intervals of paired differences."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name in ("num_permutations", "num_bootstrap"):
            if getattr(self, name) < 20:
                problems.append(f"attack.{name}={getattr(self, name)} must be at least 20.")
        raise_if(problems)


@dataclass(frozen=True)
class AuditConfig:
    """Planted canaries: the lower bound on epsilon beside the accounted one."""

    canaries: int = 0
    """Canaries planted among the training patients; each is in a model by a fair coin drawn before the training. They
    cost performance: take a few percent of the patients. 0: none, and no lower bound."""

    def __post_init__(self) -> None:
        if self.canaries < 0 or 0 < self.canaries < 8:
            raise ConfigError(
                f"audit.canaries={self.canaries} must be 0 (no lower bound on epsilon) or at least 8: fewer coins "
                "prove nothing."
            )


@dataclass(frozen=True)
class BaselineConfig:
    """Logistic regression trained beside the arms with the same target: what the simplest model gives at that privacy.
    Its performance stands in every table; it is not attacked."""

    num_models: int = 16
    """Models per arm, on the first rows of the membership; 0 leaves the baseline out."""
    recipe: PrivateRecipe = field(
        default_factory=lambda: PrivateRecipe(learning_rate=2.0, num_steps=20, sampling_rate=1.0, schedule="cosine")
    )
    """Its private recipe. The arm `none` has the usual one (`training`)."""

    def __post_init__(self) -> None:
        if self.num_models < 0 or self.num_models % 2:
            raise ConfigError(
                f"baseline.num_models={self.num_models} must be even and >= 0: models come in twins. 0 leaves the "
                "baseline out."
            )
