"""Run a study: whatever models an arm still lacks are trained, block by block, on all cores.

The same call continues a killed study and does nothing for a finished one. Several processes may run the same study at
the same time; claims keep them from doing the same block.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dptrain.cohorts.registry import load_cohort, nominal_train_patients
from dptrain.config import Config, to_dict
from dptrain.errors import PrivacyError, StudyError
from dptrain.models.registry import build_model, num_parameters
from dptrain.privacy.accounting import epsilon_spent
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.verify import void_reasons
from dptrain.progress import Progress
from dptrain.study.atomic import write_array, write_json
from dptrain.study.blocks import block_models, block_path, claim, set_aside_if_damaged, write_block
from dptrain.study.folder import ArmRecord, StudyFolder
from dptrain.training.allocator import keep_freed_memory
from dptrain.training.arms import Arm, arm_from_label, arms_of_run, build_mechanism
from dptrain.training.check import check_delta, check_training
from dptrain.training.fleet import FleetData, train_fleet_model
from dptrain.training.loop import evaluation_steps

POLL_S = 0.5
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Forked workers share the libraries that this process has loaded (importing torch takes seconds and 200 MB each). Safe
here because this process runs torch with one thread and starts no thread of its own before the pool."""
log = logging.getLogger(__name__)


def prepare_study(config: Config) -> StudyFolder:
    """Read the cohort, check it against the configuration, and create or open the study's folder."""
    cohort = load_cohort(config.data, config.seed)
    for warning in cohort.warnings:
        log.warning("%s: %s", cohort.name, warning)
    check_delta(config.privacy.delta, len(cohort.train_patients))
    return StudyFolder.create_or_open(config.study.dir, config, cohort)


def run_study(config: Config) -> StudyFolder:
    """Bring the study to where every arm that this run asks for is complete."""
    study = prepare_study(config)
    arms = arms_of_run(config.privacy)
    for arm in arms:
        begin_arm(study, arm)
    check_private_arms(study, [arm.label for arm in arms])
    train_missing(study, [arm.label for arm in arms], config.fleet.workers or num_cores())
    verify_private_arms(study, [arm.label for arm in arms])
    return study


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin_arm(study: StudyFolder, arm: Arm) -> ArmRecord:
    """Write down the arm's mechanism and accounting, once; later runs read it."""
    path = study.path / "arms" / arm.label / "arm.json"
    if path.exists():
        return study.arm(arm.label)
    config, cohort = study.config(), study.cohort()
    mechanism, accounting = build_mechanism(config, arm, nominal_units(config))
    model = build_model(config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)
    record = _arm_record(config, arm, mechanism, accounting, num_parameters(model))
    if mechanism is not None and arm.kind == "private":
        steps = evaluation_steps(mechanism.num_steps, config.training.num_evaluations)
        q, sigma = mechanism.sampling_rate, mechanism.noise_multiplier
        spent = [epsilon_spent(q, sigma, step, mechanism.delta) for step in steps.tolist()]
        write_array(path.with_name("epsilon.npy"), np.array(spent, dtype=np.float64))
        log.info(
            "Arm %s: noise multiplier %.4g, %d steps at sampling rate %g spend epsilon %.4g at delta %g.",
            arm.label,
            mechanism.noise_multiplier,
            mechanism.num_steps,
            mechanism.sampling_rate,
            record.epsilon,
            mechanism.delta,
        )
    write_json(path, dataclasses.asdict(record))
    return record


_passed: dict[str, dict[str, Any]] = {}
"""Preflights that passed in this process, by what was checked."""


def check_private_arms(study: StudyFolder, labels: list[str]) -> None:
    """Run the preflight for every arm with clipping that has models to train; raises PrivacyError with all findings.

    The control `clip` shares model, loss, data and C with a private arm of the same run and is not looked at again;
    nor is what passed in this process before.
    """
    due = [study.arm(label) for label in dict(missing_blocks(study, labels))]
    due = [record for record in due if record.mechanism is not None and record.clipping_norm is not None]
    private = [record for record in due if record.label != "clip"]
    for record in private or due:
        assert record.mechanism is not None
        config = study.config()
        key = json.dumps([study.info["cohort"]["fingerprint"], to_dict(config.model), config.seed, record.mechanism])
        path = study.path / "arms" / record.label / "preflight.json"
        if key not in _passed:
            report = check_training(config, study.cohort(), Mechanism(**record.mechanism))
            report.check()
            _passed[key] = report.to_dict()
            log.info("Arm %s: preflight passed (%.1f s).", record.label, report.seconds)
        write_json(path, _passed[key])


def verify_private_arms(study: StudyFolder, labels: list[str]) -> None:
    """Compare what all models did with what is accounted; raises PrivacyError, and no epsilon is reported."""
    reasons = []
    streams: list[dict[str, Any]] = []
    for label in labels:
        record = study.arm(label)
        if record.mechanism is not None and record.clipping_norm is not None:
            ledgers = study.ledgers(label)
            streams += ledgers
            found = void_reasons(Mechanism(**record.mechanism), record.epsilon, ledgers)
            reasons += [f"Arm {label}: {reason}" for reason in found]
    if not reasons and shared_noise(streams):
        reasons.append(f"The arms {', '.join(labels)} share noise streams: their models are not independent releases.")
    if reasons:
        raise PrivacyError(["What ran is not what is accounted; there is no epsilon.", *reasons])


