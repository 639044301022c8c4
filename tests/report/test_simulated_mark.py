"""Simulated data are called simulated wherever their name appears, and real data never are."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

from dptrain.check_command import check
from dptrain.cli import compose
from dptrain.report import charts
from dptrain.report.results import StudyResult
from dptrain.report.table import markdown_table, summary_table
from dptrain.report.tensorboard import write_runs
from dptrain.report.tradeoff import tradeoff_csv, tradeoff_json
from dptrain.report.words import subtitle
from dptrain.study.runner import prepare_study
from dptrain.study.status import status_text

MARK = "(SIMULATED data)"


@pytest.mark.parametrize("simulated", [True, False])
def test_chart_tables_and_tensorboard(tmp_path: Path, result: StudyResult, simulated: bool) -> None:
    shown = dataclasses.replace(result, simulated=simulated)
    for text in (subtitle(shown), summary_table(shown), markdown_table(shown), charts.svg(shown).decode()):
        assert (f"fake {MARK}" in text) == simulated
        assert "fake" in text
    assert json.loads(tradeoff_json(shown))["simulated"] is simulated
    assert {row["simulated"] for row in csv.DictReader(io.StringIO(tradeoff_csv(shown)))} == {str(simulated)}
    write_runs(tmp_path, shown)
    events = b"".join(file.read_bytes() for file in (tmp_path / "study").iterdir())
    assert (MARK.encode() in events) == simulated


@pytest.mark.parametrize("data, simulated", [("data=sim_ehr", True), ("data=breast_cancer", False)])
def test_status_and_preflight(tmp_path: Path, data: str, simulated: bool) -> None:
    settings = [data, "data.max_patients=60", "data.delta=1e-3", "model=linear", f"study.dir={tmp_path / 'study'}"]
    if simulated:
        settings += ["data.num_patients=60"]
    config = compose(settings)
    name = data.removeprefix("data=")
    assert (f"{name} {MARK}:" in status_text(prepare_study(config).path)) == simulated
    assert (f"on {name} {MARK}:" in check(config)[1]) == simulated
