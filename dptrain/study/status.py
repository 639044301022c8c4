"""What a study has and what it lacks, as text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dptrain.study.arm_record import REFUTED
from dptrain.study.blocks import claim_base
from dptrain.study.claims import Watch, newest_claim, owner_words
from dptrain.study.folder import StudyFolder


def status_text(path: Path) -> str:
    """One line per arm: models done, epsilon spent, what is missing; then who is at work, on whatever machine."""
    study = StudyFolder.open(path)
    cohort = study.info["cohort"]
    simulated = " (SIMULATED data)" if cohort["simulated"] else ""
    width = max([12, *(len(label) + 2 for label in study.arm_labels())])
    asked = study.growth()
    so_far = "" if asked is None else f", so far: {asked['headline']} to {asked['headline_width']:g} was asked for"
    lines = [
        f"study   {study.info['name']} ({study.path})",
        f"cohort  {cohort['name']}{simulated}: {cohort['num_patients']} patients, {cohort['num_records']} records, "
        f"{cohort['num_train_patients']} patients to train on",
        f"models  {study.num_models} per arm in blocks of {study.block_size}{so_far}",
        "",
        f"{'arm':<{width}}{'models done':>12}{'epsilon':>12}  state",
    ]
    for label in study.arm_labels():
        arm = study.arm(label)
        done = sum(len(study.models(label, index)) for index in study.finished_blocks(label))
        epsilon = "-" if arm.epsilon is None else f"{arm.epsilon:.3g}"
        state = "complete" if study.is_complete(label) else f"{study.num_models - done} models missing"
        if (path / "arms" / label / REFUTED).exists():
            epsilon, state = "refuted", f"its guarantee does not hold: arms/{label}/{REFUTED} says why"
        lines.append(f"{label:<{width}}{done:>12}{epsilon:>12}  {state}")
    if not study.arm_labels():
        lines.append("no arm was begun; run the study's command again")
    at_work = blocks_at_work(study)
    if at_work:
        lines += ["", *(f"{owner} trains a block of {label}" for label, owner in at_work)]
    elif any(not study.is_complete(label) for label in study.arm_labels()):
        lines += ["", "nobody trains; run the study's command again to go on"]
    return "\n".join(lines)


def blocks_at_work(study: StudyFolder) -> list[tuple[str, str]]:
    """(arm, owner) of every claim on a missing block that is not known to be of a dead process."""
    found: Counter[tuple[str, str]] = Counter()
    for label in study.arm_labels():
        finished = set(study.finished_blocks(label))
        for index in study.blocks(label):
            newest = None if index in finished else newest_claim(claim_base(study.path, label, index))
            if newest is not None and not Watch().is_stale(newest[1]):
                found[label, owner_words(newest[1])] += 1
    return sorted(found)
