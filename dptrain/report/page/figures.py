"""The pictures of a report, drawn from its document, each in a wide and a narrow form.

An arm has one colour, marker and line in all of them (`charts.looks`), so that no picture depends on colour alone. What
was withheld or could not be estimated is not drawn; the table beside the picture says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from dptrain.report.charts import Look, looks
from dptrain.report.document import Arm, Document
from dptrain.report.label_places import place_labels
from dptrain.report.leaves import Curve
from dptrain.report.leaves import Figure as Measured
from dptrain.report.page.svg import BAND, GRID, INK, PAPER, QUIET, STYLE, arm_color, new_figure, to_svg

WIDE, NARROW = 760, 372
"""Widths in CSS pixels."""


@dataclass(frozen=True)
class Drawn:
    """One picture, twice."""

    wide: str
    narrow: str


@dataclass(frozen=True)
class Scene:
    """What a drawing function gets."""

    document: Document
    width: int

    @property
    def is_narrow(self) -> bool:
        """Whether panels must stand below each other."""
        return self.width < 500

    @property
    def arms(self) -> tuple[tuple[Arm, str, Look], ...]:
        """Arm, stand-in colour and look."""
        known = looks(self.document)
        return tuple((arm, arm_color(place), known[arm.label]) for place, arm in enumerate(self.document.arms))


def arm_looks(document: Document) -> list[Look]:
    """The looks of the document's arms in their order."""
    known = looks(document)
    return [known[arm.label] for arm in document.arms]


def draw(
    document: Document, name: str, title: str, description: str, function: Callable[[Scene], Figure | None]
) -> Drawn | None:
    """A picture by `function` in both widths; None if there is nothing to draw."""
    made = []
    for kind, width in (("w", WIDE), ("n", NARROW)):
        with matplotlib.rc_context(dict(STYLE)):
            figure = function(Scene(document, width))
            if figure is None:
                return None
            made.append(to_svg(figure, f"{name}-{kind}", title, description, arm_looks(document)))
    return Drawn(*made)


def trade_off(scene: Scene) -> Figure | None:
    """Performance against the risk of the most exposed 1%, or 5%."""
    percent = scene.document.headline_percent
    risk = {arm.label: arm.risk.reached_by(percent) for arm, _, _ in scene.arms}
    drawn = [one for one in scene.arms if _known(risk[one[0].label][0]) and _known(one[0].performance.auroc)]
    if not drawn:
        return None
    legend_rows = _legend_rows(scene, len(drawn) + 2)
    figure, axes = _one_panel(scene, 400 if not scene.is_narrow else 330, legend_rows)
    nulls = [null for arm, _, _ in drawn for null in [risk[arm.label][1]] if null is not None and _known(null)]
    reached = {arm.label: one for arm, _, _ in drawn for one in [risk[arm.label][0]] if one is not None}
    lowest = min([0.5, *(_low(one) for one in reached.values()), *(_low(one) for one in nulls)])
    axes.set_xlim(max(0.0, np.floor(lowest * 20) / 20 - 0.005), 1.015)
    low = min(_low(arm.performance.auroc) for arm, _, _ in drawn)
    high = max(_high(arm.performance.auroc) for arm, _, _ in drawn)
    margin = max(0.12 * (high - low), 0.004)
    axes.set_ylim(low - margin, min(1.0 + 0.4 * margin, high + 1.6 * margin))
    if nulls:
        axes.axvspan(min(_low(one) for one in nulls), max(_high(one) for one in nulls), color=BAND, lw=0, zorder=0)
    words = f"How surely the most exposed {percent}% are recognised"
    axes.set_xlabel(_wrapped(scene, words, "(0.5 = guessing, 1 = certain)"))
    axes.set_ylabel("Diagnostic performance (AUROC)")
    _fit_left(figure, axes)
    for arm, color, look in drawn:
        x, y = reached[arm.label], arm.performance.auroc
        assert x.value is not None
        assert y.value is not None
        if arm.privacy.cap is not None:
            cap = arm.privacy.cap["auc"]
            axes.plot([x.value, cap], [y.value, y.value], color=color, lw=1.0, ls=(0, (1, 2)), zorder=2)
            axes.plot(cap, y.value, "|", color=color, ms=15, mew=2.2, zorder=4)
        axes.plot([_low(x), _high(x)], [y.value] * 2, color=color, lw=1.3, zorder=3)
        axes.plot([x.value] * 2, [_low(y), _high(y)], color=color, lw=1.3, zorder=3)
        axes.plot(x.value, y.value, look.marker, color=color, ms=8, mec=PAPER, mew=0.8, zorder=5)
    if not scene.is_narrow:
        place_labels(
            axes,
            [(float(reached[arm.label].value or 0), float(arm.performance.auroc.value or 0)) for arm, _, _ in drawn],
            [arm.name for arm, _, _ in drawn],
            [INK] * len(drawn),
        )
        for text in axes.texts:
            text.set_bbox(None)
    _legend(figure, scene, drawn, band=bool(nulls), cap=any(arm.privacy.cap for arm, _, _ in drawn), lines=False)
    return figure


