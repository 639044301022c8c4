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

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import nominal_train_patients
from dptrain.config import Config, ModelConfig, to_dict
from dptrain.errors import PrivacyError, StudyError
from dptrain.models.registry import build_model, num_parameters
from dptrain.privacy.accounting import epsilon_spent
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.patient_level import cohort_patient_level
from dptrain.privacy.verify import void_reasons
from dptrain.progress import Progress
from dptrain.seeding import stream_seed
from dptrain.study.atomic import write_array, write_json
from dptrain.study.blocks import block_path, claim, set_aside_if_damaged, write_block
from dptrain.study.folder import BASELINE, ArmRecord, StudyFolder
from dptrain.training.allocator import keep_freed_memory
from dptrain.training.arms import Arm, arm_from_label, arms_of_run, build_mechanism
from dptrain.training.augment import check_operations
from dptrain.training.check import check_delta, check_training
from dptrain.training.fleet import FleetData, train_fleet_block
from dptrain.training.loop import evaluation_steps
from dptrain.training.prepare import prepared_cohort

POLL_S = 0.5
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Forked workers share the libraries that this process has loaded (importing torch takes seconds and 200 MB each). Safe
here because this process runs torch with one thread and starts no thread of its own before the pool."""
log = logging.getLogger(__name__)


def prepare_study(config: Config) -> StudyFolder:
    """Read the cohort, check it against the configuration, and create or open the study's folder."""
    cohort = prepared_cohort(config)
    for warning in cohort.warnings:
        log.warning("%s: %s", cohort.name, warning)
    check_delta(config.privacy.delta, len(cohort.train_patients))
    for where, recipe in (("training", config.training), ("training.private", config.training.private)):
        check_operations(recipe.augment, tuple(cohort.features.shape[1:]), f"{where}.augment")
    return StudyFolder.create_or_open(config.study.dir, config, cohort)


def run_study(config: Config) -> StudyFolder:
    """Bring the study to where every arm that this run asks for is complete."""
    study = prepare_study(config)
    labels = []
    for arm in arms_of_run(config.privacy):
        labels.append(begin_arm(study, arm).label)
        if config.baseline.num_models and arm.kind in ("none", "private"):
            labels.append(begin_arm(study, arm, is_baseline=True).label)
    check_private_arms(study, labels)
    train_missing(study, labels, config.fleet.workers or num_cores())
    verify_private_arms(study, labels)
    return study


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin_arm(study: StudyFolder, arm: Arm, is_baseline: bool = False) -> ArmRecord:
    """Write down the mechanism and accounting of an arm, or of the baseline beside it, once; later runs read it."""
    label = f"{BASELINE if is_baseline else ''}{arm.label}"
    path = study.arm_path(label)
    if path.exists():
        return study.arm(label)
    config, cohort = config_of(study.config(), label), study.cohort()
    mechanism, accounting = build_mechanism(config, arm, nominal_units(config))
    model = build_model(config.model, tuple(cohort.features.shape[1:]), cohort.num_outputs)
    record = dataclasses.replace(
        _arm_record(config, arm, mechanism, accounting, num_parameters(model), cohort), label=label
    )
    if mechanism is not None and arm.kind == "private" and not is_baseline:
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
        if record.patient_level is not None:
            log.info(
                "Arm %s protects single records. The patient with the most records (%s) has epsilon %.4g.",
                arm.label,
                record.patient_level["records"]["max"],
                record.patient_level["epsilon"]["max"],
            )
    write_json(path, dataclasses.asdict(record))
    return record


