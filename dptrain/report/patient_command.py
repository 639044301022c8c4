"""`dptrain patient STUDY [ID ...] [--key FILE]`: the rows of the restricted table for patients that one knows by name.

For who holds the key of the pseudonyms. Identifiers are best given on standard input, one a line: what stands on a
command line stays in the shell's history. They are never printed, neither in the answer nor in an error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from dptrain.arguments import ArgumentParser
from dptrain.errors import ConfigError, StudyError
from dptrain.report.csv_text import csv_table
from dptrain.report.pseudonyms import KEY_VARIABLE, study_domain, study_pseudonyms
from dptrain.report.restricted import FOLDER, TABLE, rows_of
from dptrain.study.folder import StudyFolder


class _SilentParser(ArgumentParser):
    """The usual one quotes what it does not understand, which may be an identifier."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError("dptrain patient STUDY [ID ...] [--key FILE]; without ID they are read from standard input.")


def answer(arguments: Sequence[str], stream: TextIO | None = None) -> str:
    """CSV: a header and one row per identifier, in the order given.

    Raises, without naming anybody, StudyError if the study, its table or its key is missing or patients are unknown,
    and ConfigError for other arguments.
    """
    parser = _SilentParser("dptrain patient", "Rows of the restricted table for patients known by their identifiers.")
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("ids", nargs="*", metavar="ID", help="better on standard input, one a line")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key of the pseudonyms, if not the house's")
    given = parser.parse_args(list(arguments))
    study = StudyFolder.open(given.study)
    if not (study.path / FOLDER / TABLE).exists():
        raise StudyError(f"{study.path} has no {FOLDER}/{TABLE} yet; dptrain report {study.path} writes it.")
    pseudonyms = study_pseudonyms(study.path, study_domain(study.info), given.key)
    if pseudonyms is None:
        raise StudyError(f"The key of this study's pseudonyms is not here. Name it with --key FILE or {KEY_VARIABLE}.")
    source = stream or sys.stdin
    ids = given.ids or [line.strip() for line in source if line.strip()]
    header, rows = rows_of(study.path, [pseudonyms.of(one) for one in ids])
    unknown = [place for place, row in enumerate(rows, 1) if row is None]
    if unknown:
        raise StudyError(
            f"Not in the table: identifier number {', '.join(map(str, unknown[:10]))} of {len(ids)}. It has the "
            "training patients only, under their identifiers as the data set spells them; or the study was reported "
            "by an older version: run dptrain report again."
        )
    return csv_table(header, [row for row in rows if row is not None])
