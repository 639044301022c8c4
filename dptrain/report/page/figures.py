"""The pictures with two axes: performance against risk, patients above a risk, and the attack on average."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from dptrain.report.label_places import place_labels
from dptrain.report.page.scene import (
    Scene,
    add_legend,
    fit_left,
    high_end,
    is_known,
    legend_rows_of,
    low_end,
    one_panel,
    wrapped,
)
from dptrain.report.page.svg import BAND, INK, PAPER, QUIET


def trade_off(scene: Scene) -> Figure | None:
    """Performance against the risk of the most exposed 1%, or 5%."""
    percent = scene.document.headline_percent
    risk = {arm.label: arm.risk.reached_by(percent) for arm, _, _ in scene.arms}
    drawn = [one for one in scene.arms if is_known(risk[one[0].label][0]) and is_known(one[0].performance.auroc)]
    if not drawn:
        return None
    legend_rows = legend_rows_of(scene, len(drawn) + 2)
    figure, axes = one_panel(scene, 400 if not scene.is_narrow else 330, legend_rows)
    nulls = [null for arm, _, _ in drawn for null in [risk[arm.label][1]] if null is not None and is_known(null)]
    reached = {arm.label: one for arm, _, _ in drawn for one in [risk[arm.label][0]] if one is not None}
    lowest = min([0.5, *(low_end(one) for one in reached.values()), *(low_end(one) for one in nulls)])
    axes.set_xlim(max(0.0, np.floor(lowest * 20) / 20 - 0.005), 1.015)
    low = min(low_end(arm.performance.auroc) for arm, _, _ in drawn)
    high = max(high_end(arm.performance.auroc) for arm, _, _ in drawn)
    margin = max(0.12 * (high - low), 0.004)
    axes.set_ylim(low - margin, min(1.0 + 0.4 * margin, high + 1.6 * margin))
    if nulls:
        axes.axvspan(
            min(low_end(one) for one in nulls), max(high_end(one) for one in nulls), color=BAND, lw=0, zorder=0
        )
    words = f"How surely the most exposed {percent}% are recognised"
    axes.set_xlabel(wrapped(scene, words, "(0.5 = guessing, 1 = certain)"))
    axes.set_ylabel("Diagnostic performance (AUROC)")
    fit_left(figure, axes)
    for arm, color, look in drawn:
        x, y = reached[arm.label], arm.performance.auroc
        assert x.value is not None
        assert y.value is not None
        if arm.privacy.cap is not None:
            cap = arm.privacy.cap["auc"]
            axes.plot([x.value, cap], [y.value, y.value], color=color, lw=1.0, ls=(0, (1, 2)), zorder=2)
            axes.plot(cap, y.value, "|", color=color, ms=15, mew=2.2, zorder=4)
        axes.plot([low_end(x), high_end(x)], [y.value] * 2, color=color, lw=1.3, zorder=3)
        axes.plot([x.value] * 2, [low_end(y), high_end(y)], color=color, lw=1.3, zorder=3)
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
    add_legend(figure, scene, drawn, band=bool(nulls), cap=any(arm.privacy.cap for arm, _, _ in drawn), lines=False)
    return figure


def survival(scene: Scene) -> Figure | None:
    """How many patients are recognised at least how surely, with what chance shows."""
    drawn = [one for one in scene.arms if one[0].risk.survival.withheld is None and one[0].risk.survival.x]
    if not drawn:
        return None
    figure, axes = one_panel(scene, 380 if not scene.is_narrow else 330, legend_rows_of(scene, len(drawn) + 1))
    word = scene.document.summary.patient_word
    total = max(arm.risk.survival.y[0] for arm, _, _ in drawn)
    axes.set_yscale("log")
    axes.set_ylim(0.8, total * 1.3)
    axes.set_xlim(0.495, 1.008)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(wrapped(scene, f"How surely a {word} is recognised", "(0.5 = guessing, 1 = certain)"))
    axes.set_ylabel(f"{word.capitalize()}s recognised at least this surely")
    fit_left(figure, axes)
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
    add_legend(figure, scene, drawn, band=True)
    return figure


def roc(scene: Scene) -> Figure | None:
    """The attack on average, log-log, and the region that no attack can reach."""
    drawn = [one for one in scene.arms if one[0].attack.roc.withheld is None and one[0].attack.roc.x]
    if not drawn:
        return None
    capped = [one for one in drawn if one[0].privacy.cap_curve is not None]
    figure, axes = one_panel(
        scene, 420 if not scene.is_narrow else 360, legend_rows_of(scene, len(drawn) + 1 + len(capped)), square=True
    )
    smallest = min(arm.attack.roc.x[0] for arm, _, _ in drawn)
    left = 10.0 ** np.floor(np.log10(smallest * 0.999))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, 1.0)
    axes.set_ylim(left, 1.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.set_xlabel(wrapped(scene, "Outsiders falsely accused", "(false-positive rate)"))
    axes.set_ylabel("Members found (true-positive rate)")
    fit_left(figure, axes)
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
    add_legend(figure, scene, drawn, band=False, extra=patches)
    return figure
