"""`dptrain plan`: what a study costs and what it can show, before anything is trained.

    dptrain plan privacy.epsilon=8,3,1,inf fleet.num_models=64
    dptrain plan --json data=ptbxl data.path=FOLDER model=resnet1d privacy.epsilon=8,1,inf

Takes the overrides of the study itself. Reads the cohort, times a few steps of each kind of arm on this machine
(`study/trial.py`), and says what the number of models can resolve and what cheaper studies would save. Writes nothing.
The same in one line opens every study.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dptrain.audit.lower_bound import largest_epsilon_of_models
from dptrain.audit.null import null_patient_auc
from dptrain.audit.resolution import Resolution, resolution
from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.membership import draw_membership
from dptrain.config import Config, ModelConfig
from dptrain.errors import DptrainError
from dptrain.progress import format_duration
from dptrain.seeding import numpy_stream
from dptrain.study.arm_record import BASELINE, config_of
from dptrain.study.cost import Cost, study_cost
from dptrain.study.folder import StudyFolder
from dptrain.study.runner import num_cores
from dptrain.study.trial import KINDS, Trial, timed_trial
from dptrain.training.arms import arm_from_label
from dptrain.training.choose_speed import choose_speed
from dptrain.training.prepare import prepared_cohort
from dptrain.training.speed import SpeedConfig

NUM_PERMUTATIONS = 200
MOST_NULL_PATIENTS = 5000
"""Patients of the simulated null; for more the tail is scaled."""
WIDTH_OPTIONS = ("width", "maps", "dim")
"""Options of models that say how wide they are."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A cheaper study."""

    settings: str
    """What to add to the command."""
    seconds: float
    saved_fraction: float
    """Of the whole time."""
    loses: str
    """What it gives away."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that `dptrain plan` says."""

    what: str
    cost: Cost
    resolution: Resolution
    certifiable_epsilon: float
    """No attack on a single patient can show more with so many models."""
    trial: Trial
    options: tuple[Option, ...]


