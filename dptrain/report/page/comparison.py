"""The pages of a comparison of studies: one chart, tables, what differs."""

from __future__ import annotations

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dptrain.report.charts import Look, looks
from dptrain.report.compare import Comparison, PairedArm
from dptrain.report.document import Arm, Document
from dptrain.report.page.finding import at_least, within_chance
from dptrain.report.page.markdown import escaped, section_lines
from dptrain.report.page.numbers import count, epsilon, figure, percent
from dptrain.report.page.render import environment
from dptrain.report.page.scene import NARROW, WIDE, Drawn
from dptrain.report.page.sections import Section
from dptrain.report.page.svg import BAND, GRID, PAPER, QUIET, STYLE, arm_color, arm_variables, new_figure, to_svg
from dptrain.report.page.table import Table

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7a6a00", "#56B4E9", "#4d4d4d")
INTERNAL = "For internal use. This page holds small numbers of patients and is not under disclosure control."
WORDS = (
    "Each colour is a study, each shape a level of privacy. Up is better diagnosis, left is less risk. The grey band "
    "is what chance alone shows in any of the studies; the table has it for each."
)


def render_comparison(comparison: Comparison) -> dict[str, str]:
    """Text of every file by name."""
    found = _sections(comparison)
    pictures = {f"figures/{one.key}.svg": one.drawn.wide + "\n" for one in found if one.drawn is not None}
    paragraph = " ".join(_finding(comparison))
    known = _study_looks(comparison)
    page = environment().get_template("comparison.html.j2").render(
        title=_title(comparison),
        internal=INTERNAL,
        paragraph=paragraph,
        cautions=comparison.cautions,
        sections=found,
        light=Markup(arm_variables(known, dark=False)),
        dark=Markup(arm_variables(known, dark=True)),
    )
    lines = [f"# {escaped(_title(comparison))}", "", f"**{INTERNAL}**", ""]
    for text in comparison.cautions:
        lines += [f"> {escaped(text)}", ""]
    lines += ["## What was found", "", escaped(paragraph), ""]
    for one in found:
        lines += section_lines(one)
    return {
        "comparison.html": page,
        "comparison.md": "\n".join(lines).rstrip() + "\n",
        "comparison.json": comparison.to_json(),
        **pictures,
    }


def _title(comparison: Comparison) -> str:
    return "Studies compared: " + ", ".join(comparison.names)


def _finding(comparison: Comparison) -> list[str]:
    """One sentence per study, then the paired differences."""
    words = []
    for name, document in zip(comparison.names, comparison.documents, strict=True):
        arms = [document.arm("none"), *[arm for arm in document.arms if arm.is_private][-1:]]
        parts = [_part(document, arm) for arm in arms if arm is not None]
        words.append(f"{name} ({_size(document)}): " + "; ".join(parts) + ".")
    shown = [pair for pair in comparison.paired if pair.label not in ("matched", "clip")]
    for study in dict.fromkeys(pair.study for pair in shown):
        parts = [_exposes(pair) for pair in shown if pair.study == study]
        words.append(
            f"On the same patients and the same halves, {study} beside {comparison.names[0]}: {'; '.join(parts)} "
            "(difference in the attack AUC of the most exposed 1%)."
        )
    return words


def _exposes(pair: PairedArm) -> str:
    change = pair.difference.patient_auc_p99
    if change.value is None or change.low is None or change.high is None:
        return f"at {pair.name} {figure(change)}"
    sure = change.low > 0 or change.high < 0
    how = ("more risk" if change.value > 0 else "less risk") if sure else "no sure difference"
    return f"at {pair.name} {how}, {figure(change, signed=True)}"


def _part(document: Document, arm: Arm) -> str:
    p99 = arm.risk.p99
    risk = figure(p99) if p99.value is None else at_least(p99.value)
    verdict = {True: ", no more than by luck", False: "", None: ""}[within_chance(arm)]
    return (
        f"with {arm.name} the most exposed 1% are recognised in {risk} tries{verdict} (guessing is 50), AUROC "
        f"{figure(arm.performance.auroc)}"
    )


def _size(document: Document) -> str:
    study = document.summary
    return (
        f"{study.cohort}{', SIMULATED data' if study.simulated else ''}, model {study.model} with "
        f"{document.arms[0].num_parameters:,} parameters, {count(study.num_patients)} training {study.patient_word}s"
    )


def _sections(comparison: Comparison) -> tuple[Section, ...]:
    drawn = _drawn(comparison)
    found = [
        Section("compared", "Performance against risk", (), drawn, WORDS, WORDS, (_table(comparison),)),
    ]
    if comparison.paired:
        found.append(
            Section(
                "paired",
                "The same patients in both studies",
                (f"Each study minus {comparison.names[0]}, patient by patient and model by model.",),
                tables=(_paired_table(comparison),),
            )
        )
    rows = tuple((name, *values) for name, values in comparison.differs.items())
    found.append(
        Section(
            "differs",
            "What differs between the studies",
            () if rows else ("No setting that matters.",),
            tables=(Table("Settings that differ.", ("setting", *comparison.names), rows),) if rows else (),
        )
    )
    return tuple(found)


