"""The schema of a run: frozen dataclasses, a docstring under every field, checks in `__post_init__`.

Hydra composes `conf/` into plain dictionaries (only `cli.py` knows hydra); `parse_config` turns them into these classes
and collects every problem before it raises one `ConfigError`. Fields that a data set or a model owns beside the common
ones (`data.patient_column`, `model.width`) arrive in `options` and are checked by their owner.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dptrain.card_texts import CardTexts
from dptrain.errors import ConfigError


def _positive(problems: list[str], prefix: str, obj: object, *names: str) -> None:
    for name in names:
        value = getattr(obj, name)
        if not (value > 0 and math.isfinite(value)):
            problems.append(f"{prefix}.{name}={value} must be a finite number > 0.")


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True)
class StudySettings:
    """Where the study lives. A study has a name, not a date: the same command continues it."""

    name: str
    """Name of the study; the folder below `studies/` unless `dir` says otherwise."""
    dir: str
    """The study folder. Everything that a study writes is below it."""
    tensorboard: bool = True
    """Write TensorBoard event files (one run per arm) below the study folder."""
    key_file: str | None = None
    """The key of the pseudonyms in `restricted/patient_risk.csv`, outside the study; null takes $DPTRAIN_KEY_FILE, or
    `dptrain/pseudonyms.key` in the user's folder of settings. Made if the house has none."""


@dataclass(frozen=True)
class DataConfig:
    """The cohort. Fields that only one data set has are in `options` and checked by its reader."""

    name: str
    """Name of the data set: breast_cancer, table, images, ecg, ... (docs/data.md)."""
    nominal_patients: int | None = None
    """PUBLIC approximate number of training patients. Sets the divisor of private steps; never read from the data,
    because a divisor taken from the data would publish their number without noise."""
    records_per_patient: float = 1.0
    """PUBLIC approximate number of records per patient; with `privacy.unit=record` it scales the divisor."""
    delta: float | None = None
    """Default for `privacy.delta` that fits this cohort's public size."""
    path: str | None = None
    """File or folder with the data; null for data that come with a package."""
    max_patients: int | None = None
    """Take a random subset of this many patients (with all their records); null takes all."""
    test_fraction: float = 0.3
    """Fraction of patients held out of every model, for performance. Ignored where the data come with a split."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this data set has."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not 0 < self.test_fraction < 1:
            problems.append(f"data.test_fraction={self.test_fraction} must be between 0 and 1 (fraction of patients).")
        if self.max_patients is not None and self.max_patients < 20:
            problems.append(f"data.max_patients={self.max_patients} must be at least 20, or null for all patients.")
        if self.nominal_patients is None or self.nominal_patients < 1:
            problems.append(
                f"data.nominal_patients={self.nominal_patients} must be a public, approximate number of training "
                "patients (for example 10000). It is the divisor of private steps and may not be read from the data."
            )
        _raise_if(problems)


@dataclass(frozen=True)
class ModelConfig:
    """The network. Its own fields (width, depth, ...) are in `options` and checked by its builder."""

    name: str
    """Name of the architecture (conf/model/ lists them), or the import path of a user's own class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this architecture has."""


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
        _raise_if(problems)


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
        _raise_if(problems)


def _check_optimizer(problems: list[str], where: str, recipe: TrainingConfig | PrivateRecipe) -> None:
    _positive(problems, where, recipe, "learning_rate")
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
        _positive(problems, "privacy", self, "clipping_norm")
        _raise_if(problems)


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
        _raise_if(problems)


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
        _raise_if(problems)


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
        _raise_if(problems)


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


@dataclass(frozen=True)
class Config:
    """One run: a study plus the one arm that this run asks for."""

    study: StudySettings
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    privacy: PrivacyConfig
    fleet: FleetConfig
    attack: AttackConfig
    audit: AuditConfig = field(default_factory=AuditConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    seed: int = 0
    """Root of the seed tree. Two studies with the same root and configuration are the same study."""


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Build a `Config` from nested dictionaries; raises one ConfigError that lists every problem."""
    problems: list[str] = []
    config = _parse(Config, raw, "", problems)
    _raise_if(problems)
    assert isinstance(config, Config)
    return config


def parse_data(raw: Mapping[str, Any]) -> DataConfig:
    """Only the group `data`, for commands that read records and train nothing; raises ConfigError.

    `data.nominal_patients`, which training needs, may still be missing; reading does not depend on it.
    """
    problems: list[str] = []
    data = dict(raw["data"])
    if data.get("nominal_patients") is None:
        data["nominal_patients"] = 1
    config = _parse(DataConfig, data, "data", problems)
    _raise_if(problems)
    assert isinstance(config, DataConfig)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionaries (the inverse of `parse_config`, with `options` kept apart)."""
    return dataclasses.asdict(config)


def _parse(cls: type, raw: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(raw, Mapping):
        problems.append(f"{where}={raw!r} must be a group of settings, not a single value.")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    before = len(problems)
    for key, value in raw.items():
        name = f"{where}.{key}" if where else str(key)
        if key == "options" and "options" in fields:
            options.update(value)
        elif key in fields:
            hint = hints[str(key)]
            if dataclasses.is_dataclass(hint):
                values[str(key)] = _parse(typing.cast(type, hint), value, name, problems)
            else:
                values[str(key)] = _convert(hint, value, name, problems)
        elif "options" in fields:
            options[str(key)] = value
        else:
            problems.append(f"{name}={value!r} is not a setting; expected one of {', '.join(sorted(fields))}.")
    if "options" in fields:
        values["options"] = options
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            problems.append(f"{where + '.' if where else ''}{name} is missing.")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _convert(hint: Any, value: Any, name: str, problems: list[str]) -> Any:
    """Value as the hinted scalar type; strings such as '1e-5' (YAML reads them as text) become numbers."""
    optional = isinstance(hint, types.UnionType) and type(None) in hint.__args__
    if optional:
        if value is None:
            return None
        hint = next(arg for arg in hint.__args__ if arg is not type(None))
    if name == "fleet.num_models" and value == "auto":
        return 0
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if hint in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isnan(number):
            if hint is float:
                return number
            if math.isfinite(number) and number == int(number):
                return int(number)
    if hint == tuple[str, ...] and isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    kinds = {bool: "true or false", str: "text", int: "a whole number", float: "a number", tuple[str, ...]: "texts"}
    kind = kinds.get(hint, str(hint))
    if name == "privacy.epsilon":
        kind = "a number > 0, or inf for a run without DP"
    if name == "privacy.delta":
        kind = "a number below 1 / number of training patients (set data.delta or privacy.delta)"
    problems.append(f"{name}={value!r} must be {kind}{' or null' if optional else ''}.")
    return None
