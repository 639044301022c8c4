"""EMBED's findings, one row each, and its exams, put beside image files without doubling a file.

A finding belongs to the images of its exam on its side: L or R; B or blank is both (README of EMBED Open Data, section
VIII). An exam has as many rows as findings, and an image must stay one record, so findings are first put together to
one row per exam and side.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dptrain.cohorts.layout_tables import lookup

EXAM = ["empi_anon", "acc_anon"]
BOTH = ("L", "R")
BIRADS = ("N", "B", "P", "A", "S", "M", "K")
"""`asses` by how much it asks for: 1 negative, 2 benign, 3 probably benign, 0 additional evaluation, 4 suspicious,
5 highly suggestive of malignancy, 6 known cancer."""
DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D"}
"""`tissueden` and its BI-RADS letter; 5 is a normal male breast."""
EXAM_COLUMNS = ("desc", "tissueden", "RACE_DESC", "ETHNIC_GROUP_DESC", "age_at_study")


def exam_rows(files: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """What is the same for all findings of an exam, beside each file; '' where there is none.

    Of findings that disagree the first that says something counts, for `tissueden` the highest.
    """
    columns = [name for name in EXAM_COLUMNS if name in findings]
    exams = findings[[*EXAM, *columns]].replace("", None)
    first = exams.groupby(EXAM, sort=False)[columns].first()
    first["tissueden"] = exams.groupby(EXAM, sort=False)["tissueden"].max()
    return lookup(files, EXAM, first.reset_index().fillna(""), "the clinical table")


def worst_assessment(files: pd.DataFrame, findings: pd.DataFrame) -> pd.Series:
    """(N,) the letter of BIRADS that asks for most among the findings of each image's exam and side; '' without one."""
    known = findings[findings["asses"].str.upper().isin(BIRADS)]
    sided = _by_side(known, known["side"])
    rank = sided["asses"].str.upper().map({letter: place for place, letter in enumerate(BIRADS)})
    worst = sided.assign(rank=rank).groupby([*EXAM, "side"], sort=False)["rank"].max().reset_index()
    found = _lookup_side(files, worst.assign(asses=[BIRADS[place] for place in worst.pop("rank")]))
    return found["asses"]


def has_pathology(files: pd.DataFrame, findings: pd.DataFrame, severities: Sequence[str]) -> pd.DataFrame:
    """(N,) `found`: whether there is any pathology result for each image's exam and side; `positive`: one of these.

    The side of a result is `bside`, where that is blank the side of its finding.
    """
    known = findings[findings["path_severity"] != ""]
    side = known["bside"].where(known["bside"].str.upper().isin(BOTH), known["side"])
    sided = _by_side(known, side)
    positive = sided["path_severity"].isin(severities)
    any_positive = sided.assign(positive=positive).groupby([*EXAM, "side"], sort=False)["positive"].any()
    found = _lookup_side(files, any_positive.reset_index())
    return pd.DataFrame({"found": found["found"], "positive": found["positive"].eq(True)})


def _by_side(findings: pd.DataFrame, side: pd.Series) -> pd.DataFrame:
    """Findings with the side L or R; those of both breasts stand there twice."""
    side = side.str.upper()
    return pd.concat([
        findings[side.eq(one) | ~side.isin(BOTH)].assign(side=one) for one in BOTH
    ], ignore_index=True)  # fmt: skip


def _lookup_side(files: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    table = files[EXAM].assign(side=files["ImageLateralityFinal"].str.upper())
    return lookup(table, [*EXAM, "side"], rows, "the clinical table")
