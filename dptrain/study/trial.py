"""A timed trial: a few steps of each kind of arm, through the same call that trains a fleet.

A block of models is trained for two numbers of steps; the difference is what a step costs, the rest is what a model
costs whatever it does (building it, its predictions on all records). Runs in a process of its own with one thread, as
a worker would, on a random part of a large cohort with the sampling rate raised by as much, so that batches are as
large as they will be. Changes nothing: what it trains is thrown away.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.membership import draw_membership
from dptrain.config import Config
from dptrain.errors import DataError, DptrainError, StudyError
from dptrain.privacy.mechanism import Mechanism
from dptrain.seeding import numpy_stream
from dptrain.training.allocator import keep_freed_memory
from dptrain.training.arms import Arm, ArmKind
from dptrain.training.fleet import FleetData, train_fleet_block
from dptrain.training.speed import SpeedConfig
from dptrain.training.threads import one_thread

KINDS: tuple[ArmKind, ...] = ("none", "matched", "private")
LEAST_PATIENTS = 400
AIM_S = 0.15
"""Length of a timed run."""
MOST_STEPS = 40


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one model of each kind of arm costs one worker."""

    step_s: dict[str, float]
    """Seconds per step and model, by kind of arm: none, matched, private (clip costs the same)."""
    model_s: dict[str, float]
    """Seconds per model beside its steps and later evaluations."""
    evaluation_s: float
    """Seconds per model for one more look at the performance on the test patients."""
    memory_bytes: int | None
    """Memory that a worker takes for itself while it trains; None where the system does not tell."""
    seconds: float
    """Length of the trial."""

    def seconds_of(self, kind: str, num_steps: int, num_evaluations: int) -> float:
        """Seconds of one worker for one model."""
        kind = "private" if kind == "clip" else kind
        steps = num_steps * self.step_s[kind] + (min(num_evaluations, num_steps) - 1) * self.evaluation_s
        return self.model_s[kind] + steps


def timed_trial(
    config: Config, cohort: Cohort, kinds: tuple[ArmKind, ...] = KINDS, speed: SpeedConfig | None = None
) -> Trial:
    """Measure. Raises what the training raises, and StudyError if the process dies (out of memory)."""
    if sys.platform != "linux" or (speed is not None and speed.device != "cpu"):
        # A forked process cannot use a GPU that its parent has looked at.
        return _measure(config, cohort, kinds, speed)
    torch.set_num_threads(1)
    context: Any = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, config, cohort, kinds, speed), daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        raise StudyError(
            f"The timed trial died (exit code {process.exitcode}): a block of these models does not fit into memory. "
            "Take a smaller fleet.block_size or training.private.max_batch_records."
        ) from None
    process.join()
    if isinstance(found, Exception):
        raise found
    return found


def _answer(
    channel: Any, config: Config, cohort: Cohort, kinds: tuple[ArmKind, ...], speed: SpeedConfig | None
) -> None:
    one_thread()
    keep_freed_memory()
    try:
        channel.send(_measure(config, cohort, kinds, speed))
    except DptrainError as error:
        channel.send(error)
    except Exception as error:
        channel.send(RuntimeError(f"The timed trial failed: {error!r}"))


def _measure(config: Config, cohort: Cohort, kinds: tuple[ArmKind, ...], speed: SpeedConfig | None) -> Trial:
    begin, before = time.monotonic(), _own_memory()
    part = _part(config, cohort)
    scale, test_scale = cohort.num_records / part.num_records, _num_test(cohort) / max(_num_test(part), 1)
    block = _Block(config, cohort, part, speed)
    step_s: dict[str, float] = {}
    model_s: dict[str, float] = {}
    evaluation_s = 0.0
    for kind in kinds:
        block.seconds(kind, 1)
        once = block.seconds(kind, 1)
        num_steps = 1 + max(1, min(MOST_STEPS, math.ceil(AIM_S / once)))
        often = block.seconds(kind, num_steps)
        step_s[kind] = max((often - once) / (num_steps - 1), 1e-7) / block.num_models
        model_s[kind] = max(once / block.num_models - step_s[kind], 0.0) * scale
        if kind == kinds[0]:
            looks = block.seconds(kind, num_steps, num_steps)
            evaluation_s = max((looks - often) / (num_steps - 1), 0.0) / block.num_models * test_scale
    after = _own_memory(peak=True)
    memory = None if before is None or after is None else max(after - before, 0)
    return Trial(step_s, model_s, evaluation_s, memory, time.monotonic() - begin)


