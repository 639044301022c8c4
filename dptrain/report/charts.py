"""The chart: what privacy costs and what it buys, in one figure.

Left: performance on test patients against how surely the most exposed 1% of patients are recognised, one point per arm,
with what chance alone shows and what mathematics allows. Right: how many patients are recognised at least how surely.

Colours are told apart with every common colour blindness (Okabe & Ito for the arms without a guarantee, one ramp from
light to dark for the private ones) and repeated by marker and line style. Same result, same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from dptrain.report.document import Document
from dptrain.report.label_places import place_labels
from dptrain.report.results import ArmResult, StudyResult
from dptrain.report.words import METRIC_WORDS, explanation, long_name, short_name, subtitle

WIDTH_INCH, HEIGHT_INCH = 12.0, 6.75
_LEGEND_COLUMNS = 3
PNG_DPI = 200
INK, QUIET, BAND, LIMIT = "#1a1a1a", "#595959", "#e4e4e4", "#8a8a8a"
STYLE: Mapping[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10.5,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.fonttype": "none",
    "svg.hashsalt": "dptrain",
    "text.parse_math": False,
}
_FIXED_LOOKS = {
    "none": ("#D55E00", "o", "-"),
    "matched": ("#CC79A7", "s", "-"),
    "clip": ("#7a6a00", "D", (0, (5, 1.5))),
}
_PRIVATE_RAMP = LinearSegmentedColormap.from_list("privacy", ["#56B4E9", "#0072B2", "#00264d"])
_PRIVATE_MARKERS = ("^", "v", "P", "X", "p", "h", "*", "<", ">", "d")
_PRIVATE_LINES = ("-", (0, (6, 1.5)), (0, (3, 1.2)), (0, (1.2, 1.0)), (0, (6, 1.2, 1.2, 1.2)))


@dataclass(frozen=True)
class Look:
    """How an arm is drawn in both panels."""

    color: str
    marker: str
    line: object


def looks(result: StudyResult | Document) -> dict[str, Look]:
    """One look per arm; darker means more private."""
    private = [arm.label for arm in result.arms if arm.is_private]
    chosen = {}
    for arm in result.arms:
        if arm.is_private:
            index = private.index(arm.label)
            shade = index / (len(private) - 1) if len(private) > 1 else 0.5
            chosen[arm.label] = Look(
                to_hex(_PRIVATE_RAMP(shade)),
                _PRIVATE_MARKERS[index % len(_PRIVATE_MARKERS)],
                _PRIVATE_LINES[index % len(_PRIVATE_LINES)],
            )
        else:
            chosen[arm.label] = Look(*_FIXED_LOOKS[arm.label])
    return chosen


def png(result: StudyResult, dpi: int = PNG_DPI) -> bytes:
    """The chart as PNG, 2400 pixels wide unless told otherwise."""
    return _render(result, "png", dpi=dpi, metadata={"Software": None})


def svg(result: StudyResult) -> bytes:
    """The chart as SVG with selectable text."""
    return _render(
        result, "svg", metadata={"Date": None, "Creator": "dptrain", "Title": "Performance and privacy risk"}
    )


def _render(result: StudyResult, kind: str, **options: object) -> bytes:
    with matplotlib.rc_context(dict(STYLE)):
        figure = draw(result)
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def draw(result: StudyResult) -> Figure:
    """The figure, on a canvas of its own (no pyplot, no global state)."""
    figure = Figure(figsize=(WIDTH_INCH, HEIGHT_INCH), facecolor="white")
    FigureCanvasAgg(figure)
    chosen = looks(result)
    rows = -(-(len(result.arms) + 2) // _LEGEND_COLUMNS)
    bottom = 0.075 + 0.033 * rows
    left, right = (
        figure.add_axes((0.072, bottom + 0.085, 0.413, 0.745 - bottom)),
        figure.add_axes((0.572, bottom + 0.085, 0.408, 0.745 - bottom)),
    )
    figure.text(0.02, 0.965, "What privacy costs, and what it buys", fontsize=16.5, weight="bold", va="center")
    figure.text(0.02, 0.922, subtitle(result), fontsize=10, color=QUIET, va="center")
    _legend(figure, result, chosen)
    _survival(right, result, chosen)
    _trade_off(left, result, chosen)
    return figure


def _trade_off(axes: Axes, result: StudyResult, chosen: Mapping[str, Look]) -> None:
    arms = result.arms
    axes.set_title(
        "Performance against risk of the most exposed patients", fontsize=11.5, loc="left", pad=20, weight="bold"
    )
    axes.set_xlabel("How surely the most exposed 1% of patients are recognised\n(0.5 = guessing,  1 = with certainty)")
    axes.set_ylabel(METRIC_WORDS[result.arms[0].utility.metric])
    lowest = min(min(arm.risk.p99.low for arm in arms), min(arm.risk.null_p99.low for arm in arms), 0.5)
    axes.set_xlim(max(0.0, np.floor(lowest * 20) / 20 - 0.005), 1.015)
    low = min(arm.utility.mean.low for arm in arms)
    high = max(arm.utility.mean.high for arm in arms)
    margin = max(0.12 * (high - low), 0.004)
    axes.set_ylim(low - margin, min(1.0 + 0.4 * margin, high + 1.6 * margin))
    band_low, band_high = min(a.risk.null_p99.low for a in arms), max(a.risk.null_p99.high for a in arms)
    axes.axvspan(band_low, band_high, color=BAND, lw=0, zorder=0)
    axes.grid(axis="y", color="#eeeeee", lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    for arm in arms:
        _limit(axes, arm, chosen[arm.label])
    for arm in arms:
        _point(axes, arm, chosen[arm.label])
    axes.text(
        (band_low + band_high) / 2,
        1.012,
        "chance alone",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=8.8,
        color=QUIET,
    )
    place_labels(
        axes,
        [(arm.risk.p99.value, arm.utility.mean.value) for arm in arms],
        [short_name(arm) for arm in arms],
        [_dark(chosen[arm.label].color) for arm in arms],
    )


def _point(axes: Axes, arm: ArmResult, look: Look) -> None:
    x, y = arm.risk.p99, arm.utility.mean
    axes.errorbar(
        x.value,
        y.value,
        xerr=[[x.value - x.low], [x.high - x.value]],
        yerr=[[y.value - y.low], [y.high - y.value]],
        color=look.color,
        elinewidth=1.3,
        capsize=0,
        fmt="none",
        zorder=3,
        alpha=0.75,
    )
    axes.plot(x.value, y.value, look.marker, color=look.color, ms=9, mec="white", mew=0.9, zorder=5)


def _limit(axes: Axes, arm: ArmResult, look: Look) -> None:
    """From the point to the largest attack AUC that the guarantee allows."""
    if arm.cap is None:
        return
    y = arm.utility.mean.value
    start = arm.risk.p99.value
    axes.plot([start, arm.cap.auc], [y, y], color=look.color, lw=1.0, ls=(0, (1, 2)), zorder=2)
    axes.plot(arm.cap.auc, y, "|", color=look.color, ms=17, mew=2.4, zorder=4)


def _survival(axes: Axes, result: StudyResult, chosen: Mapping[str, Look]) -> None:
    axes.set_title("How many patients are recognised, and how surely", fontsize=11.5, loc="left", pad=20, weight="bold")
    axes.set_xlabel(
        "How surely a patient is recognised as “was in the training data”\n(0.5 = guessing,  1 = with certainty)"
    )
    axes.set_ylabel(f"Patients recognised at least this surely (of {result.num_patients:,})")
    axes.set_yscale("log")
    axes.set_ylim(0.8, result.num_patients * 1.25)
    axes.set_xlim(0.495, 1.008)
    axes.grid(axis="y", which="major", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    null = result.null
    floor = 0.5
    axes.fill_between(null.auc, np.maximum(null.low, floor), np.maximum(null.high, floor), color=BAND, lw=0, zorder=0)
    axes.plot(null.auc, np.where(null.expected >= floor, null.expected, np.nan), color=LIMIT, lw=1.0, zorder=1)
    for arm in result.arms:
        look = chosen[arm.label]
        ordered = np.sort(arm.risk.patient_auc[np.isfinite(arm.risk.patient_auc)])[::-1]
        values, first = np.unique(-ordered, return_index=True)
        counts = np.append(first[1:], len(ordered))
        x = np.concatenate([[-values[0]], -values])
        axes.step(x, np.concatenate([[floor], counts]), where="post", color=look.color, lw=1.9, ls=look.line, zorder=3)
        axes.plot(
            -values[0], counts[0], look.marker, color=look.color, ms=7.5, mec="white", mew=0.8, zorder=4, clip_on=False
        )


def _legend(figure: Figure, result: StudyResult, chosen: Mapping[str, Look]) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=look.color, marker=look.marker, ms=7.5, mec="white", mew=0.8, lw=1.9, ls=look.line)
        for look in (chosen[arm.label] for arm in result.arms)
    ]
    names = [long_name(arm) for arm in result.arms]
    handles.append(Patch(color=BAND, lw=0))
    names.append("chance alone: what is seen when nothing leaks (95%)")
    if any(arm.cap is not None for arm in result.arms):
        handles.append(Line2D([], [], color=QUIET, marker="|", ms=12, mew=2.2, lw=1.0, ls=(0, (1, 2))))
        names.append("mathematical limit: no attack can do better, chance aside")
    figure.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.012, 0.038),
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        fontsize=9.3,
        handlelength=3.2,
        columnspacing=2.0,
        labelspacing=0.45,
    )
    figure.text(
        0.02,
        0.022,
        explanation(result),
        fontsize=8.6,
        color=QUIET,
        va="center",
    )


def _dark(color: str) -> str:
    """The colour, darkened until it reads well as text on white."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    while rgb @ np.array([0.2126, 0.7152, 0.0722]) > 0.3:
        rgb = rgb * 0.9
    return to_hex(tuple(rgb))
