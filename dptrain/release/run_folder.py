"""The folder of a release and its entry in the list of releases: whose it is, and whether a run may go on in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

from dptrain import __version__
from dptrain.errors import StudyError
from dptrain.release import history
from dptrain.release.journal import last_begun
from dptrain.release.plan import Plan
from dptrain.study.atomic import make_folder, probe_folder, write_json
from dptrain.study.frozen import difference, freeze

OWN_ENTRIES = {
    "model.safetensors", "model.json", "model_card.md", "model_card.json", "statement.md", "statement.json",
    "restricted"
}  # fmt: skip


def check_folder(plan: Plan) -> None:
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
def locked(plan: Plan) -> Iterator[None]:
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


def open_run(plan: Plan) -> str:
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
