"""Train the model to release: all patients, noise from the operating system, and nothing that can be repeated.

    releases/<study>/<arm>/
      model.safetensors, model.json   the model
      statement.md, statement.json    its privacy statement (release/statement.py)
      model_card.md, model_card.json  its model card (release/card.py)
      restricted/                     configuration, journal of steps, checkpoint, what ran; mode 0600

The same command continues a killed run. Coins and noise of the remaining steps are fresh. A step that was begun and
whose result was lost is spent: it is neither repeated nor forgotten, so never more than T steps are begun, which is
what is accounted. What cannot be continued without guessing (a damaged journal or checkpoint, a folder put back from
a backup, too many lost steps) is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dptrain import __version__
from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import nominal_train_patients
from dptrain.config import Config
from dptrain.errors import ConfigError, StudyError
from dptrain.models.registry import build_model
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.secure_random import SecureStream
from dptrain.privacy.units import UnitIndex
from dptrain.privacy.verify import void_reasons
from dptrain.progress import Progress
from dptrain.release import history
from dptrain.release.canaries import canary_coins, held_against_claim
from dptrain.release.checkpoint import Checkpoints, read_checkpoint
from dptrain.release.journal import Journal, last_begun
from dptrain.seeding import stream_seed
from dptrain.study.atomic import make_folder, probe_folder, write_json
from dptrain.study.frozen import difference, freeze
from dptrain.study.runner import units_of_patients
from dptrain.training.arms import Arm, build_mechanism, private_arm
from dptrain.training.augment import Augmenter
from dptrain.training.check import check_delta, check_training
from dptrain.training.loop import (
    average_weights,
    build_optimizer,
    private_steps,
    set_learning_rate,
    unit_batches,
    weight_average,
)
from dptrain.training.losses import RECORD_LOSSES
from dptrain.training.prepare import prepared_cohort

OWN_ENTRIES = {
    "model.safetensors", "model.json", "model_card.md", "model_card.json", "statement.md", "statement.json",
    "restricted"
}  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that is fixed before the first step."""

    config: Config
    cohort: Cohort
    arm: Arm
    mechanism: Mechanism
    accounting: dict[str, Any]
    patients: NDArray[np.int64]
    """Patients that are trained on. Canaries are not among them (`release.canaries`)."""
    folder: Path
    history: Path

    @property
    def restricted(self) -> Path:
        """What stays inside."""
        return self.folder / "restricted"


@dataclass(frozen=True)
class Trained:
    """A training that went to its end."""

    model: nn.Module
    """In eval mode, without hooks."""
    ledger: dict[str, Any]
    run_id: str
    preflight: dict[str, Any]
    void: tuple[str, ...]
    """Why it has no epsilon; empty if it has."""
    lower_bound: dict[str, Any] | None = None
    """What planted canaries prove about epsilon."""


def make_plan(config: Config) -> Plan:
    """Read the cohort and fix mechanism, patients and folders; nothing is written.

    Raises ConfigError without a private target and DataError for the data.
    """
    arm = private_arm(config.privacy)
    if arm is None:
        raise ConfigError(
            "privacy.epsilon=inf asks dptrain train for a model without privacy. It makes models with a guarantee; "
            "name an epsilon (privacy.epsilon=3) or a cap on attacks (privacy.target=tpr)."
        )
    cohort = prepared_cohort(config)
    for warning in cohort.warnings:
        log.warning("%s: %s", cohort.name, warning)
    hold_out = config.release.hold_out
    real = cohort.without_canaries()
    patients = real.train_patients if hold_out else np.arange(real.num_patients)
    check_delta(config.privacy.delta, len(patients))
    nominal = nominal_train_patients(config.data) / (1.0 if hold_out else 1 - config.data.test_fraction)
    mechanism, accounting = build_mechanism(
        config, arm, units_of_patients(config, nominal) + config.audit.canaries / 2
    )
    assert mechanism is not None
    assert accounting is not None
    folder = Path(config.release.dir or Path("releases") / config.study.name / arm.label)
    list_file = Path(config.release.history or Path("releases") / "restricted" / f"{config.data.name}.jsonl")
    return Plan(config, cohort, arm, mechanism, accounting, patients, folder, list_file)