def survival(scene: Scene) -> Figure | None:
    """How many patients are recognised at least how surely, with what chance shows."""
    drawn = [one for one in scene.arms if one[0].risk.survival.withheld is None and one[0].risk.survival.x]
    if not drawn:
        return None
    figure, axes = _one_panel(scene, 380 if not scene.is_narrow else 330, _legend_rows(scene, len(drawn) + 1))
    word = scene.document.summary.patient_word
    total = max(arm.risk.survival.y[0] for arm, _, _ in drawn)
    axes.set_yscale("log")
    axes.set_ylim(0.8, total * 1.3)
    axes.set_xlim(0.495, 1.008)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_wrapped(scene, f"How surely a {word} is recognised", "(0.5 = guessing, 1 = certain)"))
    axes.set_ylabel(f"{word.capitalize()}s recognised at least this surely")
    _fit_left(figure, axes)
    null = scene.document.null
    if null.withheld is None and null.low is not None and null.high is not None:
        x, floor = np.array(null.x), 0.5
        low, high = np.maximum(null.low, floor), np.maximum(null.high, floor)
        seen = x >= 0.49
        axes.fill_between(x[seen], low[seen], high[seen], color=BAND, lw=0, zorder=0)
    for arm, color, look in drawn:
        x, y = np.array(arm.risk.survival.x), np.array(arm.risk.survival.y)
        if scene.document.audience == "house":
            # Nobody is recognised more surely than the last one. (A curve that was cut ends where it was cut.)
            x, y = np.append(x, x[-1]), np.append(y, 0.5)
        # y patients have x or more: the step reaches x from the left.
        axes.step(x, y, where="pre", color=color, lw=1.8, ls=look.line, zorder=3)
        x, y = np.array(arm.risk.survival.x), np.array(arm.risk.survival.y)
        axes.plot(x[-1], y[-1], look.marker, color=color, ms=7, mec=PAPER, mew=0.8, zorder=4, clip_on=False)
    _legend(figure, scene, drawn, band=True)
    return figure