def plan(config: Config, labels: list[str]) -> Plan:
    """Plan a study with these arms (labels). Raises what reading the cohort and training raise."""
    cohort = prepared_cohort(config)
    num_models = config.fleet.num_models or config.fleet.max_models
    models = dict.fromkeys(labels, num_models)
    if config.baseline.num_models:
        beside = [label for label in labels if arm_from_label(label).kind in ("none", "private")]
        models |= {f"{BASELINE}{label}": min(config.baseline.num_models, num_models) for label in beside}
    # The study itself tries some settings of speed when it is created; this one takes what it would start from.
    speed = choose_speed(dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, tune=False)), cohort)
    trial, baseline = _trials(config, cohort, list(models), speed)
    cost = _cost(config, models, cohort, trial, baseline)
    simulated = " (SIMULATED data)" if cohort.simulated else ""
    what = (
        f"{config.model.name} on {cohort.name}{simulated}: {len(cohort.train_patients)} patients to train on, "
        f"{cohort.num_records} records"
    )
    options = cheaper(config, models, cohort, trial, baseline, cost, speed)
    return Plan(what, cost, resolved(config, cohort), largest_epsilon_of_models(num_models // 2), trial, options)


def opening_line(study: StudyFolder, config: Config, missing: list[tuple[str, int]]) -> str:
    """The line that a run begins with: cost of what is missing, and what the study can show."""
    models: dict[str, int] = {}
    for label, index in missing:
        models[label] = models.get(label, 0) + len(study.models(label, index))
    frozen, cohort = study.config(), study.cohort()
    frozen = dataclasses.replace(
        frozen,
        fleet=dataclasses.replace(
            config.fleet, num_models=study.num_models, block_size=study.block_size, arms=(), shard=0
        ),
    )
    # The runs of a sweep share a study: it is timed once.
    key = f"{study.path} {study.info['fingerprint']} {study.num_models}"
    if key not in _measured:
        speed = SpeedConfig.read(study.info.get("speed"))
        _measured[key] = *_trials(frozen, cohort, list(models), speed), resolved(frozen, cohort)
    trial, baseline, shown = _measured[key]
    cost = _cost(frozen, models, cohort, trial, baseline)
    return one_line(cost, shown, largest_epsilon_of_models(study.num_models // 2))


_measured: dict[str, tuple[Trial, Trial | None, Resolution]] = {}
"""What this process measured for studies that it opened."""


def one_line(cost: Cost, shown: Resolution, certifiable_epsilon: float) -> str:
    """Cost and resolution in one sentence."""
    memory = "" if cost.memory_bytes is None else f", {_size(cost.memory_bytes)} of memory"
    baselines = f" and {cost.num_baselines} logistic regressions" if cost.num_baselines else ""
    counts = "no AUC" if math.isnan(shown.count_from) else f"AUC {shown.count_from:.3g}"
    return (
        f"Plan: {cost.num_models} models{baselines}, {cost.num_steps} steps, about {format_duration(cost.seconds)} "
        f"with {_workers(cost)}{memory}, {_size(cost.disk_bytes)} on disk. One patient's AUC will be known to "
        f"±{_half_width(shown, 0.5):.2f}, counts of exposed patients from {counts} on; no attack on one patient can "
        f"certify an epsilon above {certifiable_epsilon:.3g}."
    )


def resolved(config: Config, cohort: Cohort) -> Resolution:
    """What so many models can resolve on so many patients: from random evidence, as if nothing leaked."""
    num_models = config.fleet.num_models or config.fleet.max_models
    num_patients = min(len(cohort.train_patients), MOST_NULL_PATIENTS)
    rng = numpy_stream(config.seed, "null")
    members = draw_membership(config.seed, num_models, num_patients)
    null = null_patient_auc(rng.normal(size=members.shape), members, NUM_PERMUTATIONS, rng)
    factor = len(cohort.train_patients) / num_patients
    if factor > 1:
        null = dataclasses.replace(
            null,
            at_least_BT=np.ceil(null.at_least_BT * factor).astype(null.at_least_BT.dtype),
            num_patients=len(cohort.train_patients),
        )
    return resolution(null)


def cheaper(
    config: Config,
    models: dict[str, int],
    cohort: Cohort,
    trial: Trial,
    baseline: Trial | None,
    cost: Cost,
    speed: SpeedConfig,
) -> tuple[Option, ...]:
    """Cheaper studies, largest saving first; each alone."""
    options: list[Option] = []

    def add(settings: str, other: Config, its_models: dict[str, int], its_trial: Trial, loses: str) -> None:
        seconds = _cost(other, its_models, cohort, its_trial, baseline).seconds
        options.append(Option(settings, seconds, 1 - seconds / cost.seconds if cost.seconds else 0.0, loses))

    half = (config.fleet.num_models or config.fleet.max_models) // 4 * 2
    if half >= 4:
        fewer = dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, num_models=half))
        shown = resolved(fewer, cohort)
        counts = "no threshold" if math.isnan(shown.count_from) else f"AUC {shown.count_from:.3g}"
        add(
            f"fleet.num_models={half}",
            fewer,
            {label: min(count, half) for label, count in models.items()},
            trial,
            f"one patient's AUC is known to ±{_half_width(shown, 0.5):.2f}, counts from {counts} on",
        )
    if {"matched", "clip"} & models.keys():
        left = {label: count for label, count in models.items() if label not in ("matched", "clip")}
        add("privacy.controls=false", config, left, trial, "what the recipe does and what the noise does, apart")
    if any(label.startswith(BASELINE) for label in models):
        left = {label: count for label, count in models.items() if not label.startswith(BASELINE)}
        add("baseline.num_models=0", config, left, trial, "the simplest model beside every arm")
    for name, steps in _half_steps(config, models):
        add(name, steps, models, trial, "another recipe: other performance, other risk; tune it first")
    for settings, other, loses in _smaller(config):
        try:
            add(settings, other, models, timed_trial(other, cohort, KINDS, speed), loses)
        except DptrainError:
            continue
    return tuple(sorted((one for one in options if one.saved_fraction > 0.005), key=lambda one: one.seconds))


def _half_steps(config: Config, models: dict[str, int]) -> list[tuple[str, Config]]:
    usual, private = config.training, config.training.private
    found = []
    if "none" in models and usual.num_steps > 1:
        steps = usual.num_steps // 2
        found.append((f"training.num_steps={steps}", dataclasses.replace(usual, num_steps=steps)))
    if models.keys() - {"none", f"{BASELINE}none"} and private.num_steps > 1:
        steps = private.num_steps // 2
        fewer = dataclasses.replace(usual, private=dataclasses.replace(private, num_steps=steps))
        found.append((f"training.private.num_steps={steps}", fewer))
    return [(name, dataclasses.replace(config, training=training)) for name, training in found]


def _smaller(config: Config) -> list[tuple[str, Config, str]]:
    """The same network half as wide, and the simplest one."""
    found = []
    for name in WIDTH_OPTIONS:
        value = config.model.options.get(name)
        if isinstance(value, int) and value >= 2:
            narrow = ModelConfig(config.model.name, {**config.model.options, name: value // 2})
            found.append((f"model.{name}={value // 2}", narrow, "another network, with another performance and risk"))
    if config.model.name not in ("linear", "linear_probe"):
        found.append(
            (
                "model=linear",
                ModelConfig("linear"),
                "a network of your own; a frozen encoder (model=linear_probe) costs about this and one pass of it",
            )
        )
    return [(settings, dataclasses.replace(config, model=model), loses) for settings, model, loses in found]


def _trials(config: Config, cohort: Cohort, labels: list[str], speed: SpeedConfig) -> tuple[Trial, Trial | None]:
    beside = next((label for label in labels if label.startswith(BASELINE)), None)
    trial = timed_trial(config, cohort, KINDS, speed)
    if beside is None:
        return trial, None
    return trial, timed_trial(config_of(config, beside), cohort, ("none", "private"), speed)


def _cost(config: Config, models: dict[str, int], cohort: Cohort, trial: Trial, baseline: Trial | None) -> Cost:
    num_workers = (config.fleet.workers or num_cores()) * config.fleet.shards
    return study_cost(config, models, cohort, trial, baseline, num_workers, _resident_bytes())


def _resident_bytes() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return None
    return pages * 4096


def as_table(found: Plan) -> str:
    """Sections of two or three columns."""
    cost, shown = found.cost, found.resolution
    memory = "not known on this system" if cost.memory_bytes is None else _size(cost.memory_bytes)
    lines = [
        f"Study of {found.what}",
        "",
        f"{'arm':<24}{'models':>8}{'steps each':>12}{'of one worker':>16}",
        *(
            f"{arm.label:<24}{arm.num_models:>8}{arm.num_steps:>12}{format_duration(arm.seconds):>16}"
            for arm in cost.arms
        ),
        "",
        f"models      {cost.num_models}, and {cost.num_baselines} logistic regressions beside them",
        f"steps       {cost.num_steps:,} of one model",
        f"time        about {format_duration(cost.seconds)} with {_workers(cost)} (timed for {found.trial.seconds:.1f} "
        "s; attacks and charts come on top)",
        f"memory      {memory}",
        f"disk        {_size(cost.disk_bytes)}",
        "",
        f"What {shown.num_models} models per arm can show on {shown.num_patients} patients",
        f"  patient AUC     ±{_half_width(shown, 0.5):.3f} near 0.5, ±{_half_width(shown, 0.8):.3f} near 0.8 "
        "(95%, one patient, Hanley-McNeil)",
        f"  counts          {_from(shown.count_from)}: chance alone shows at most one patient there",
        f"  single patient  {_from(shown.list_from)}: can be listed at a false discovery rate of "
        f"{shown.false_discovery_rate:g} if nobody else is",
        f"  epsilon         no attack on one patient can certify more than {found.certifiable_epsilon:.3g}",
    ]
    if found.options:
        width = max(len(one.settings) for one in found.options)
        lines += ["", "Cheaper, each alone: time, saving, and what it gives up"]
        lines += [
            f"  {one.settings:<{width}}  {format_duration(one.seconds):>12}  {-one.saved_fraction:>5.0%}  {one.loses}"
            for one in found.options
        ]
    return "\n".join(lines)


def as_json(found: list[Plan]) -> str:
    """A list with one entry per study; numbers are finite or null."""
    return json.dumps([_finite(_plain(one)) for one in found], indent=2, allow_nan=False)


def _plain(found: Plan) -> dict[str, Any]:
    cost, shown = found.cost, found.resolution
    return {
        "study": found.what,
        "arms": [dataclasses.asdict(arm) for arm in cost.arms],
        "num_models": cost.num_models,
        "num_baselines": cost.num_baselines,
        "num_steps": cost.num_steps,
        "num_workers": cost.num_workers,
        "seconds": cost.seconds,
        "memory_bytes": cost.memory_bytes,
        "disk_bytes": cost.disk_bytes,
        "standard_error": {f"{area:g}": error for area, error in shown.standard_error.items()},
        "interval_width": {f"{area:g}": 2 * 1.96 * error for area, error in shown.standard_error.items()},
        "count_from": shown.count_from,
        "list_from": shown.list_from,
        "certifiable_epsilon": found.certifiable_epsilon,
        "trial": dataclasses.asdict(found.trial),
        "options": [dataclasses.asdict(one) for one in found.options],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _half_width(shown: Resolution, area: float) -> float:
    return 1.96 * shown.standard_error[area]


def _from(threshold: float) -> str:
    return "never resolvable" if math.isnan(threshold) else f"from AUC {threshold:.3f}"


def _workers(cost: Cost) -> str:
    return f"{cost.num_workers} worker{'' if cost.num_workers == 1 else 's'}"


def _size(num_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
