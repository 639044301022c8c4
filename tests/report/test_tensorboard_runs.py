"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from dptrain.report import tensorboard
from dptrain.report.results import StudyResult

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff\xff\x7f\x00\t\xfb\x03\xfd\x05CE\xca\x00\x00\x00\x00IEND\xaeB`\x82"
)


@pytest.fixture(scope="module")
def folder(result: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tensorboard"
    tensorboard.write_runs(path, result, lambda safe: {"chart": PNG})
    return path


def _read(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def _hparams(run: EventAccumulator) -> dict[str, plugin_data_pb2.HParamsPluginData]:
    contents = run.PluginTagToContent("hparams")
    return {tag: plugin_data_pb2.HParamsPluginData.FromString(content) for tag, content in contents.items()}


def test_every_arm_is_one_run_with_one_file(folder: Path, result: StudyResult) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*(arm.label for arm in result.arms), "study"])
    assert all(len(list(run.iterdir())) == 1 for run in folder.iterdir())


def test_hparams_have_text_for_epsilon_and_a_finite_inverse(folder: Path) -> None:
    expected = {"none": ("none", 0.0), "matched": ("matched", 0.0), "eps=3": ("3", 1 / 3)}
    for label, (text, inverse) in expected.items():
        found = _hparams(_read(folder / label))
        assert set(found) == {
            "_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"
        }  # fmt: skip
        values = found["_hparams_/session_start_info"].session_start_info.hparams
        assert values["epsilon"].string_value == text
        assert values["inverse_epsilon"].number_value == pytest.approx(inverse, rel=1e-3)
        metrics = [info.name.tag for info in found["_hparams_/experiment"].experiment.metric_infos]
        assert set(metrics) <= set(_read(folder / label).Tags()["scalars"])


def test_scalars_are_finite_and_say_what_the_result_says(folder: Path, result: StudyResult) -> None:
    for arm in result.arms:
        run = _read(folder / arm.label)
        for tag in run.Tags()["scalars"]:
            assert all(math.isfinite(event.value) for event in run.Scalars(tag)), tag
        final = run.Scalars("result/performance_auroc")
        assert [event.step for event in final] == [arm.num_steps]
        assert final[0].value == pytest.approx(arm.utility.mean.value)
        assert len(run.Scalars("training/performance_auroc/mean")) == len(arm.curves.step)
        assert ("training/epsilon_spent" in run.Tags()["scalars"]) == arm.is_private


def test_chart_and_table_are_in_the_run_of_the_study(folder: Path) -> None:
    run = _read(folder / "study")
    assert run.Images("chart")[0].encoded_image_string == PNG
    assert run.Images("chart")[0].width == 1
    text = run.Tensors("table")[0].tensor_proto.string_val[0].decode()
    assert "\n\n| arm |" in text, "a Markdown table begins after an empty line"
    assert "custom_scalars__config__" in run.Tags()["tensors"]


def test_drawing_again_replaces_the_runs(folder: Path, result: StudyResult) -> None:
    before = {path for path in folder.rglob("*") if path.is_file()}
    tensorboard.write_runs(folder, result, lambda safe: {"chart": PNG})
    after = {path for path in folder.rglob("*") if path.is_file()}
    assert len(after) == len(before)
    assert not before & after
    assert len(_read(folder / "none").Scalars("result/attack_auc")) == 1


def test_nothing_of_a_patient_is_in_an_event_file(folder: Path, result: StudyResult) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"SECRET" not in path.read_bytes()
            assert b"patient_auc_max" not in path.read_bytes()