def config_of(config: Config, label: str) -> Config:
    """The configuration of an arm's models, or of the baseline beside it: logistic regression with its own recipe, in a
    seed tree of its own, so that it shares no noise with the arm."""
    if not label.startswith(BASELINE):
        return config
    return dataclasses.replace(
        config,
        model=ModelConfig("linear"),
        training=dataclasses.replace(config.training, private=config.baseline.recipe),
        seed=stream_seed(config.seed, "baseline"),
    )


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
        config = config_of(study.config(), record.label)
        key = json.dumps([study.info["cohort"]["fingerprint"], to_dict(config.model), config.seed, record.mechanism])
        arm = study.arm_path(record.label)
        path = arm.with_name("preflight.json" if arm.stem == "arm" else f"preflight_{arm.stem}.json")
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
    others = [label for label in study.arm_labels() if label not in labels and study.is_complete(label)]
    for label in [*labels, *others]:
        record = study.arm(label)
        if record.mechanism is not None and record.clipping_norm is not None:
            ledgers = study.ledgers(label)
            streams += ledgers
            if label in others:
                continue
            found = void_reasons(Mechanism(**record.mechanism), record.epsilon, ledgers)
            reasons += [f"Arm {label}: {reason}" for reason in found]
    if not reasons and shared_noise(streams):
        names = ", ".join([*labels, *others])
        reasons.append(f"Some of the arms {names} share noise streams: their models are not independent releases.")
    if reasons:
        raise PrivacyError(["What ran is not what is accounted; there is no epsilon.", *reasons])


def nominal_units(config: Config) -> float:
    """Public number of units that a fleet's model trains on: half of the patients (membership is a fair coin)."""
    return units_of_patients(config, nominal_train_patients(config.data) / 2)


def units_of_patients(config: Config, num_patients: float) -> float:
    """Public number of units of so many patients; the records per patient come from the configuration."""
    return num_patients * (1.0 if config.privacy.unit == "patient" else config.data.records_per_patient)


def _arm_record(
    config: Config,
    arm: Arm,
    mechanism: Mechanism | None,
    accounting: dict[str, Any] | None,
    parameters: int,
    cohort: Cohort,
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
        patient_level=None if mechanism is None or arm.kind != "private" else patient_level(cohort, mechanism),
    )


def patient_level(cohort: Cohort, mechanism: Mechanism) -> dict[str, Any] | None:
    """With records as the unit: what epsilon is for patients with all their records, at the median, the 90th and 99th
    percentile and the maximum of records per training patient. None for patients as the unit, and where the accountant
    has no number."""
    if mechanism.unit != "record":
        return None
    counts = np.bincount(cohort.patient, minlength=cohort.num_patients)[cohort.train_patients]
    parameters = (mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.num_steps, mechanism.delta)
    try:
        found = cohort_patient_level(counts.tolist(), *parameters)
    except (ValueError, ArithmeticError, MemoryError) as error:
        log.warning("No epsilon of patients with all their records: %s", error)
        return None
    return {"records": found.records_quantiles, "epsilon": found.epsilon_quantiles}


def missing_blocks(study: StudyFolder, labels: list[str]) -> list[tuple[str, int]]:
    """Blocks that are not finished, arm by arm; damaged ones are set aside and count as missing."""
    missing = []
    for label in labels:
        finished = set(study.finished_blocks(label))
        finished -= {index for index in finished if set_aside_if_damaged(study.path, label, index)}
        missing += [(label, index) for index in study.blocks(label) if index not in finished]
    return missing


def train_missing(study: StudyFolder, labels: list[str], num_workers: int) -> None:
    """Train every missing block of the arms; returns when all are finished, here or by another process."""
    missing = missing_blocks(study, labels)
    total = sum(len(study.models(label, index)) for label, index in missing)
    arms = [label for label in labels if not label.startswith(BASELINE)]
    if not missing:
        log.info("All %d models of %s are there already.", study.num_models * len(arms), ", ".join(arms))
        return
    names = [label for label in dict(missing) if not label.startswith(BASELINE)]
    beside = sum(len(study.models(label, index)) for label, index in missing if label.startswith(BASELINE))
    log.info(
        "Training %d models: %s, %d per arm%s.",
        total - beside,
        ", ".join(names) or "no arm",
        study.num_models,
        f"; and {beside} logistic regressions to compare with" if beside else "",
    )
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
        done(len(study.models(*task)), task[0])
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
            config, arm = config_of(self._config, label), arm_from_label(label.removeprefix(BASELINE))
            models = self._study.models(label, index)
            members = self._membership[models.start : models.stop]
            results = train_fleet_block(config, self._data, arm, mechanism, models, members)
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
