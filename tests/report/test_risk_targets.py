"""Arms whose noise was chosen for a cap on attacks: in numbers, in words, in the chart and in TensorBoard."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from dptrain.report import charts, tensorboard
from dptrain.report.analysis import analyse
from dptrain.report.results import StudyResult
from dptrain.report.table import MAX_WIDTH, summary_table
from dptrain.report.tradeoff import as_dict, tradeoff_csv
from dptrain.report.words import explanation, long_name, short_name
from tests.report.fake_study import EPS_3, NONE, FakeArm, FakeStudy
from tests.report.test_tensorboard_runs import PNG

BY_TPR = FakeArm("tpr=0.05@fpr=0.02", None, 1.2341, 1e-3, 12.0, 0.5, clipping_norm=1.0, skill=1.4)
BY_ADVANTAGE = FakeArm("adv=0.1", None, 0.5, 1e-3, 20.0, 0.5, clipping_norm=1.0, skill=1.2)


@pytest.fixture(scope="module")
def mixed() -> StudyResult:
    return analyse(FakeStudy((NONE, EPS_3, BY_TPR, BY_ADVANTAGE)))


def test_numbers(mixed: StudyResult) -> None:
    none, by_epsilon, by_tpr, by_advantage = as_dict(mixed)["arms"]
    assert [arm.is_private for arm in mixed.arms] == [False, True, True, True]
    assert by_tpr["target_epsilon"] is None
    assert (by_tpr["target_tpr"], by_tpr["target_fpr"]) == (0.05, 0.02)
    assert (by_tpr["epsilon"], by_tpr["noise_multiplier"]) == (1.2341, 12.0)
    assert set(by_tpr["cap"]) == {"auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "tpr_at_fpr_0.02", "advantage"}
    assert by_advantage["target_advantage"] == 0.1
    assert set(by_advantage["cap"]) == {"auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "advantage"}
    for arm in (none, by_epsilon):
        assert not [key for key in arm if key.startswith("target_") and key != "target_epsilon"]
    assert set(by_epsilon["cap"]) == {"auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}


def test_an_arm_with_an_epsilon_is_written_as_without_the_others(mixed: StudyResult) -> None:
    alone = as_dict(analyse(FakeStudy((NONE, EPS_3))))
    assert as_dict(mixed)["arms"][:2] == alone["arms"]


def test_keys_are_documented(mixed: StudyResult, repo_root: Path) -> None:
    words = (repo_root / "docs" / "study.md").read_text("utf-8")
    for arm in as_dict(mixed)["arms"][2:]:
        assert not [key for key in [*arm, *arm["cap"]] if key not in words and key != "tpr_at_fpr_0.02"]
    assert "tpr_at_fpr_<rate>" in words


def test_words(mixed: StudyResult) -> None:
    by_tpr, by_advantage = mixed.arms[2:]
    assert long_name(by_tpr) == "no attack above TPR 5% at FPR 2% (ε = 1.24)"
    assert short_name(by_tpr) == "TPR ≤ 5% at FPR 2%\n(ε = 1.24)"
    assert long_name(by_advantage) == "no attack with advantage above 10% (ε = 0.5)"
    assert short_name(by_advantage) == "advantage ≤ 10%\n(ε = 0.5)"
    assert long_name(mixed.arms[1]) == "differential privacy, ε = 3"
    # Without a cap for patients, records are what is protected.
    assert long_name(replace(by_tpr, cap=None)) == "no attack on one record above TPR 5% at FPR 2% (ε = 1.24)"
    assert "TPR: members found" in explanation(mixed)
    assert "TPR" not in explanation(replace(mixed, arms=mixed.arms[:2]))


def test_the_chart_holds_all_words(mixed: StudyResult) -> None:
    figure = charts.draw(mixed)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    trade_off = max(figure.axes, key=lambda axes: len(axes.texts))
    boxes = [text.get_window_extent(renderer) for text in trade_off.texts]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes.append(figure.legends[0].get_window_extent(renderer))
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert "no attack above TPR 5% at FPR 2%" in charts.svg(mixed).decode()


def test_the_table_fits_a_terminal(mixed: StudyResult) -> None:
    text = summary_table(mixed)
    assert "tpr=0.05@fpr=0.02" in text
    assert all(len(line) <= MAX_WIDTH for line in text.splitlines())
    assert "adv=0.1" in tradeoff_csv(mixed)


def test_tensorboard_has_the_epsilon_that_the_cap_took(mixed: StudyResult, tmp_path: Path) -> None:
    tensorboard.write_runs(tmp_path, mixed, lambda safe: {"chart": PNG})
    run = EventAccumulator(str(tmp_path / BY_TPR.label)).Reload()
    content = run.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["epsilon"].string_value == "1.23 (tpr=0.05@fpr=0.02)"
    assert values["inverse_epsilon"].number_value == pytest.approx(1 / 1.2341, abs=1e-4)
    assert run.Scalars("result/epsilon")[0].value == pytest.approx(1.2341)