def roc(scene: Scene) -> Figure | None:
    """The attack on average, log-log, and the region that no attack can reach."""
    drawn = [one for one in scene.arms if one[0].attack.roc.withheld is None and one[0].attack.roc.x]
    if not drawn:
        return None
    capped = [one for one in drawn if one[0].privacy.cap_curve is not None]
    figure, axes = _one_panel(
        scene, 420 if not scene.is_narrow else 360, _legend_rows(scene, len(drawn) + 1 + len(capped)), square=True
    )
    smallest = min(arm.attack.roc.x[0] for arm, _, _ in drawn)
    left = 10.0 ** np.floor(np.log10(smallest * 0.999))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, 1.0)
    axes.set_ylim(left, 1.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.set_xlabel(_wrapped(scene, "Outsiders falsely accused", "(false-positive rate)"))
    axes.set_ylabel("Members found (true-positive rate)")
    _fit_left(figure, axes)
    axes.plot([left, 1], [left, 1], color=QUIET, lw=1.0, ls=(0, (2, 2)), zorder=1)
    for arm, color, _ in capped:
        curve = arm.privacy.cap_curve
        assert curve is not None
        axes.fill_between(curve.x, curve.y, 1.0, color=color, alpha=0.13, lw=0, zorder=0.5)
        axes.plot(curve.x, curve.y, color=color, lw=1.0, ls=(0, (1, 1.5)), zorder=1.5)
    for arm, color, look in drawn:
        curve = arm.attack.roc
        x, y = np.array(curve.x), np.array(curve.y)
        axes.plot(x, np.where(y > 0, y, np.nan), color=color, lw=1.7, ls=look.line, zorder=3)
        first = int(np.argmax(y > 0))
        axes.plot(x[first], y[first], look.marker, color=color, ms=6.5, mec=PAPER, mew=0.7, zorder=4, clip_on=False)
    names = [f"{arm.name}: no attack on it gets in here" for arm, _, _ in capped]
    patches: list[tuple[Artist, str]] = [(Line2D([], [], color=QUIET, lw=1.0, ls=(0, (2, 2))), "guessing")]
    patches += [
        (Patch(facecolor=color, alpha=0.25, lw=0), name) for (_, color, _), name in zip(capped, names, strict=True)
    ]
    _legend(figure, scene, drawn, band=False, extra=patches)
    return figure


@dataclass(frozen=True)
class Panel:
    """One column of a forest: a figure per arm."""

    title: str
    get: Callable[[Arm], Measured | None]
    zero: float | None = None
    """Where a line marks no difference, or perfection."""


def forest(panels: Sequence[Panel], *, skip: Sequence[str] = ()) -> Callable[[Scene], Figure | None]:
    """A drawing function: rows are arms, columns are figures with their intervals."""

    def function(scene: Scene) -> Figure | None:
        rows = [one for one in scene.arms if one[0].label not in skip]
        shown = [panel for panel in panels if any(_known(panel.get(arm)) for arm, _, _ in rows)]
        if not rows or not shown:
            return None
        columns = 1 if scene.is_narrow else min(len(shown), 4)
        row_height = 30
        panel_height = row_height * len(rows) + 62
        figure = new_figure(scene.width, panel_height * (-(-len(shown) // columns)) + 4)
        label = 128 if scene.is_narrow else 150
        for place, panel in enumerate(shown):
            column, line = place % columns, place // columns
            room = (scene.width - label - 8) / columns
            axes = _axes(
                figure,
                label + column * room + 6,
                line * panel_height + 26,
                room - 22,
                row_height * len(rows),
            )
            axes.set_title(panel.title, fontsize=9.2, loc="left", pad=7, weight="bold")
            if panel.zero is not None:
                axes.axvline(panel.zero, color=QUIET, lw=1.0, ls=(0, (3, 2)), zorder=0)
            for row, (arm, color, look) in enumerate(rows):
                one = panel.get(arm)
                if _known(one):
                    assert one is not None
                    axes.plot([_low(one), _high(one)], [row, row], color=color, lw=1.6, zorder=2)
                    axes.plot(one.value or 0.0, row, look.marker, color=color, ms=7, mec=PAPER, mew=0.7, zorder=3)
                else:
                    axes.text(0.5, row, "–", transform=axes.get_yaxis_transform(), ha="center", va="center")
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_yticks(range(len(rows)), [_two_lines(arm.name, label) * (column == 0) for arm, _, _ in rows])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x", color=GRID, lw=0.8)
            axes.set_axisbelow(True)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.margins(x=0.08)
        return figure

    return function


def groups(scene: Scene) -> Figure | None:
    """Risk and performance of every group, before and with privacy."""
    rows = [group for group in scene.document.groups if group.arms and group.num_patients.withheld is None]
    chosen = [one for one in scene.arms if one[0].label == "none" or one[0].is_private]
    if not rows or not chosen:
        return None
    panels: list[tuple[str, Callable[..., Measured | None], float | None]] = [
        ("Recognised how surely\n(mean; 0.5 = guessing)", lambda one: one.mean_auc, 0.5),
        ("In the most exposed 1%:\ntimes as many as expected", lambda one: one.relative_change, 1.0),
        ("Diagnosed how well\n(AUROC)", lambda one: one.auroc, None),
    ]
    columns = 1 if scene.is_narrow else len(panels)
    row_height = max(20, 7 * len(chosen) + 8)
    legend_rows = _legend_rows(scene, len(chosen))
    panel_height = row_height * len(rows) + 74
    label = 128 if scene.is_narrow else 150
    height = panel_height * (len(panels) // columns) + 18 * legend_rows + 8
    figure = new_figure(scene.width, height)
    names = [f"{_short(group.attribute)}: {_short(group.group)}" for group in rows]
    for place, (title, get, line_at) in enumerate(panels):
        column, line = place % columns, place // columns
        room = (scene.width - label - 8) / columns
        axes = _axes(
            figure, label + column * room + 6, line * panel_height + 40, room - 22, row_height * len(rows)
        )
        axes.set_title(title, fontsize=9.2, loc="left", pad=7, weight="bold")
        if line_at is not None:
            axes.axvline(line_at, color=QUIET, lw=1.0, ls=(0, (3, 2)), zorder=0)
        for row, group in enumerate(rows):
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, color=BAND, alpha=0.35, lw=0, zorder=-1)
            for index, (arm, color, look) in enumerate(chosen):
                if arm.label not in group.arms:
                    continue
                one = get(group.arms[arm.label])
                if one is None or not _known(one):
                    continue
                shift = 1.0 if one.unit == "relative change" else 0.0
                y = row + (index - (len(chosen) - 1) / 2) * 0.72 / max(len(chosen), 2)
                axes.plot([_low(one) + shift, _high(one) + shift], [y, y], color=color, lw=1.3, zorder=2)
                axes.plot((one.value or 0.0) + shift, y, look.marker, color=color, ms=5.5, mec=PAPER, mew=0.6, zorder=3)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), names if column == 0 else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure, scene, chosen, band=False, lines=False)
    return figure


POLICY_NAMES = {
    "logits": "everything (raw scores)",
    "probabilities_3": "probabilities, 3 digits",
    "probabilities_2": "probabilities, 2 digits",
    "top1": "the answer and its probability",
    "top1_2": "the same, 2 digits",
    "label": "the answer alone",
}


def access(scene: Scene) -> Figure | None:
    """What restricting the model's answers buys, beside what privacy buys."""
    drawn = [one for one in scene.arms if any(_known(policy.patient_auc_p99) for policy in one[0].access)]
    if not drawn:
        return None
    policies = [policy.policy for policy in drawn[0][0].access]
    row_height = max(22, 7 * len(drawn) + 8)
    legend_rows = _legend_rows(scene, len(drawn))
    label = 150 if scene.is_narrow else 200
    figure = new_figure(scene.width, row_height * len(policies) + 70 + 18 * legend_rows)
    axes = _axes(figure, label, 10, scene.width - label - 16, row_height * len(policies))
    axes.axvline(0.5, color=QUIET, lw=1.0, ls=(0, (3, 2)), zorder=0)
    for index, (arm, color, look) in enumerate(drawn):
        for row, policy in enumerate(arm.access):
            if row % 2 and index == 0:
                axes.axhspan(row - 0.5, row + 0.5, color=BAND, alpha=0.35, lw=0, zorder=-1)
            one = policy.patient_auc_p99
            if not _known(one):
                continue
            y = row + (index - (len(drawn) - 1) / 2) * 0.72 / max(len(drawn), 2)
            axes.plot([_low(one), _high(one)], [y, y], color=color, lw=1.3, zorder=2)
            axes.plot(one.value or 0.0, y, look.marker, color=color, ms=5.5, mec=PAPER, mew=0.6, zorder=3)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.set_yticks(range(len(policies)), [_two_lines(POLICY_NAMES.get(name, name), label) for name in policies])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(None, 1.01)
    axes.set_xlabel(
        _wrapped(scene, "How surely the most exposed 1% are recognised", "(0.5 = guessing, 1 = certain)"),
        loc="right" if scene.is_narrow else "center",
    )
    _legend(figure, scene, drawn, band=False, lines=False)
    return figure


def _one_panel(scene: Scene, height: int, legend_rows: int, *, square: bool = False) -> tuple[Figure, Axes]:
    below = 52 + 18 * legend_rows
    figure = new_figure(scene.width, height + below)
    left = 70 if not scene.is_narrow else 62
    width = scene.width - left - 22
    if square and not scene.is_narrow:
        width = min(width, height + 120)
    axes = _axes(figure, left, 10, width, height - 10)
    axes.grid(color=GRID, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    return figure, axes


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in CSS pixels from the top left."""
    total_width, total_height = (96.0 * side for side in figure.get_size_inches())
    return figure.add_axes(
        (left / total_width, 1.0 - (top + height) / total_height, width / total_width, height / total_height)
    )


def _fit_left(figure: Figure, axes: Axes) -> None:
    """Move the left side of the axes until its labels fit; the right side stays."""
    figure.draw_without_rendering()
    seen = axes.yaxis.get_tightbbox()
    if seen is not None:
        place = axes.get_position()
        move = max(4.0 - seen.x0, -20.0) / figure.bbox.width
        axes.set_position((place.x0 + move, place.y0, place.width - move, place.height))


def _legend_rows(scene: Scene, entries: int) -> int:
    return -(-entries // _legend_columns(scene))


def _legend_columns(scene: Scene) -> int:
    return 1 if scene.is_narrow else 2


def _legend(
    figure: Figure,
    scene: Scene,
    drawn: Sequence[tuple[Arm, str, Look]],
    *,
    band: bool,
    cap: bool = False,
    lines: bool = True,
    extra: Sequence[tuple[Artist, str]] = (),
) -> None:
    handles: list[Artist] = [
        Line2D(
            [],
            [],
            color=color,
            marker=look.marker,
            ms=6.5,
            mec=PAPER,
            mew=0.7,
            lw=1.8 if lines else 0,
            ls=look.line if lines else "none",  # type: ignore[arg-type]
        )
        for _, color, look in drawn
    ]
    names = [arm.long_name if not scene.is_narrow else arm.name for arm, _, _ in drawn]
    if band:
        handles.append(Patch(facecolor=BAND, lw=0))
        names.append("chance alone (95%)" if scene.is_narrow else "chance alone: what is seen when nothing leaks (95%)")
    if cap:
        handles.append(Line2D([], [], color=QUIET, marker="|", ms=10, mew=2.0, lw=1.0, ls=(0, (1, 2))))
        names.append("mathematical limit" if scene.is_narrow else "mathematical limit of any attack, chance aside")
    for handle, name in extra:
        handles.append(handle)
        names.append(name)
    figure.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=_legend_columns(scene),
        frameon=False,
        fontsize=8.8,
        handlelength=2.8,
        columnspacing=1.4,
        labelspacing=0.35,
        borderaxespad=0.1,
    )


def _known(one: Measured | Curve | None) -> bool:
    return isinstance(one, Measured) and one.value is not None and one.withheld is None


def _low(one: Measured) -> float:
    value = one.value if one.low is None else one.low
    assert value is not None
    return value


def _high(one: Measured) -> float:
    value = one.value if one.high is None else one.high
    assert value is not None
    return value


def _wrapped(scene: Scene, first: str, second: str) -> str:
    return f"{first}\n{second}" if scene.is_narrow else f"{first}  {second}"


def _two_lines(text: str, room: int) -> str:
    """Broken at the middle space if it does not fit."""
    if len(text) * 6.4 < room - 8:
        return text
    words = text.split(" ")
    half = min(range(1, len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(text) / 2), default=1)
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _short(text: str, room: int = 16) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
