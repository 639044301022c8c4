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

import logging
from dataclasses import dataclass
from typing import Any

from torch import nn

from dptrain.privacy.verify import void_reasons
from dptrain.release.canaries import canary_coins, held_against_claim
from dptrain.release.plan import Plan, untrained
from dptrain.release.run import Run
from dptrain.release.run_folder import check_folder, locked, open_run
from dptrain.study.atomic import write_json
from dptrain.training.check import check_training

log = logging.getLogger(__name__)


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


def train_release(plan: Plan) -> Trained | None:
    """Train what the plan says, or go on with it; None if the folder holds the finished release.

    Raises PrivacyError if the preflight fails (nothing is trained), StudyError for folders that cannot be used or
    continued.
    """
    check_folder(plan)
    with locked(plan):
        if (plan.folder / "statement.json").exists():
            log.info("The release in %s is finished; nothing was trained.", plan.folder)
            return None
        report = check_training(plan.config, plan.cohort, plan.mechanism, plan.patients)
        report.check()
        log.info("Preflight passed (%.1f s).", report.seconds)
        coins = canary_coins(plan.restricted, plan.cohort.num_canaries)
        run_id = open_run(plan)
        trained = Run(plan, coins).train()
        epsilon = float(plan.accounting["epsilon"])
        found = trained.findings + void_reasons(plan.mechanism, epsilon, [trained.ledger])
        write_json(plan.restricted / "ledger.json", trained.ledger)
        lower_bound = None
        if plan.cohort.num_canaries:
            lower_bound, objection = held_against_claim(
                trained.model, untrained(plan), plan.cohort, coins, epsilon, plan.mechanism.delta
            )
            found += [] if objection is None else [objection]
        return Trained(trained.model, trained.ledger, run_id, report.to_dict(), tuple(found), lower_bound)