def nominal_units(config: Config) -> float:
    """Public number of units that a fleet's model trains on: half of the patients (membership is a fair coin)."""
    return units_of_patients(config, nominal_train_patients(config.data) / 2)


def units_of_patients(config: Config, num_patients: float) -> float:
    """Public number of units of so many patients; the records per patient come from the configuration."""
    return num_patients * (1.0 if config.privacy.unit == "patient" else config.data.records_per_patient)


def _arm_record(
    config: Config, arm: Arm, mechanism: Mechanism | None, accounting: dict[str, Any] | None, parameters: int
) -> ArmRecord:
    clipped = arm.kind in ("clip", "private")
    return ArmRecord(
        label=arm.label,
        target_epsilon=arm.target_epsilon,
        epsilon=None if accounting is None else float(accounting["epsilon"]),
        delta=None if accounting is None else config.privacy.delta,
        noise_multiplier=mechanism.noise_multiplier if mechanism is not None and clipped else None,
        sampling_rate=None if mechanism is None else mechanism.sampling_rate,
        num_steps=config.training.num_steps if mechanism is None else mechanism.num_steps,
        clipping_norm=mechanism.clipping_norm if mechanism is not None and clipped else None,
        unit=config.privacy.unit,
        num_parameters=parameters,
        accounting=accounting,
        mechanism=None if mechanism is None else mechanism.to_dict(),
    )


def missing_blocks(study: StudyFolder, labels: list[str]) -> list[tuple[str, int]]:
    """Blocks that are not finished, arm by arm; damaged ones are set aside and count as missing."""
    missing = []
    for label in labels:
        finished = set(study.finished_blocks(label))
        finished -= {index for index in finished if set_aside_if_damaged(study.path, label, index)}
        missing += [(label, index) for index in range(study.num_blocks) if index not in finished]
    return missing


def train_missing(study: StudyFolder, labels: list[str], num_workers: int) -> None:
    """Train every missing block of the arms; returns when all are finished, here or by another process."""
    missing = missing_blocks(study, labels)
    total = sum(len(block_models(index, study.num_models, study.block_size)) for _, index in missing)
    if not missing:
        log.info("All %d models of %s are there already.", study.num_models * len(labels), ", ".join(labels))
        return
    log.info("Training %d models: %s; %d per arm.", total, ", ".join(dict(missing)), study.num_models)
    progress = Progress(total, "models")
    try:
        num_workers = min(num_workers, len(missing))
        train = _train_here if num_workers == 1 else functools.partial(_train_in_pool, num_workers=num_workers)
        while missing:
            left = train(study.path, missing, progress.update, study)
            missing = [task for task in left if not block_path(study.path, *task).exists()]
            if missing:
                time.sleep(POLL_S)
    finally:
        progress.close()


def _train_here(
    path: Path, tasks: list[tuple[str, int]], done: Callable[[int, str], None], study: StudyFolder
) -> list[tuple[str, int]]:
    worker = Worker(path)
    return [task for task in tasks if not _report(worker.train(*task), task, done, study)]


def _train_in_pool(
    path: Path, tasks: list[tuple[str, int]], done: Callable[[int, str], None], study: StudyFolder, num_workers: int
) -> list[tuple[str, int]]:
    left = []
    torch.set_num_threads(1)
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, multiprocessing.get_context(START_METHOD), _start_worker, (str(path), os.getpid())
    )
    try:
        futures = {pool.submit(_train_in_worker, *task): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            if not _report(future.result(), futures[future], done, study):
                left.append(futures[future])
    except concurrent.futures.process.BrokenProcessPool as error:
        raise StudyError(
            "A worker process died (killed, or out of memory). Finished blocks are kept; run the same command again, "
            "with fleet.workers=1 if memory is short."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return left


def _report(trained: bool, task: tuple[str, int], done: Callable[[int, str], None], study: StudyFolder) -> bool:
    if trained:
        done(len(block_models(task[1], study.num_models, study.block_size)), task[0])
    return trained


class Worker:
    """Trains blocks of one study in this process with one thread."""

    def __init__(self, path: str | Path) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self._study = StudyFolder.open(path)
        self._config = self._study.config()
        self._data = FleetData.build(self._study.cohort(), self._config.privacy.unit)
        self._membership = self._study.membership()

    def train(self, label: str, index: int) -> bool:
        """Train and write one block; False if somebody else holds its claim."""
        with claim(self._study.path, label, index) as ours:
            if not ours:
                return False
            if block_path(self._study.path, label, index).exists():
                return True
            record = self._study.arm(label)
            mechanism = None if record.mechanism is None else Mechanism(**record.mechanism)
            results = [
                train_fleet_model(
                    self._config, self._data, arm_from_label(label), mechanism, model, self._membership[model]
                )
                for model in block_models(index, self._study.num_models, self._study.block_size)
            ]
            write_block(self._study.path, label, index, results)
            return True


_worker: Worker | None = None


def _start_worker(path: str, parent: int) -> None:
    global _worker
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    _worker = Worker(path)


def _die_with_parent(parent: int) -> None:
    """A killed run must not leave workers behind that hold claims."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)


def _train_in_worker(label: str, index: int) -> bool:
    assert _worker is not None
    return _worker.train(label, index)
