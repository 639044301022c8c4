"""Run a study: whatever models an arm still lacks are trained, block by block, on all cores (`workers.py`).

The same call continues a killed study and does nothing for a finished one. Several processes may run the same study at
the same time; claims keep them from doing the same block.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import nominal_train_patients
from dptrain.config import Config, to_dict
from dptrain.errors import ConfigError, PrivacyError
from dptrain.models.registry import build_model, num_parameters
from dptrain.privacy.accounting import epsilon_spent
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.patient_level import cohort_patient_level
from dptrain.privacy.verify import void_reasons
from dptrain.study import growth
from dptrain.study.arm_record import BASELINE, ArmRecord, config_of
from dptrain.study.atomic import write_array, write_json
from dptrain.study.blocks import block_path, is_sound
from dptrain.study.folder import StudyFolder
from dptrain.study.workers import remove_dead_claims, train_blocks
from dptrain.training.arms import Arm, arm_from_label, arms_of_run, build_mechanism
from dptrain.training.augment import check_operations
from dptrain.training.check import check_delta, check_training
from dptrain.training.engines import choose_engine, say_fallback
from dptrain.training.loop import evaluation_steps
from dptrain.training.prepare import prepared_cohort

log = logging.getLogger(__name__)


def prepare_study(config: Config) -> StudyFolder:
    """Read the cohort, check it against the configuration, and create or open the study's folder."""
    cohort = prepared_cohort(config)
    for warning in cohort.warnings:
        log.warning("%s: %s", cohort.name, warning)
    check_delta(config.privacy.delta, len(cohort.train_patients) - cohort.num_canaries)
    for where, recipe in (("training", config.training), ("training.private", config.training.private)):
        check_operations(recipe.augment, tuple(cohort.features.shape[1:]), f"{where}.augment")
    return StudyFolder.create_or_open(config.study.dir, config, cohort)


Look = Callable[[StudyFolder, Sequence[str]], Mapping[str, float]]
"""(study, labels of complete arms) -> width of the chosen headline's interval in each; given by who judges a study."""


Announce = Callable[[StudyFolder, list[tuple[str, int]]], None]
"""(study, missing blocks): say what is to come, before the first model is trained."""


def run_study(config: Config, look: Look | None = None, announce: Announce | None = None) -> StudyFolder:
    """Bring the study to where every arm that this run asks for is complete, and, with `fleet.num_models=auto`, where
    `look` finds no interval wider than asked in any arm that was begun. `announce` is called once if models are
    missing."""
    study = prepare_study(config)
    labels = []
    for arm in arms_of_job(config):
        labels.append(begin_arm(study, arm).label)
        if config.baseline.num_models and arm.kind in ("none", "private"):
            labels.append(begin_arm(study, arm, is_baseline=True).label)
    missing = [] if announce is None else missing_blocks(study, labels)
    if announce is not None and missing:
        # What is to come is timed on a few real steps: not even these run before the preflight.
        check_private_arms(study, labels)
        announce(study, missing)
    while True:
        everyone = labels if not study.is_growing else [*labels, *others_begun(study, labels)]
        check_private_arms(study, everyone)
        train_missing(study, everyone, config.fleet.workers or num_cores())
        verify_private_arms(study, everyone)
        if look is None or not study.is_growing:
            return study
        arms = [label for label in everyone if not label.startswith(BASELINE)]
        seen = functools.partial(look, study, arms)
        if not growth.grow(study.path, seen, study.settings["fleet"], study.block_size, study.num_models):
            return StudyFolder.open(study.path)
        study = StudyFolder.open(study.path)


def others_begun(study: StudyFolder, labels: Sequence[str]) -> list[str]:
    """Arms that other runs began, and the baselines beside them: all arms of a study have the same number of models."""
    arms = study.arm_labels()
    beside = [f"{BASELINE}{label}" for label in arms if study.arm_path(f"{BASELINE}{label}").exists()]
    return [label for label in (*arms, *beside) if label not in labels]


def arms_of_job(config: Config) -> list[Arm]:
    """Arms that this run brings to completion. A shard is given those of the whole sweep and starts with another one
    than its neighbours; raises ConfigError if a label is none."""
    if not config.fleet.arms:
        return arms_of_run(config.privacy)
    try:
        arms = [arm_from_label(label) for label in config.fleet.arms]
    except ValueError as error:
        raise ConfigError(f"fleet.arms={list(config.fleet.arms)}: {error} Leave it out: shards fill it in.") from None
    first = config.fleet.shard * len(arms) // config.fleet.shards
    return arms[first:] + arms[:first]


def num_cores() -> int:
    """Cores that this process may use; a job of Slurm's keeps to what it was given, also where nothing enforces it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cores, int(given)) if given.isdigit() and int(given) else cores


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
        cohort = study.training_cohort()
        choice = choose_engine(config, tuple(cohort.features.shape[1:]), cohort.num_outputs, cohort.task)
        key = json.dumps(
            [study.info["cohort"]["fingerprint"], to_dict(config.model), config.seed, record.mechanism, choice.name]
        )
        arm = study.arm_path(record.label)
        path = arm.with_name("preflight.json" if arm.stem == "arm" else f"preflight_{arm.stem}.json")
        if key not in _passed:
            report = check_training(config, cohort, Mechanism(**record.mechanism), None, choice.probe)
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
    """Public number of units that a fleet's model trains on: half of the patients (membership is a fair coin) and half
    of the canaries, one record each."""
    return units_of_patients(config, nominal_train_patients(config.data) / 2) + config.audit.canaries / 2


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
    """Blocks that are not finished, arm by arm; damaged ones count as missing."""
    tasks = [(label, index) for label in labels for index in study.blocks(label)]
    return [task for task in tasks if not is_sound(study.path, *task)]


def train_missing(study: StudyFolder, labels: list[str], num_workers: int) -> None:
    """Train every missing block of the arms; returns when all are finished, here or by another process."""
    missing = missing_blocks(study, labels)
    total = sum(len(study.models(label, index)) for label, index in missing)
    arms = [label for label in labels if not label.startswith(BASELINE)]
    if not missing:
        remove_dead_claims(study, labels)
        log.info("All %d models of %s are there already.", study.num_models * len(arms), ", ".join(arms))
        return
    config, cohort = study.config(), study.training_cohort()
    say_fallback(config, choose_engine(config, tuple(cohort.features.shape[1:]), cohort.num_outputs, cohort.task))
    names = [label for label in dict(missing) if not label.startswith(BASELINE)]
    beside = sum(len(study.models(label, index)) for label, index in missing if label.startswith(BASELINE))
    log.info(
        "Training %d models: %s, %d per arm%s.",
        total - beside,
        ", ".join(names) or "no arm",
        study.num_models,
        f"; and {beside} logistic regressions to compare with" if beside else "",
    )
    for label, index in missing:
        if block_path(study.path, label, index).exists():
            log.warning("Block %d of arm %s was damaged on disk; it is trained anew.", index, label)
    train_blocks(study, missing, num_workers)
    remove_dead_claims(study, labels)
