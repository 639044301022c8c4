"""Performance against the epsilon spent so far: what each further step of private training buys."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dptrain.report.charts import QUIET, STYLE, looks
from dptrain.report.results import StudyResult
from dptrain.report.words import METRIC_WORDS, short_name, subtitle


def budget_png(result: StudyResult, dpi: int = 100) -> bytes | None:
    """The figure as PNG; None for a study without an arm that spends a budget. Bands: the middle 80% of models."""
    private = [arm for arm in result.arms if arm.curves.epsilon is not None]
    if not private:
        return None
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(12.0, 6.75), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.08, 0.11, 0.89, 0.74))
        figure.text(0.02, 0.95, "Performance against the epsilon spent", fontsize=16.5, weight="bold", va="center")
        figure.text(0.02, 0.905, subtitle(result), fontsize=10, color=QUIET, va="center")
        chosen = looks(result)
        for arm in private:
            assert arm.curves.epsilon is not None
            look = chosen[arm.label]
            low, high = np.nanquantile(arm.curves.utility, [0.1, 0.9], axis=0)
            axes.fill_between(arm.curves.epsilon, low, high, color=look.color, alpha=0.15, linewidth=0)
            axes.plot(
                arm.curves.epsilon,
                np.nanmean(arm.curves.utility, axis=0),
                color=look.color,
                marker=look.marker,
                linestyle=look.line,  # type: ignore[arg-type]
                label=short_name(arm).replace("\n", " "),
            )
        for arm in result.arms:
            if arm.label == "none":
                look = chosen[arm.label]
                axes.axhline(arm.utility.mean.value, color=look.color, linewidth=1.2, label="no privacy, at the end")
        axes.set_xscale("log")
        axes.set_xlabel("ε spent up to the step (log scale; smaller means stronger protection)")
        axes.set_ylabel(METRIC_WORDS[result.arms[0].utility.metric])
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.legend(loc="lower right", frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
