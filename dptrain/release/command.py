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
from dptrain.errors import PrivacyError
from dptrain.models.registry import num_parameters
from dptrain.release import history
from dptrain.release.card_command import check_texts, write_card
from dptrain.release.model_file import write_model
from dptrain.release.performance import performance
from dptrain.release.plan import Plan, make_plan
from dptrain.release.run_folder import finish_run
from dptrain.release.statement import Facts, build_statement
from dptrain.release.study_figures import audit_of_study, released_figures
from dptrain.release.train import Trained, train_release
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
    check_texts(config.release.card, plan.cohort.patient_ids.tolist())
    audit = _audit(plan)
    figures = None
    if config.release.study is not None:
        figures = released_figures(Path(config.release.study), plan.arm.label)
    trained = train_release(plan)
    if trained is None:
        return _finished(plan)
    _write(plan, trained, audit, figures)
    return _finished(plan)


def _write(
    plan: Plan, trained: Trained, audit: dict[str, Any] | None, figures: dict[str, Any] | None
) -> None:
    """Everything of a release but the end of its entry in the list of releases."""
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
    if not trained.void:
        model = json.loads((plan.folder / "model.json").read_text())
        write_card(plan.folder, statement, model, config.release.card.given(), figures)
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
    facts = plan.arm.label, plan.cohort.fingerprint(), plan.mechanism.to_dict(), plan.config.model.name
    return audit_of_study(Path(plan.config.release.study), *facts)


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
