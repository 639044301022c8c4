"""One process's part of the training of a release: fresh coins and noise, a journal of begun steps, checkpoints."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dptrain.errors import StudyError
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.secure_random import SecureStream
from dptrain.privacy.units import UnitIndex
from dptrain.progress import Progress
from dptrain.release.checkpoint import Checkpoints, read_checkpoint
from dptrain.release.journal import Journal, last_begun
from dptrain.release.plan import Plan, untrained
from dptrain.training.augment import Augmenter
from dptrain.training.loop import (
    average_weights,
    build_optimizer,
    private_steps,
    set_learning_rate,
    unit_batches,
    weight_average,
)
from dptrain.training.losses import RECORD_LOSSES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    model: nn.Module
    ledger: dict[str, Any]
    findings: list[str]


class Run:
    """One process's part of the training."""

    def __init__(self, plan: Plan, coins_C: NDArray[np.bool_]) -> None:
        self._plan, config, cohort = plan, plan.config, plan.cohort
        self._recipe = config.training.private
        noise = SecureStream()
        coins = SecureStream()
        planted = np.arange(cohort.num_patients - cohort.num_canaries, cohort.num_patients)[coins_C]
        units = UnitIndex.build(cohort.patient, np.concatenate([plan.patients, planted]), plan.mechanism.unit)
        everyone = np.ones(units.num_units, dtype=bool)
        self._model = untrained(plan)
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

    def train(self) -> Outcome:
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
        return Outcome(model.eval(), ledger.to_dict(), ledger.findings(plan.mechanism))

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
