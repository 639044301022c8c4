"""`dptrain report STUDY`: write again what follows from a study's folder, with pages for the house and for release."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dptrain.errors import StudyError
from dptrain.report.bundle import FOLDER as RELEASE
from dptrain.report.suppression import Rule
from dptrain.report.write import PAGES, write_report

USAGE = "dptrain report STUDY [--min-count N] [--show-zero] [--key FILE]"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """As every other command: one sentence, no traceback."""
        raise StudyError(f"{message}. dptrain report takes one study folder: {USAGE}")


def answer(arguments: Sequence[str]) -> str:
    """Where the pages lie. Raises as `write_report`."""
    parser = _Parser(prog="dptrain report", add_help=False)
    parser.add_argument("study", type=Path)
    parser.add_argument("--min-count", type=int, default=Rule().min_count)
    parser.add_argument("--show-zero", action="store_true")
    parser.add_argument("--key", type=Path)
    given = parser.parse_args(list(arguments))
    rule = Rule(given.min_count, zero_is_small=not given.show_zero)
    write_report(given.study, pages=True, key_file=given.key, rule=rule)
    return f"{given.study / PAGES}\n{given.study / RELEASE}"
