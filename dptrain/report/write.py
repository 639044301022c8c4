"""Write a study's outcome into its folder. Everything written here can be deleted and made again."""

from __future__ import annotations

from pathlib import Path

from dptrain.report import charts, tensorboard
from dptrain.report.analysis import analyse
from dptrain.report.results import StudyResult
from dptrain.report.tradeoff import patient_risk_csv, tradeoff_csv, tradeoff_json
from dptrain.study.atomic import write_bytes, write_text
from dptrain.study.folder import StudyFolder


def write_report(study_path: str | Path, *, tensorboard_runs: bool = True) -> Path:
    """Analyse the study and write chart, tables and TensorBoard runs; returns the path of tradeoff.png.

    Raises:
        StudyError: no study, no complete arm, or the folder cannot be written.
        PrivacyError: an attack beats a guarantee; nothing is written.
    """
    path = Path(study_path)
    return write_result(path, analyse(StudyFolder.open(path)), tensorboard_runs=tensorboard_runs)


def write_result(path: Path, result: StudyResult, *, tensorboard_runs: bool = True) -> Path:
    """Write an analysed study into the folder `path`; returns the path of tradeoff.png."""
    picture = charts.png(result)
    write_text(path / "restricted" / "patient_risk.csv", patient_risk_csv(result))
    write_text(path / "tradeoff.csv", tradeoff_csv(result))
    write_bytes(path / "tradeoff.svg", charts.svg(result))
    write_bytes(path / "tradeoff.png", picture)
    if tensorboard_runs:
        tensorboard.write_runs(path / "tensorboard", result, charts.png(result, dpi=tensorboard.CHART_DPI))
    write_text(path / "tradeoff.json", tradeoff_json(result))
    return path / "tradeoff.png"