def train_release(plan: Plan) -> Trained | None:
    """Train what the plan says, or go on with it; None if the folder holds the finished release.

    Raises PrivacyError if the preflight fails (nothing is trained), StudyError for folders that cannot be used or
    continued.
    """
    _check_folder(plan)
    with _locked(plan):
        if (plan.folder / "statement.json").exists():
            log.info("The release in %s is finished; nothing was trained.", plan.folder)
            return None
        report = check_training(plan.config, plan.cohort, plan.mechanism, plan.patients)
        report.check()
        log.info("Preflight passed (%.1f s).", report.seconds)
        coins = canary_coins(plan.restricted, plan.cohort.num_canaries)
        run_id = _open_run(plan)
        trained = _Run(plan, coins).train()
        epsilon = float(plan.accounting["epsilon"])
        found = trained.findings + void_reasons(plan.mechanism, epsilon, [trained.ledger])
        write_json(plan.restricted / "ledger.json", trained.ledger)
        lower_bound = None
        if plan.cohort.num_canaries:
            lower_bound, objection = held_against_claim(
                trained.model, _untrained(plan), plan.cohort, coins, epsilon, plan.mechanism.delta
            )
            found += [] if objection is None else [objection]
        return Trained(trained.model, trained.ledger, run_id, report.to_dict(), tuple(found), lower_bound)


def _untrained(plan: Plan) -> nn.Module:
    """The network before the first step."""
    cohort = plan.cohort
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(plan.config.seed, "init", "release"))
        return build_model(plan.config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)


def _check_folder(plan: Plan) -> None:
    """Refuse a folder with anything else in it; raises StudyError with every difference."""
    settings = _frozen(plan)
    path = plan.folder
    probe_folder(path)
    file = plan.restricted / "config.json"
    if file.exists():
        lines = difference(json.loads(file.read_text())["settings"], settings)
        if lines:
            raise StudyError(
                [
                    f"release.dir={path} holds a release with another configuration; nothing was changed.",
                    *(f"  {line}" for line in lines),
                    "Choose another release.dir. It will be a further release on these patients.",
                ]
            )
        return
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in OWN_ENTRIES) if path.is_dir() else []
    if foreign:
        raise StudyError(
            f"release.dir={path} is not empty and not a release (it holds {', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}). Choose an empty or new folder."
        )


def _frozen(plan: Plan) -> dict[str, Any]:
    """What a continued run must agree on: configuration, mechanism and data."""
    settings = freeze(plan.config)
    for group in ("fleet", "attack"):
        settings.pop(group)
    settings["arm"] = plan.arm.label
    settings["hold_out"] = plan.config.release.hold_out
    settings["mechanism"] = plan.mechanism.to_dict()
    settings["cohort"] = plan.cohort.fingerprint()
    result: dict[str, Any] = json.loads(json.dumps(settings))
    return result


