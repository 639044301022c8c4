"""Pictures in rows: figures with their intervals by arm, by group of patients, by what the model answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dptrain.report.document import Arm
from dptrain.report.leaves import Figure as Measured
from dptrain.report.page.scene import (
    Scene,
    add_legend,
    axes_at,
    high_end,
    is_known,
    legend_rows_of,
    low_end,
    shortened,
    two_lines,
    wrapped,
)
from dptrain.report.page.svg import BAND, GRID, PAPER, QUIET, new_figure


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
        shown = [panel for panel in panels if any(is_known(panel.get(arm)) for arm, _, _ in rows)]
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
            axes = axes_at(
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
                if is_known(one):
                    assert one is not None
                    axes.plot([low_end(one), high_end(one)], [row, row], color=color, lw=1.6, zorder=2)
                    axes.plot(one.value or 0.0, row, look.marker, color=color, ms=7, mec=PAPER, mew=0.7, zorder=3)
                else:
                    axes.text(0.5, row, "–", transform=axes.get_yaxis_transform(), ha="center", va="center")
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_yticks(range(len(rows)), [two_lines(arm.name, label) * (column == 0) for arm, _, _ in rows])
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
    legend_rows = legend_rows_of(scene, len(chosen))
    panel_height = row_height * len(rows) + 74
    label = 128 if scene.is_narrow else 150
    height = panel_height * (len(panels) // columns) + 18 * legend_rows + 8
    figure = new_figure(scene.width, height)
    names = [f"{shortened(group.attribute)}: {shortened(group.group)}" for group in rows]
    for place, (title, get, line_at) in enumerate(panels):
        column, line = place % columns, place // columns
        room = (scene.width - label - 8) / columns
        axes = axes_at(
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
                if one is None or not is_known(one):
                    continue
                shift = 1.0 if one.unit == "relative change" else 0.0
                y = row + (index - (len(chosen) - 1) / 2) * 0.72 / max(len(chosen), 2)
                axes.plot([low_end(one) + shift, high_end(one) + shift], [y, y], color=color, lw=1.3, zorder=2)
                axes.plot((one.value or 0.0) + shift, y, look.marker, color=color, ms=5.5, mec=PAPER, mew=0.6, zorder=3)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), names if column == 0 else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    add_legend(figure, scene, chosen, band=False, lines=False)
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
    drawn = [one for one in scene.arms if any(is_known(policy.patient_auc_p99) for policy in one[0].access)]
    if not drawn:
        return None
    policies = [policy.policy for policy in drawn[0][0].access]
    row_height = max(22, 7 * len(drawn) + 8)
    legend_rows = legend_rows_of(scene, len(drawn))
    label = 150 if scene.is_narrow else 200
    figure = new_figure(scene.width, row_height * len(policies) + 70 + 18 * legend_rows)
    axes = axes_at(figure, label, 10, scene.width - label - 16, row_height * len(policies))
    axes.axvline(0.5, color=QUIET, lw=1.0, ls=(0, (3, 2)), zorder=0)
    for index, (arm, color, look) in enumerate(drawn):
        for row, policy in enumerate(arm.access):
            if row % 2 and index == 0:
                axes.axhspan(row - 0.5, row + 0.5, color=BAND, alpha=0.35, lw=0, zorder=-1)
            one = policy.patient_auc_p99
            if not is_known(one):
                continue
            y = row + (index - (len(drawn) - 1) / 2) * 0.72 / max(len(drawn), 2)
            axes.plot([low_end(one), high_end(one)], [y, y], color=color, lw=1.3, zorder=2)
            axes.plot(one.value or 0.0, y, look.marker, color=color, ms=5.5, mec=PAPER, mew=0.6, zorder=3)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.set_yticks(range(len(policies)), [two_lines(POLICY_NAMES.get(name, name), label) for name in policies])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(None, 1.01)
    axes.set_xlabel(
        wrapped(scene, "How surely the most exposed 1% are recognised", "(0.5 = guessing, 1 = certain)"),
        loc="right" if scene.is_narrow else "center",
    )
    add_legend(figure, scene, drawn, band=False, lines=False)
    return figure