class _Block:
    """A block of models that can be trained for any number of steps."""

    def __init__(self, config: Config, cohort: Cohort, part: Cohort, speed: SpeedConfig | None) -> None:
        self._config, self._speed = config, speed
        self._data = FleetData.build(part, config.privacy.unit, "cpu" if speed is None else speed.device)
        num_models = config.fleet.num_models or config.fleet.max_models
        self.num_models = min(config.fleet.block_size, num_models)
        even = self.num_models + self.num_models % 2
        self._members = draw_membership(config.seed, max(even, 2), len(part.train_patients))[: self.num_models]
        share = len(part.train_patients) / len(cohort.train_patients)
        self._rate = min(1.0, config.training.private.sampling_rate / share)
        is_record = config.privacy.unit == "record"
        self._units = max(len(self._data.units.records) if is_record else self._members.shape[1], 2)

    def seconds(self, kind: ArmKind, num_steps: int, num_evaluations: int = 1) -> float:
        """Train all models of the block and predict on all records."""
        recipe = self._config.training
        private = dataclasses.replace(recipe.private, num_steps=num_steps, sampling_rate=self._rate)
        training = dataclasses.replace(
            recipe, num_steps=num_steps, private=private, num_evaluations=num_evaluations
        )
        mechanism = None if kind == "none" else Mechanism(
            unit=self._config.privacy.unit,  # type: ignore[arg-type]
            sampling_rate=self._rate,
            noise_multiplier=1.0 if kind == "private" else 0.0,
            clipping_norm=self._config.privacy.clipping_norm,
            num_steps=num_steps,
            expected_batch_size=self._rate * self._units / 2,
            delta=self._config.privacy.delta,
        )  # fmt: skip
        arm = Arm("private", 1.0) if kind == "private" else Arm(kind)
        config = dataclasses.replace(self._config, training=training)
        begin = time.perf_counter()
        train_fleet_block(config, self._data, arm, mechanism, range(self.num_models), self._members, self._speed)
        return time.perf_counter() - begin


def _num_test(cohort: Cohort) -> int:
    return int(cohort.is_test[cohort.patient].sum())


def _part(config: Config, cohort: Cohort) -> Cohort:
    """A random part of the patients that is large enough for batches of the real size; the cohort if it is small."""
    batch = config.training.private.sampling_rate * len(cohort.train_patients)
    wanted = max(LEAST_PATIENTS, 2 * math.ceil(batch), 4 * config.training.batch_size)
    fraction = wanted / len(cohort.train_patients)
    if fraction >= 0.8:
        return cohort
    rng = numpy_stream(config.seed, "subset", "trial")
    keep = np.sort(rng.choice(cohort.num_patients, math.ceil(fraction * cohort.num_patients), replace=False))
    try:
        return patients_of(cohort, keep)
    except DataError:
        return cohort


def patients_of(cohort: Cohort, patients: NDArray[np.int64]) -> Cohort:
    """The cohort of these patients (ascending indices) alone; raises DataError where a class is missing."""
    number = np.full(cohort.num_patients, -1)
    number[patients] = np.arange(len(patients))
    rows = np.flatnonzero(number[cohort.patient] >= 0)
    return dataclasses.replace(
        cohort,
        features=np.ascontiguousarray(cohort.features[rows]),
        labels=cohort.labels[rows],
        patient=number[cohort.patient[rows]],
        patient_ids=cohort.patient_ids[patients],
        is_test=cohort.is_test[patients],
        groups={name: values[patients] for name, values in cohort.groups.items()},
        num_canaries=0,
    )


def _own_memory(peak: bool = False) -> int | None:
    """Resident bytes of this process, or the most of them so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    name = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