@contextlib.contextmanager
def _locked(plan: Plan) -> Iterator[None]:
    """Two processes must never train one release."""
    make_folder(plan.restricted)
    file = os.open(plan.restricted / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise StudyError(f"Another process is training {plan.folder}. Wait for it, or stop it.") from error
    try:
        yield
    finally:
        os.close(file)


def _open_run(plan: Plan) -> str:
    """Enter the run into the list of releases before its first step; the run's name.

    A folder that the list knows to be further than its journal says was put back from a backup: the noise of the steps
    in between was used on weights that this folder has never seen.
    """
    file = plan.restricted / "config.json"
    begun = last_begun(plan.restricted / "steps.log")
    if not file.exists():
        run_id = secrets.token_hex(8)
        history.append(plan.history, "begun", _entry(plan, run_id, 0))
        write_json(file, {"run": run_id, "dptrain": __version__, "settings": _frozen(plan)})
        return run_id
    run_id = str(json.loads(file.read_text())["run"])
    known = [line for line in history.read(plan.history) if line["run"] == run_id]
    if not known:
        raise StudyError(
            f"The list of releases {plan.history} does not know the run in {plan.folder}. Name the list that it was "
            "begun with (release.history=FILE), or train anew with another release.dir."
        )
    if any(line["event"] in ("finished", "void") for line in known) or max(line["step"] for line in known) > begun:
        raise StudyError(
            f"{plan.folder} was put back from an older copy: the list of releases {plan.history} has seen this run "
            "further on. Its noise was used already and is not drawn again. Restore the newest copy, or train anew "
            "with another release.dir; the list will then count both."
        )
    history.append(plan.history, "continued", _entry(plan, run_id, begun))
    return run_id


def _entry(plan: Plan, run_id: str, step: int) -> dict[str, Any]:
    ids = plan.cohort.patient_ids[plan.patients].tolist()
    return {
        "run": run_id,
        "step": step,
        "cohort": plan.cohort.name,
        "patients": history.digest_of_patients(ids),
        "arm": plan.arm.label,
        "epsilon": plan.accounting["epsilon"],
        "mechanism": plan.mechanism.to_dict(),
        "model": plan.config.model.name,
        "dptrain": __version__,
    }


def finish_run(plan: Plan, event: str, weights_digest: str | None) -> None:
    """Enter the end of the run into the list of releases, unless it is there, and throw the checkpoint away."""
    run_id = str(json.loads((plan.restricted / "config.json").read_text())["run"])
    known = [line["event"] for line in history.read(plan.history) if line["run"] == run_id]
    if event not in known:
        entry = _entry(plan, run_id, plan.mechanism.num_steps)
        history.append(plan.history, event, {**entry, "weights": weights_digest})
    (plan.restricted / "checkpoint.pt").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Outcome:
    model: nn.Module
    ledger: dict[str, Any]
    findings: list[str]


class _Run:
    """One process's part of the training."""

    def __init__(self, plan: Plan, coins_C: NDArray[np.bool_]) -> None:
        self._plan, config, cohort = plan, plan.config, plan.cohort
        self._recipe = config.training.private
        noise = SecureStream()
        coins = SecureStream()
        planted = np.arange(cohort.num_patients - cohort.num_canaries, cohort.num_patients)[coins_C]
        units = UnitIndex.build(cohort.patient, np.concatenate([plan.patients, planted]), plan.mechanism.unit)
        everyone = np.ones(units.num_units, dtype=bool)
        self._model = _untrained(plan)
        self._optimizer = build_optimizer(self._recipe, self._model)
        self._average = weight_average(self._model, self._recipe)
        self._journal_path = plan.restricted / "steps.log"
        state = read_checkpoint(plan.restricted / "checkpoint.pt")
        if state is not None:
            self._model.load_state_dict(state["model"])
        loss = RECORD_LOSSES[cohort.task]
        self._engine = PrivateEngine(self._model, loss, self._optimizer, plan.mechanism, noise, everyone)
        self._first = 1 + self._restore(state)
        # Coins are drawn for every step of the mechanism; the steps of an earlier process had others.
        max_records = self._recipe.max_records_per_patient if plan.mechanism.unit == "patient" else None
        batches = unit_batches(plan.mechanism, units, everyone, max_records, coins)
        features = torch.from_numpy(np.ascontiguousarray(cohort.features))
        labels = torch.from_numpy(np.ascontiguousarray(cohort.labels))
        generator = torch.Generator().manual_seed(SecureStream().integer())
        vary = Augmenter(self._recipe.augment, self._recipe.copies, generator)
        self._step = private_steps(self._engine, features, labels, batches, self._recipe.max_batch_records, vary)

    def _restore(self, state: dict[str, Any] | None) -> int:
        """Go on from a checkpoint; the number of steps that are spent."""
        total = self._plan.mechanism.num_steps
        begun = last_begun(self._journal_path)
        done = 0 if state is None else int(state["step"])
        if begun < done:
            raise StudyError(
                f"{self._plan.folder} cannot be continued: its checkpoint is from step {done}, its journal ends at "
                f"{begun}. They are not from the same moment, so nobody knows which noise was used. Train anew with "
                "another release.dir; the list of releases will count both."
            )
        lost = begun - done
        if lost > self._plan.config.release.max_lost_fraction * total and lost > 1:
            raise StudyError(
                f"{lost} of {total} steps were begun and lost in the kill (the last checkpoint is from step {done}). "
                "They are spent and cannot be repeated, so the model would be undertrained. Train anew with another "
                "release.dir (the list of releases will count both), or accept it with release.max_lost_fraction="
                f"{math.ceil(100 * lost / total) / 100:g}."
            )
        if state is not None:
            self._optimizer.load_state_dict(state["optimizer"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            self._engine.ledger.restore(state["ledger"], lost)
        else:
            self._engine.ledger.num_lost = lost
        if begun:
            log.info("Continuing after step %d of %d%s.", begun, total, f"; {lost} were lost" if lost else "")
        return begun

    def train(self) -> _Outcome:
        """The remaining steps. SIGTERM and Ctrl-C are obeyed after the step, with a checkpoint: nothing is lost."""
        plan, total = self._plan, self._plan.mechanism.num_steps
        journal = Journal(self._journal_path)
        checkpoints = Checkpoints(plan.restricted / "checkpoint.pt", plan.config.release.checkpoint_overhead, total)
        progress = Progress(max(total - self._first + 1, 1), "steps")
        self._model.train()
        with _asked_to_stop() as asked:
            try:
                for index in range(self._first, total + 1):
                    set_learning_rate(self._optimizer, self._recipe, index)
                    journal.begin(index)
                    self._step()
                    if self._average is not None:
                        average_weights(self._average, self._model, self._recipe, index)
                    if asked or index == total or checkpoints.is_due(index):
                        checkpoints.write(self._state(index))
                    progress.update(1, plan.arm.label)
                    if asked and index < total:
                        raise StudyError(
                            f"Stopped after step {index} of {total} (signal {asked[0]}); nothing is lost. The same "
                            "command continues."
                        )
            finally:
                progress.close()
                journal.close()
        ledger = self._engine.ledger
        model = self._engine.close()
        model = model if self._average is None else self._average
        return _Outcome(model.eval(), ledger.to_dict(), ledger.findings(plan.mechanism))

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "model": self._model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "ledger": self._engine.ledger.state(),
        }


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that holds the signal once SIGTERM or SIGINT came; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
