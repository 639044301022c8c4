"""`dptrain train`: plan, train, state, write. What is written last is the statement: with it the release is whole."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dptrain.cohorts.registry import nominal_train_patients
from dptrain.config import Config
from dptrain.errors import DataError, PrivacyError, StudyError
from dptrain.models.registry import num_parameters
from dptrain.release import history
from dptrain.release.model_file import write_model
from dptrain.release.performance import performance
from dptrain.release.statement import Facts, audit_figures, build_statement
from dptrain.release.train import Plan, Trained, finish_run, make_plan, train_release
from dptrain.release.words import as_markdown
from dptrain.study.atomic import write_json, write_text
from dptrain.training.fleet import predict

log = logging.getLogger(__name__)


def train(config: Config) -> Path:
    """Train and write the release that the configuration describes; its folder.

    Raises PrivacyError after a training that is not the mechanism that was accounted: the statement then says so, has
    no epsilon, and no model is written.
    """
    plan = make_plan(config)
    audit = _audit(plan)
    trained = train_release(plan)
    if trained is None:
        return _finished(plan)
    _write(plan, trained, audit)
    return _finished(plan)


def _write(plan: Plan, trained: Trained, audit: dict[str, Any] | None) -> None:
    cohort, config = plan.cohort, plan.config
    utility = None
    if config.release.hold_out:
        utility = performance(cohort, predict(trained.model, torch.from_numpy(np.ascontiguousarray(cohort.features))))
    if not trained.void:
        write_model(plan.folder, config, cohort, trained.model)
    statement = build_statement(
        Facts(
            model=f"{config.model.name}, {num_parameters_of(trained):,} parameters",
            cohort=cohort.name,
            simulated=cohort.simulated,
            mechanism=plan.mechanism,
            nominal_patients=nominal_train_patients(config.data),
            hold_out=config.release.hold_out,
            averaged=bool(config.training.private.averaging),
            num_streams=len(trained.ledger["noise_stream"].split(",")),
            num_lost=int(trained.ledger["num_lost"]),
            outside=_outside(plan, audit),
            selection=config.release.selection,
            num_runs=config.release.num_runs,
            audit=audit,
            utility=utility,
            earlier=_earlier(plan, trained.run_id),
            preflight=trained.preflight,
            void=trained.void,
            lower_bound=trained.lower_bound,
        )
    )
    write_text(plan.folder / "statement.md", as_markdown(statement))
    write_json(plan.folder / "statement.json", statement)


def num_parameters_of(trained: Trained) -> int:
    """Trainable parameters; an average of weights has them frozen."""
    return num_parameters(trained.model) or sum(param.numel() for param in trained.model.parameters())


def _finished(plan: Plan) -> Path:
    """Close the books on a release whose statement is written; raises PrivacyError if it is void."""
    statement = json.loads((plan.folder / "statement.json").read_text())
    weights = plan.folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
    finish_run(plan, "void" if statement["void"] else "finished", digest)
    if statement["void"]:
        raise PrivacyError(
            [
                "What ran is not what is accounted; the model has no epsilon and was not written.",
                *statement["void"],
                f"{plan.folder / 'statement.md'} says the same. The patients' privacy was spent: the list of releases "
                "counts this run.",
            ]
        )
    return plan.folder


def _audit(plan: Plan) -> dict[str, Any] | None:
    """Figures of the study that was named, checked to be about this cohort, mechanism and network."""
    if plan.config.release.study is None:
        return None
    folder = Path(plan.config.release.study)
    try:
        outcome = json.loads((folder / "tradeoff.json").read_text())
        study = json.loads((folder / "study.json").read_text())
    except (OSError, ValueError) as error:
        raise StudyError(
            f"release.study={folder} has no readable tradeoff.json and study.json ({error}). Name the folder of a "
            "finished study, or leave release.study out."
        ) from error
    if study["cohort"]["fingerprint"] != plan.cohort.fingerprint():
        raise DataError(f"release.study={folder} was made from other data than {plan.cohort.name} as it is read now.")
    figures = audit_figures(outcome, plan.arm.label)
    arm = next(arm for arm in outcome["arms"] if arm["label"] == plan.arm.label)
    differing = [
        f"{name}: the study has {arm[name]!r}, this release {getattr(plan.mechanism, name)!r}"
        for name in ("noise_multiplier", "sampling_rate", "num_steps", "clipping_norm")
        if arm[name] != getattr(plan.mechanism, name)
    ]
    if outcome["model"] != plan.config.model.name:
        differing.append(f"model: the study has {outcome['model']!r}, this release {plan.config.model.name!r}")
    if differing:
        raise DataError(
            [
                f"release.study={folder} measured another training than this one; its risks do not speak for it.",
                *(f"  {line}" for line in differing),
            ]
        )
    return figures


def _earlier(plan: Plan, run_id: str) -> list[dict[str, Any]]:
    """Other runs of the list, oldest first, each with its last state."""
    digest = history.digest_of_patients(plan.cohort.patient_ids[plan.patients].tolist())
    runs: dict[str, dict[str, Any]] = {}
    for line in history.read(plan.history):
        if line["run"] != run_id:
            state = {"finished": "finished", "void": "without a guarantee"}.get(line["event"], "begun, not finished")
            runs[line["run"]] = {**line, "state": state, "same_patients": line["patients"] == digest}
    return list(runs.values())


def _outside(plan: Plan, audit: dict[str, Any] | None) -> tuple[str, ...]:
    sentences = [
        *plan.cohort.outside_dp,
        "The recipe (network, steps, sampling rate, learning rate, clipping norm) was chosen by people; as far as they "
        "looked at results on these patients, point 8 is where that must be declared.",
    ]
    if plan.config.release.hold_out:
        sentences.append("Performance in point 10 was measured on test patients; it is about them and not private.")
    if audit is not None:
        sentences.append(
            "The audit in point 9 trained other models on the same patients, with and without privacy. They stay where "
            "they are; the few figures taken from them are not private."
        )
    if plan.cohort.num_canaries:
        sentences.append(
            f"{plan.cohort.num_canaries} canaries, public constants and no patients, were planted, each in the "
            "training by a coin of its own. What their coins tell about the noise is in point 9."
        )
    if plan.cohort.simulated:
        sentences.append("The patients are simulated.")
    return tuple(sentences)
