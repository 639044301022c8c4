"""The chart says what it shows, in words, inside its frame, and is the same for the same result."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dptrain.report import charts
from dptrain.report.results import ArmResult, Estimate, StudyResult


@pytest.fixture(scope="module")
def svg(result: StudyResult) -> str:
    return charts.svg(result).decode()


def test_the_chart_is_labelled_in_words(svg: str) -> None:
    for words in (
        "What privacy costs", "How surely the most exposed 1% of patients are recognised", "chance alone",
        "Diagnostic performance (AUROC)", "(of 120)", "no privacy", "clipping only", "ε = 3", "mathematical limit",
        "SIMULATED", "16 models", "0.5 = guessing",
    ):  # fmt: skip
        assert words in svg, words
    assert "SECRET" not in svg


def test_the_same_result_gives_the_same_bytes(result: StudyResult, svg: str) -> None:
    assert charts.svg(result).decode() == svg
    assert charts.png(result, 50) == charts.png(result, 50)


def test_the_user_s_own_matplotlib_settings_are_left_alone(result: StudyResult, svg: str) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "other", "font.size": 31, "axes.spines.top": True}):
        charts.draw(result)
        assert matplotlib.rcParams["font.size"] == 31


def test_a_png_is_2400_pixels_wide(result: StudyResult) -> None:
    png = charts.png(result)
    assert int.from_bytes(png[16:20], "big") == 2400


@pytest.mark.parametrize("num_arms", [1, 2, 10])
def test_any_number_of_arms_keeps_its_labels_apart(result: StudyResult, num_arms: int) -> None:
    arms = [result.arm("none"), result.arm("matched"), result.arm("clip")][: max(1, num_arms - 1)]
    for index in range(num_arms - len(arms)):
        arms.append(_private(result, epsilon=64 / 2**index, performance=0.95 - 0.01 * index, risk=0.95 - 0.05 * index))
    figure = charts.draw(replace(result, arms=tuple(arms)))
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    figure.draw(renderer)
    frame = figure.bbox
    trade_off = max(figure.axes, key=lambda axes: len(axes.texts))
    boxes = [text.get_window_extent(renderer) for text in trade_off.texts]
    assert len(boxes) == len(arms) + 1
    for box in [*boxes, *(text.get_window_extent(renderer) for text in figure.texts)]:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1  # noqa: PT018
    overlapping = [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert not overlapping
    legend = figure.legends[0].get_window_extent(renderer)
    lowest_axis_text = min(axes.xaxis.label.get_window_extent(renderer).y0 for axes in figure.axes)
    assert legend.y1 <= lowest_axis_text + 2
    assert legend.x1 <= frame.x1


def _private(result: StudyResult, epsilon: float, performance: float, risk: float) -> ArmResult:
    arm = result.arm("eps=3")
    return replace(
        arm,
        label=f"eps={epsilon:g}",
        target_epsilon=epsilon,
        utility=replace(arm.utility, mean=Estimate(performance, performance - 0.02, performance + 0.015)),
        risk=replace(arm.risk, p99=Estimate(risk, risk - 0.03, risk + 0.03)),
    )
