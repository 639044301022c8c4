"""`dptrain report STUDY`: write again what follows from a study's folder, with pages for the house and for release."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dptrain.arguments import ArgumentParser
from dptrain.report.bundle import FOLDER as RELEASE
from dptrain.report.policy import load_policy
from dptrain.report.suppression import Rule
from dptrain.report.write import PAGES, write_report


def answer(arguments: Sequence[str]) -> str:
    """Where the pages lie. Raises as `write_report`."""
    parser = ArgumentParser("dptrain report", "Redraw everything from a study's folder, with pages for the house "
                            "(report/) and, under disclosure control, for release (release/).")  # fmt: skip
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument(
        "--min-count", type=int, default=Rule().min_count, metavar="N", help="fewest patients that a release may show"
    )
    parser.add_argument("--show-zero", action="store_true", help="a release may say that there is no such patient")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key of the pseudonyms, if not the house's")
    parser.add_argument("--policy", help="also say which epsilon meets this policy: strict, research, none, or a file")
    given = parser.parse_args(list(arguments))
    rule = Rule(given.min_count, zero_is_small=not given.show_zero)
    policy = None if given.policy is None else load_policy(given.policy)
    write_report(given.study, pages=True, key_file=given.key, rule=rule, policy=policy)
    return f"{given.study / PAGES}\n{given.study / RELEASE}"
