"""What a study measured about models like a release: checked to be about the same data, mechanism and network, and
after disclosure control, because a statement and a card are handed out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dptrain.errors import DataError, StudyError
from dptrain.release.card import figures_for_card
from dptrain.release.statement import audit_figures
from dptrain.report.analysis import analyse
from dptrain.report.build import document_of
from dptrain.report.disclosure import for_release
from dptrain.report.suppression import Rule
from dptrain.study.folder import StudyFolder


def audit_of_study(
    folder: Path, label: str, fingerprint: str, mechanism: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """Figures of the study's arm `label` for point 9 of the statement.

    Raises StudyError if there is no finished study, DataError if it is about other data (`fingerprint` of the cohort),
    another mechanism or another network.
    """
    try:
        outcome = json.loads((folder / "tradeoff.json").read_text())
        study = json.loads((folder / "study.json").read_text())
    except (OSError, ValueError) as error:
        raise StudyError(
            f"release.study={folder} has no readable tradeoff.json and study.json ({error}). Name the folder of a "
            "finished study, or leave release.study out."
        ) from error
    if study["cohort"]["fingerprint"] != fingerprint:
        raise DataError(f"release.study={folder} was made from other data than this release as they are read now.")
    figures = audit_figures(outcome, label)
    arm = next(arm for arm in outcome["arms"] if arm["label"] == label)
    differing = [
        f"{name}: the study has {arm[name]!r}, this release {mechanism[name]!r}"
        for name in ("noise_multiplier", "sampling_rate", "num_steps", "clipping_norm")
        if arm[name] != mechanism[name]
    ]
    if outcome["model"] != model:
        differing.append(f"model: the study has {outcome['model']!r}, this release {model!r}")
    if differing:
        raise DataError(
            [
                f"release.study={folder} measured another training than this one; its risks do not speak for it.",
                *(f"  {line}" for line in differing),
            ]
        )
    return figures


def released_figures(folder: Path, label: str) -> dict[str, Any]:
    """What a card takes from a study's report after disclosure control, for the arm `label`."""
    study = StudyFolder.open(folder)
    result = analyse(study, details=True)
    ledgers = {arm.label: study.ledgers(arm.label) for arm in study.arms() if arm.clipping_norm is not None}
    document = for_release(document_of(result, study.info, ledgers), Rule())
    return figures_for_card(document.to_dict(), label)
