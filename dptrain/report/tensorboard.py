"""TensorBoard: every arm is one run, `<study>/tensorboard/<label>`; pictures and table are the run `study`.

The only writer of event files. A run is one file, written whole under a hidden name and renamed; older files of the run
are then removed, so drawing a study again replaces its runs. HParams are the three protos of the HParams plugin in the
run's own file (`add_hparams` of PyTorch would make a nested run), epsilon as text ("8", "none") beside a finite
`inverse_epsilon`: a number `inf` would drop the run without privacy from the plots. The study is a hyperparameter and
part of the trial's name too: TensorBoard averages over runs of one name.

Event files have no access control and are copied around. So they hold no identifier, and everything about single
patients comes from groups of ten (`coarse`): no value of one patient and no count of fewer.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from dptrain.report import charts
from dptrain.report.budget_chart import budget_png
from dptrain.report.coarse import coarse
from dptrain.report.results import ArmResult, StudyResult
from dptrain.report.suppression import Rule
from dptrain.report.table import markdown_table
from dptrain.study.atomic import make_folder, write_bytes

CHART_DPI = 100
"""1200 pixels: the Images page shows no more."""
STUDY_RUN = "study"
_PERFORMANCE = "result/performance_auroc"
_RISK = "result/risk_patient_auc_p99"
_ATTACK = "result/attack_auc"
_METRICS = {
    _PERFORMANCE: ("performance", "AUROC on test patients"),
    _RISK: ("risk", "patient AUC that the most exposed 1% reach, patients in groups of ten; 0.5 is chance"),
    _ATTACK: ("attack", "AUC of the membership inference attack on the average patient; 0.5 is chance"),
}
Draw = Callable[[StudyResult], Mapping[str, bytes]]


def pictures(result: StudyResult) -> dict[str, bytes]:
    """PNGs by tag."""
    found = {"chart": charts.png(result, dpi=CHART_DPI)}
    budget = budget_png(result, dpi=CHART_DPI)
    return found if budget is None else {**found, "performance_against_epsilon_spent": budget}


def write_runs(folder: Path, result: StudyResult, draw: Draw = pictures) -> None:
    """Write one run per arm and the run `study` below `folder`, replacing those that are there.

    `folder` lies in the study's own, whose name is the hyperparameter `study`. `draw` gets the result with patients in
    groups.
    """
    rule = Rule()
    safe = coarse(result, rule)
    name = folder.absolute().parent.name
    for arm in safe.arms:
        _write_run(folder / arm.label, [*_hparams(arm, name), *_curves(arm), *_final(arm), _session_end()])
    images = [_image(tag, png) for tag, png in draw(safe).items()]
    table = f"{markdown_table(safe, rule.min_count)}\nPatients are taken in groups of {rule.min_count}."
    _write_run(folder / STUDY_RUN, [_layout(), *images, _text("table", table)])


def _write_run(folder: Path, summaries: Iterable[tuple[int, Summary]]) -> None:
    """One event file with these (step, summary); files that were there before are removed once the new one is whole."""
    now = time.time_ns()
    stream = io.BytesIO()
    records = RecordWriter(stream)
    records.write(Event(wall_time=now / 1e9, file_version="brain.Event:2").SerializeToString())
    for step, summary in summaries:
        records.write(Event(wall_time=now / 1e9, step=step, summary=summary).SerializeToString())
    make_folder(folder)
    # The name sorts by time: a TensorBoard that is running moves on to it, and of two jobs that write at once the
    # later file stays.
    name = f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.dptrain"
    write_bytes(folder / name, stream.getvalue())
    for old in sorted(folder.glob("events.out.tfevents.*")):
        if old.name < name:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()


def _scalar(tag: str, value: float, step: int) -> list[tuple[int, Summary]]:
    if not math.isfinite(value):
        return []
    return [(step, Summary(value=[Summary.Value(tag=tag, simple_value=float(value))]))]


def _curves(arm: ArmResult) -> list[tuple[int, Summary]]:
    curves = arm.curves
    found = _band("training/loss", curves.step, curves.train_loss)
    found += _band("training/performance_auroc", curves.step, curves.utility)
    if curves.epsilon is not None:
        for step, epsilon in zip(curves.step, curves.epsilon, strict=True):
            found += _scalar("training/epsilon_spent", float(epsilon), int(step))
    return found


def _band(tag: str, step_E: NDArray[np.int64], values_ME: NDArray[np.float64]) -> list[tuple[int, Summary]]:
    """Mean and the middle 80% of models at every step."""
    found: list[tuple[int, Summary]] = []
    for step, values in zip(step_E, np.asarray(values_ME, dtype=np.float64).T, strict=True):
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.quantile(values, [0.1, 0.9])
            for name, value in (("mean", values.mean()), ("low", low), ("high", high)):
                found += _scalar(f"{tag}/{name}", float(value), int(step))
    return found


def _final(arm: ArmResult) -> list[tuple[int, Summary]]:
    figures = {
        _PERFORMANCE: arm.utility.mean.value,
        _RISK: arm.risk.p99.value,
        _ATTACK: arm.attack.auc.value,
        "result/risk_patient_auc_median": arm.risk.median,
    }
    if arm.epsilon is not None:
        figures["result/epsilon"] = arm.epsilon
    return [one for tag, value in figures.items() for one in _scalar(tag, value, arm.num_steps)]


def _hparams(arm: ArmResult, study: str) -> list[tuple[int, Summary]]:
    text, number = _epsilon(arm)
    values = {"study": study, "epsilon": text, "inverse_epsilon": float(f"{1.0 / number:.4g}") if number else 0.0}
    experiment = summary_v2.hparams_config_pb(
        hparams=[
            summary_v2.HParam("study"),
            summary_v2.HParam("epsilon"),
            summary_v2.HParam("inverse_epsilon", display_name="1 / epsilon"),
        ],
        metrics=[summary_v2.Metric(tag, display_name=name, description=d) for tag, (name, d) in _METRICS.items()],
    )
    return [(0, experiment), (0, summary_v2.hparams_pb(values, trial_id=f"{study}/{arm.label}"))]


def _epsilon(arm: ArmResult) -> tuple[str, float | None]:
    """As text, and as a number: what was asked for, or what a cap on attacks took."""
    if arm.target_epsilon is not None:
        return f"{arm.target_epsilon:g}", arm.target_epsilon
    if arm.epsilon is not None:
        return f"{arm.epsilon:.3g} ({arm.label})", arm.epsilon
    return arm.label, None


def _session_end() -> tuple[int, Summary]:
    content = plugin_data_pb2.HParamsPluginData(
        version=hparams_metadata.PLUGIN_DATA_VERSION,
        session_end_info=plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()),
    )
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(
            plugin_name=hparams_metadata.PLUGIN_NAME, content=content.SerializeToString()
        )
    )
    value = Summary.Value(
        tag=hparams_metadata.SESSION_END_INFO_TAG, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR
    )
    return 0, Summary(value=[value])


def _image(tag: str, png: bytes) -> tuple[int, Summary]:
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    return 0, Summary(value=[Summary.Value(tag=tag, image=image)])


def _text(tag: str, markdown: str) -> tuple[int, Summary]:
    metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    return 0, Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _layout() -> tuple[int, Summary]:
    """Charts of the Custom Scalars page: mean with the band of the middle 80% of models."""

    def band(title: str, tag: str) -> layout_pb2.Chart:
        series = layout_pb2.MarginChartContent.Series(value=f"{tag}/mean", lower=f"{tag}/low", upper=f"{tag}/high")
        return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))

    charts = [
        band("Performance on test patients (AUROC)", "training/performance_auroc"),
        band("Training loss", "training/loss"),
        layout_pb2.Chart(
            title="Epsilon spent", multiline=layout_pb2.MultilineChartContent(tag=["training/epsilon_spent"])
        ),
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="Mean and middle 80% of models", chart=charts)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    value = Summary.Value(
        tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
        metadata=custom_scalar_metadata.create_summary_metadata(),
        tensor=tensor,
    )
    return 0, Summary(value=[value])
