"""What every picture of a report is drawn with: two widths, places of axes, the legend, words that fit.

An arm has one colour, marker and line in all pictures (`charts.looks`), so that none depends on colour alone. What was
withheld or could not be estimated is not drawn; the table beside the picture says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dptrain.report.charts import Look, looks
from dptrain.report.document import Arm, Document
from dptrain.report.leaves import Curve
from dptrain.report.leaves import Figure as Measured
from dptrain.report.page.svg import BAND, GRID, PAPER, QUIET, STYLE, arm_color, new_figure, to_svg

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


def one_panel(scene: Scene, height: int, legend_rows: int, *, square: bool = False) -> tuple[Figure, Axes]:
    """A picture with one pair of axes and room for its legend below; `height` in CSS pixels."""
    below = 52 + 18 * legend_rows
    figure = new_figure(scene.width, height + below)
    left = 70 if not scene.is_narrow else 62
    width = scene.width - left - 22
    if square and not scene.is_narrow:
        width = min(width, height + 120)
    axes = axes_at(figure, left, 10, width, height - 10)
    axes.grid(color=GRID, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    return figure, axes


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in CSS pixels from the top left."""
    total_width, total_height = (96.0 * side for side in figure.get_size_inches())
    return figure.add_axes(
        (left / total_width, 1.0 - (top + height) / total_height, width / total_width, height / total_height)
    )


def fit_left(figure: Figure, axes: Axes) -> None:
    """Move the left side of the axes until its labels fit; the right side stays."""
    figure.draw_without_rendering()
    seen = axes.yaxis.get_tightbbox()
    if seen is not None:
        place = axes.get_position()
        move = max(4.0 - seen.x0, -20.0) / figure.bbox.width
        axes.set_position((place.x0 + move, place.y0, place.width - move, place.height))


def legend_rows_of(scene: Scene, entries: int) -> int:
    """Rows of a legend with so many entries."""
    return -(-entries // _legend_columns(scene))


def _legend_columns(scene: Scene) -> int:
    return 1 if scene.is_narrow else 2


def add_legend(
    figure: Figure,
    scene: Scene,
    drawn: Sequence[tuple[Arm, str, Look]],
    *,
    band: bool,
    cap: bool = False,
    lines: bool = True,
    extra: Sequence[tuple[Artist, str]] = (),
) -> None:
    """The legend below: one entry per arm, then chance, the limit, and whatever else."""
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


def is_known(one: Measured | Curve | None) -> bool:
    """Whether there is a value that may be shown."""
    return isinstance(one, Measured) and one.value is not None and one.withheld is None


def low_end(one: Measured) -> float:
    """Lower end of the interval; the value itself where there is none."""
    value = one.value if one.low is None else one.low
    assert value is not None
    return value


def high_end(one: Measured) -> float:
    """Upper end of the interval; the value itself where there is none."""
    value = one.value if one.high is None else one.high
    assert value is not None
    return value


def wrapped(scene: Scene, first: str, second: str) -> str:
    """Words for an axis: two lines where the picture is narrow."""
    return f"{first}\n{second}" if scene.is_narrow else f"{first}  {second}"


def two_lines(text: str, room: int) -> str:
    """Broken at the middle space if it does not fit."""
    if len(text) * 6.4 < room - 8:
        return text
    words = text.split(" ")
    half = min(range(1, len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(text) / 2), default=1)
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def shortened(text: str, room: int = 16) -> str:
    """At most `room` characters."""
    return text if len(text) <= room else text[: room - 1] + "…"