def _table(comparison: Comparison) -> Table:
    rows = []
    for name, document in zip(comparison.names, comparison.documents, strict=True):
        for arm in document.arms:
            rows.append(
                (
                    name,
                    arm.name,
                    epsilon(arm.privacy.epsilon),
                    figure(arm.performance.auroc),
                    figure(arm.risk.p99),
                    figure(arm.risk.p99_null),
                    figure(arm.attack.tpr_at_fpr["0.01"]),
                    count(arm.risk.exposed, interval=False),
                )
            )
    return Table(
        "All levels of all studies, with 95% intervals. Training and test patients: "
        + "; ".join(
            f"{name} n = {count(document.summary.num_patients)} and {count(document.summary.num_test_patients)}, "
            f"{document.summary.num_models} models per level"
            for name, document in zip(comparison.names, comparison.documents, strict=True)
        )
        + ".",
        (
            "study",
            "level of privacy",
            "ε spent",
            "AUROC",
            "most exposed 1% (attack AUC)",
            "by chance alone",
            f"members found when {percent(0.01)} of outsiders are accused",
            "can be singled out",
        ),
        tuple(rows),
    )


def _paired_table(comparison: Comparison) -> Table:
    return Table(
        "With 95% intervals over patients and models.",
        ("study", "level of privacy", "AUROC", "mean attack AUC", "most exposed 1% (attack AUC)", "attack AUC ≥ 0.9"),
        tuple(
            (
                pair.study,
                pair.name,
                figure(pair.difference.utility, signed=True),
                figure(pair.difference.patient_auc_mean, signed=True),
                figure(pair.difference.patient_auc_p99, signed=True),
                count(pair.difference.count_at_least["0.9"]),
            )
            for pair in comparison.paired
        ),
    )


def _study_looks(comparison: Comparison) -> list[Look]:
    return [Look(_COLORS[place % len(_COLORS)], "o", "-") for place in range(len(comparison.names))]


def _drawn(comparison: Comparison) -> Drawn | None:
    made = []
    for kind, width in (("w", WIDE), ("n", NARROW)):
        with matplotlib.rc_context(dict(STYLE)):
            drawn = _draw(comparison, width)
            if drawn is None:
                return None
            made.append(
                to_svg(drawn, f"compared-{kind}", "Performance against risk", WORDS, _study_looks(comparison))
            )
    return Drawn(*made)


def _draw(comparison: Comparison, width: int) -> Figure | None:
    points = [
        (place, arm, looks(document)[arm.label].marker)
        for place, document in enumerate(comparison.documents)
        for arm in document.arms
        if arm.risk.p99.value is not None and arm.performance.auroc.value is not None
    ]
    if not points:
        return None
    narrow = width < 500
    shapes = {arm.name: marker for _, arm, marker in points}
    entries = len(comparison.names) + len(shapes) + 1
    columns = 1 if narrow else 2
    below = (76 if narrow else 56) + 19 * -(-entries // columns)
    height = 330 if narrow else 400
    drawing = new_figure(width, height + below)
    total = height + below
    axes = drawing.add_axes((74 / width, below / total, (width - 96) / width, (height - 12) / total))
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("How surely the most exposed 1% are recognised" + ("\n" if narrow else "  ") + "(0.5 = guessing, "
    "1 = certain)")
    axes.set_ylabel("Diagnostic performance (AUROC)")
    for place in range(len(comparison.names)):
        line = [(arm.risk.p99.value, arm.performance.auroc.value) for one, arm, _ in points if one == place]
        axes.plot(*np.array(line, dtype=float).T, color=arm_color(place), lw=0.8, alpha=0.5, zorder=2)
    nulls = [arm.risk.p99_null for _, arm, _ in points]
    ends = [end for null in nulls for end in (null.low, null.high) if end is not None]
    if ends:
        axes.axvspan(min(ends), max(ends), color=BAND, lw=0, zorder=0)
    for place, arm, marker in points:
        x, y = arm.risk.p99.value or 0.0, arm.performance.auroc.value or 0.0
        for one, flat in ((arm.risk.p99, True), (arm.performance.auroc, False)):
            if one.low is not None and one.high is not None:
                bar = ([one.low, one.high], [y, y]) if flat else ([x, x], [one.low, one.high])
                axes.plot(*bar, color=arm_color(place), lw=1.1, alpha=0.7, zorder=3)
        axes.plot(x, y, marker, color=arm_color(place), ms=8, mec=PAPER, mew=0.8, zorder=5)
    axes.set_xlim(None, 1.015)
    handles: list[Artist] = [
        Line2D([], [], color=arm_color(place), marker="o", ms=7, mec=PAPER, lw=1.2)
        for place in range(len(comparison.names))
    ]
    handles += [Line2D([], [], color=QUIET, marker=marker, ms=7, mec=PAPER, lw=0) for marker in shapes.values()]
    handles.append(Patch(facecolor=BAND, lw=0))
    drawing.legend(
        handles,
        [*comparison.names, *shapes, "chance alone (95%)"],
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=columns,
        frameon=False,
        fontsize=8.8,
    )
    return drawing
