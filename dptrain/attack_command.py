"""`dptrain attack FILE.npz`: the whole audit of models that somebody else's trainer made, from what they answered.

    dptrain attack models.npz
    dptrain attack models.npz --attack lira_online --variance per_record --targets 64 --json
    dptrain attack runs/ --access --out audit/

Reads membership, logits or signals (docs/attack.md), writes `attack.json` and `restricted/patients.csv`. Nothing here
computes a statistic: `audit/whole.py` does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from dptrain.arguments import ArgumentParser
from dptrain.attack_files import TASKS, AnyTask, SavedModels, checked_targets, read_models
from dptrain.attack_output import attack_json, patients_csv, table
from dptrain.attacks.gaussian import Variance
from dptrain.attacks.lira import default_variance
from dptrain.attacks.protocol import ATTACKS, Attack, attack_named
from dptrain.attacks.signals import (
    Task,
    compute_label_signals,
    compute_log_probabilities,
    compute_regression_signals,
    compute_signals,
)
from dptrain.attacks.twins import find_twins, model_units
from dptrain.audit.access_table import AccessRow, access_table
from dptrain.audit.whole import Answers, WholeAudit, audit_models
from dptrain.errors import ConfigError, DataError
from dptrain.seeding import numpy_stream
from dptrain.study.atomic import write_text

log = logging.getLogger(__name__)

FAMILIES = ("threshold", "lira_online", "lira_offline", "rmia_online", "rmia_offline", "rmia_one_reference")
"""Attacks run if none is chosen."""

MOST_FLOAT64 = 50_000_000
"""Signals of more models times records are kept in float32: 0.4 GB. They are computed in float64 all the same."""


@dataclass(frozen=True)
class Request:
    """The checked arguments."""

    path: Path
    out: Path
    attacks: tuple[str, ...] | None
    variance: Variance | None
    targets: tuple[int, ...] | None
    task: AnyTask | None
    per_label: bool
    access: bool
    num_permutations: int
    seed: int
    threads: int
    as_json: bool


@dataclass(frozen=True)
class Plan:
    """The attacks that will run, by the name of their result, and why others will not."""

    attacks: dict[str, Attack]
    variance: dict[str, Variance]
    not_run: dict[str, str]


def answer(arguments: Sequence[str]) -> str:
    """Audit, write both files, and return what is printed.

    Raises:
        ConfigError: arguments that are wrong or cannot be met by these models (all of them).
        DataError: arrays that do not fit (all of them).
        StudyError: the folder cannot be written.
    """
    request = parse(arguments)
    models = read_models(request.path, request.task)
    targets = chosen_targets(request, models)
    plan = plan_attacks(request, models)
    try:
        audit = audit_models(
            answers_of(models, per_label=request.per_label),
            plan.attacks,
            numpy_stream(request.seed, "null", "attack"),
            targets=targets,
            groups=models.groups,
            strata_P=models.strata_P,
            num_permutations=request.num_permutations,
            num_threads=request.threads,
        )
        access = _access(models, plan, targets) if request.access else None
    except ValueError as error:
        raise DataError([f"{request.path}: {line}" for line in str(error).splitlines()]) from error
    return _written(request, models, plan, audit, access)


def _written(
    request: Request, models: SavedModels, plan: Plan, audit: WholeAudit, access: tuple[AccessRow, ...] | None
) -> str:
    text = attack_json(models, audit, plan.variance, plan.not_run, access)
    write_text(request.out / "restricted" / "patients.csv", patients_csv(models, audit.risk))
    write_text(request.out / "attack.json", text)
    if request.as_json:
        return text.rstrip()
    lines = [f"{name} was not run: {why}" for name, why in plan.not_run.items()]
    files = f"Written: {request.out / 'attack.json'}, and for the owner only {request.out / 'restricted/patients.csv'}."
    return "\n".join([table(models, audit, access), "", *lines, files])


def parse(arguments: Sequence[str]) -> Request:
    """Checked arguments; every problem is found before it stops."""
    parser = ArgumentParser(
        prog="dptrain attack",
        description="Attack models that any trainer made, and measure the risk of every patient, from saved logits or "
        "signals. docs/attack.md says what FILE holds.",
    )
    parser.add_argument("file", metavar="FILE", help="a .npz file, or a folder with one folder per model")
    parser.add_argument("--attack", action="append", metavar="NAME", help=f"{', '.join(FAMILIES)}; several with commas")
    parser.add_argument("--variance", metavar="HOW", help="of lira: per_record, pooled or shrunk")
    parser.add_argument("--targets", action="append", metavar="M", help="attacked models, for example 64 or 0,1,2")
    parser.add_argument(
        "--task", metavar="TASK", help="binary, multiclass, multilabel (told from the labels otherwise), or regression"
    )
    parser.add_argument("--per-label", action="store_true", help="attack every label of a multilabel model on its own")
    parser.add_argument("--access", action="store_true", help="also attack what is left if the model says less")
    parser.add_argument("--out", metavar="DIR", help="folder of the result; beside FILE otherwise")
    parser.add_argument("--num-permutations", metavar="B", default="200", help="of the null (200)")
    parser.add_argument("--seed", metavar="S", default="0", help="of everything random (0)")
    parser.add_argument("--threads", metavar="N", default="2", help="attacks that run side by side (2)")
    parser.add_argument("--json", action="store_true", help="print attack.json and nothing else")
    given = parser.parse_args(list(arguments))
    problems: list[str] = []
    names = _names(given.attack, problems)
    if given.variance is not None and given.variance not in get_args(Variance):
        problems.append(f"--variance {given.variance} must be one of {', '.join(get_args(Variance))}.")
    if given.variance is not None and names is not None and not any(name.startswith("lira_") for name in names):
        log.warning("--variance has no effect without lira_online or lira_offline.")
    if given.task is not None and given.task not in TASKS:
        problems.append(f"--task {given.task} must be one of {', '.join(TASKS)}.")
    numbers = {
        name: _whole(f"--{name.replace('_', '-')}", getattr(given, name), least, problems)
        for name, least in (("num_permutations", 20), ("seed", 0), ("threads", 1))
    }
    targets = None if given.targets is None else _targets(given.targets, problems)
    if problems:
        raise ConfigError(problems)
    path = Path(given.file)
    out = Path(given.out) if given.out is not None else path if path.is_dir() else path.parent
    return Request(
        path=path,
        out=out,
        attacks=names,
        variance=given.variance,
        targets=targets,
        task=given.task,
        per_label=given.per_label,
        access=given.access,
        as_json=given.json,
        **numbers,
    )


def _names(given: list[str] | None, problems: list[str]) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = [name.strip() for one in given for name in one.split(",") if name.strip()]
    problems += [f"--attack {name} must be one of {', '.join(ATTACKS)}." for name in names if name not in ATTACKS]
    if not names:
        problems.append(f"--attack needs a name: {', '.join(FAMILIES)}.")
    return tuple(dict.fromkeys(names))


def _targets(given: list[str], problems: list[str]) -> tuple[int, ...] | None:
    texts = [text.strip() for one in given for text in one.split(",") if text.strip()]
    if not texts or not all(text.isdecimal() for text in texts):
        problems.append(f"--targets {','.join(given)} must be numbers of models from 0, for example 64 or 0,1,2.")
        return None
    return tuple(int(text) for text in texts)


def _whole(flag: str, text: str, least: int, problems: list[str]) -> int:
    if not text.isdecimal() or int(text) < least:
        problems.append(f"{flag} {text} must be a whole number of at least {least}.")
        return least
    return int(text)


def chosen_targets(request: Request, models: SavedModels) -> NDArray[np.int64]:
    """The attacked models: as asked, as the file says, or all. Raises ConfigError if one cannot be attacked."""
    problems: list[str] = []
    targets = models.targets
    if request.targets is not None:
        targets = checked_targets(np.array(request.targets), models.num_models, "--targets", problems)
    if targets is None:
        targets = np.arange(models.num_models)
    num_in = models.membership_MP.sum(axis=1)
    one_sided = [int(m) for m in targets if num_in[m] in (0, models.membership_MP.shape[1])]
    if one_sided and request.targets is None and models.targets is None:
        log.warning("Models %s have all patients or none and are references only.", one_sided)
        targets = np.setdiff1d(targets, one_sided)
    elif one_sided:
        problems.append(f"target {one_sided[0]} was trained on all patients or on none: there is nobody to tell apart.")
    if targets.size == 0:
        problems.append("No model can be attacked: each was trained on all patients or on none.")
    if problems:
        raise ConfigError(problems)
    return targets


def plan_attacks(request: Request, models: SavedModels) -> Plan:
    """What runs; an attack asked for by name that cannot run is a ConfigError, others are named with the reason."""
    reasons = {name: _obstacle(attack_named(name), request, models) for name in request.attacks or FAMILIES}
    impossible = {name: why for name, why in reasons.items() if why}
    if request.attacks is not None and impossible:
        raise ConfigError([f"--attack {name}: {why}" for name, why in impossible.items()])
    twins = np.any(find_twins(models.membership_MP) >= 0)
    default = default_variance(models.num_models - (2 if twins else 1))
    attacks, variance = {}, {}
    for name, why in reasons.items():
        if why:
            continue
        is_family = name in ("lira_online", "lira_offline")
        if is_family:
            variance[name] = request.variance or default
        attacks[name] = attack_named(name, variance.get(name))
    return Plan(attacks, variance, impossible)


def _obstacle(attack: Attack, request: Request, models: SavedModels) -> str:
    """Why an attack cannot run on these models; empty if it can."""
    units = model_units(models.membership_MP)
    if attack.name.startswith("lira_") and models.num_models - int(np.bincount(units).max()) < 2:
        return f"{models.num_models} models leave a target fewer than 2 references (its twin is never one)."
    if attack.needs_population and int(units.max()) < 1:
        return f"{models.num_models} models leave a target without a reference (its twin is never one)."
    has_logits = models.population_logits is not None
    if attack.needs_population and not has_logits and models.population_signals is None:
        return "it needs population_signals (or population_logits): records that no model was trained on."
    if attack.needs_population and models.task == "regression":
        return "it compares probabilities, and a regression model gives none."
    if attack.needs_population and not has_logits and models.task == "multilabel":
        return "with several labels it needs population_logits and population_labels, not population_signals."
    return ""


def answers_of(models: SavedModels, *, per_label: bool = False) -> Answers:
    """Signals of all models, one per record, query or label. Raises ConfigError for labels that are not there."""
    if per_label and (models.task != "multilabel" or models.logits is None or models.logits.ndim != 3):
        raise ConfigError("--per-label needs logits of a multilabel model, one query per record.")
    if models.signals is not None:
        population = models.population_signals
        return Answers(
            _kept(models.signals), models.membership_MP, models.patient_N, population=_kept(population)
        )  # fmt: skip
    assert models.logits is not None
    assert models.labels is not None
    assert models.task is not None
    if models.task == "regression":
        return Answers(
            _kept(_regression_signals(models.logits, models.labels)), models.membership_MP, models.patient_N
        )  # fmt: skip
    with_population = models.population_logits is not None
    is_sum = models.task == "multilabel"
    audited = _signals(models.logits, models.labels, models.task, per_label)
    log_p = _log_probabilities(models.logits, models.labels, models.task) if is_sum and not per_label else None
    population, population_log_p = models.population_signals, None
    if with_population:
        assert models.population_labels is not None
        theirs = models.population_logits, models.population_labels, models.task
        population = _signals(*theirs, per_label)
        population_log_p = _log_probabilities(*theirs) if is_sum and not per_label else None
    return Answers(
        _kept(audited),
        models.membership_MP,
        models.patient_N,
        combination="sum" if per_label else "mean",
        log_probabilities=_kept(log_p),
        population=_kept(population),
        population_log_probabilities=_kept(population_log_p),
    )


def _signals(logits: Any, labels: Any, task: Task, per_label: bool) -> NDArray[np.float64]:
    if per_label:
        return compute_label_signals(logits, labels)
    if logits.ndim == 3:
        return compute_signals(logits, labels, task)
    return np.stack([compute_signals(logits[:, :, v], labels, task) for v in range(logits.shape[2])], axis=2)


def _regression_signals(outputs: Any, targets: Any) -> NDArray[np.float64]:
    if outputs.ndim == 3:
        return compute_regression_signals(outputs, targets)
    queries = [compute_regression_signals(outputs[:, :, v], targets) for v in range(outputs.shape[2])]
    return np.stack(queries, axis=2)


def _log_probabilities(logits: Any, labels: Any, task: Task) -> NDArray[np.float64]:
    if logits.ndim == 3:
        return compute_log_probabilities(logits, labels, task)
    return np.stack([compute_log_probabilities(logits[:, :, v], labels, task) for v in range(logits.shape[2])], axis=2)


def _kept(values: NDArray[Any] | None) -> Any:
    """float32 if there are very many of them, or if they came as float32."""
    if values is None:
        return None
    return values.astype(
        np.float32 if values.size > MOST_FLOAT64 or values.dtype == np.float32 else np.float64, copy=False
    )


def _access(models: SavedModels, plan: Plan, targets: NDArray[np.int64]) -> tuple[AccessRow, ...]:
    if models.logits is None or models.logits.ndim != 3 or models.task == "regression":
        raise ConfigError(
            "--access needs logits of a classifier with one query per record: signals do not say what else is answered."
        )
    assert models.labels is not None
    assert models.task is not None
    population = None
    if models.population_logits is not None and models.population_labels is not None:
        population = models.population_logits, models.population_labels
    possible = {name: one for name, one in plan.attacks.items() if population is not None or not one.needs_population}
    return access_table(
        models.logits,
        models.labels,
        models.task,
        models.membership_MP,
        models.patient_N,
        possible,
        population=population,
        targets=targets,
    )
