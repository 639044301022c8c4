"""`dptrain report STUDY`: write again what follows from a study's folder, with pages for the house and for release.

`dptrain report STUDY STUDY ...` compares studies and writes nothing into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dptrain.arguments import ArgumentParser
from dptrain.errors import StudyError
from dptrain.report.bundle import FOLDER as RELEASE
from dptrain.report.policy import load_policy
from dptrain.report.sacro import write_sacro
from dptrain.report.suppression import Rule
from dptrain.report.write import PAGES, write_comparison, write_report


def answer(arguments: Sequence[str]) -> str:
    """Where the pages lie. Raises as `write_report`."""
    parser = ArgumentParser("dptrain report", "Redraw everything from a study's folder, with pages for the house "
                            "(report/) and, under disclosure control, for release (release/).")  # fmt: skip
    parser.add_argument(
        "study", type=Path, nargs="+", help="the study's folder; two or more are compared and nothing in them changes"
    )
    parser.add_argument(
        "--min-count", type=int, default=Rule().min_count, metavar="N", help="fewest patients that a release may show"
    )
    parser.add_argument("--show-zero", action="store_true", help="a release may say that there is no such patient")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key of the pseudonyms, if not the house's")
    parser.add_argument("--policy", help="also say which epsilon meets this policy: strict, research, none, or a file")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where a comparison is written; comparison/ if not given"
    )
    parser.add_argument(
        "--format", choices=("pages", "sacro"), default="pages", help="pages; or attack reports as SACRO-ML reads them"
    )
    given = parser.parse_args(list(arguments))
    if given.format == "sacro":
        return "\n".join(str(write_sacro(study)) for study in given.study)
    if len(given.study) > 1:
        return str(write_comparison(given.study, given.out or Path("comparison")))
    if given.out is not None:
        raise StudyError("--out is for comparisons: a study's own report lies in the study.")
    (study,) = given.study
    rule = Rule(given.min_count, zero_is_small=not given.show_zero)
    policy = None if given.policy is None else load_policy(given.policy)
    write_report(study, pages=True, key_file=given.key, rule=rule, policy=policy)
    return f"{study / PAGES}\n{study / RELEASE}"
