"""The restricted bundle: risk patient by patient under pseudonyms, and the note that says who may see it.

Rows are sorted by pseudonym, so their order tells nothing. Groups and risks of single patients can still be recognised
by somebody who knows the patient: pseudonymous is not anonymous.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.report.csv_text import csv_table
from dptrain.report.pseudonyms import KEY_VARIABLE, Pseudonyms, study_pseudonyms
from dptrain.report.results import StudyResult
from dptrain.report.tradeoff import DECIMALS
from dptrain.study.atomic import write_text

FOLDER = "restricted"
TABLE = "patient_risk.csv"
NOTE = "README.md"
log = logging.getLogger(__name__)


def write_restricted(path: Path, result: StudyResult, domain: str, key_file: Path | None = None) -> None:
    """Write table and note into `path`/restricted, readable by the owner only.

    If the key that the study's pseudonyms were made with is not on this machine, the table is left as it is.
    Raises StudyError as `study_pseudonyms`.
    """
    pseudonyms = study_pseudonyms(path, domain, key_file)
    write_text(path / FOLDER / NOTE, NOTE_TEXT)
    if pseudonyms is None:
        log.warning(
            "%s is left as it is: the key of its pseudonyms is not on this machine. Name it with --key or %s.",
            path / FOLDER / TABLE,
            KEY_VARIABLE,
        )
        return
    write_text(path / FOLDER / TABLE, patient_risk_csv(result, pseudonyms))


def patient_risk_csv(result: StudyResult, pseudonyms: Pseudonyms) -> str:
    """RESTRICTED. One row per patient of the training pool: pseudonym, groups, and both AUCs in every arm."""
    names = [pseudonyms.of(patient) for patient in result.patient_ids.tolist()]
    columns: dict[str, Sequence[Any]] = {"pseudonym": names}
    columns |= {f"group_{name}": values.tolist() for name, values in sorted(result.groups.items())}
    for arm in result.arms:
        columns[f"patient_auc_{arm.label}"] = _rounded(arm.risk.patient_auc)
        columns[f"patient_attack_auc_{arm.label}"] = _rounded(arm.risk.patient_attack_auc)
    return csv_table(list(columns), sorted(zip(*columns.values(), strict=True), key=lambda row: str(row[0])))


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    """To the decimals of every other table; None where it could not be estimated."""
    return [round(value, DECIMALS) + 0.0 if math.isfinite(value) else None for value in values.tolist()]


def rows_of(path: Path, pseudonyms: Sequence[str]) -> tuple[list[str], list[list[str] | None]]:
    """(header, for each pseudonym its row of the table in `path`/restricted or None)."""
    with io.StringIO((path / FOLDER / TABLE).read_text()) as stream:
        header, *rows = list(csv.reader(stream))
    found = {row[0]: row for row in rows}
    return header, [found.get(name) for name in pseudonyms]


NOTE_TEXT = f"""# Restricted: about single patients

Nothing in this folder may leave the house or be shown to anybody who may not see the patients' records. All files are
readable by their owner only (mode 0600); keep it so when you copy them.

- `{TABLE}`: one row per training patient with pseudonym, groups and risk in every arm. For whoever examines why
  patients are recognised, with leave of those who answer for the data.
- `pseudonyms.json`: where the key of the pseudonyms lay, and a check value; not the key.
- `cohort/`, `membership.npy`, `blocks/`: the patients' records **with their identifiers**, who was in which model, what
  every model answers on every record. For nobody but the study itself.

A pseudonym is a keyed hash (HMAC-SHA256) of the patient's identifier, other in every study. The key lies outside the
study; whoever holds it finds a patient with `dptrain patient STUDY`, which reads identifiers from standard input.
The table is pseudonymous, not anonymous: rare groups and risks can be recognised by somebody who knows the patient.
Hand on `{TABLE}` alone, never the folder, and never together with the key.

What may be handed out is in `release/`, beside this folder.
"""
