"""Write a study's outcome into its folder. Everything written here can be deleted and made again."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dptrain.report import charts, tensorboard
from dptrain.report.analysis import LARGE, analyse
from dptrain.report.build import document_of
from dptrain.report.bundle import FOLDER as RELEASE
from dptrain.report.bundle import write_release
from dptrain.report.compare import compare
from dptrain.report.contradictions import GuaranteeRefuted
from dptrain.report.document import Document
from dptrain.report.gate import VERDICT, choice_for_report
from dptrain.report.page.comparison import render_comparison
from dptrain.report.page.render import render
from dptrain.report.parallel import in_order
from dptrain.report.policy import Policy
from dptrain.report.pseudonyms import study_domain
from dptrain.report.restricted import write_restricted
from dptrain.report.results import StudyResult
from dptrain.report.suppression import Rule
from dptrain.report.tradeoff import tradeoff_csv, tradeoff_json
from dptrain.study.arm_record import REFUTED
from dptrain.study.atomic import write_bytes, write_text
from dptrain.study.folder import StudyFolder

PAGES = "report"
"""Folder of the report's pages in a study."""
CHART = "tradeoff.png"
OUTCOME = ("tradeoff.json", "tradeoff.csv", "tradeoff.svg", CHART)
log = logging.getLogger(__name__)


def write_report(
    study_path: str | Path,
    *,
    tensorboard_runs: bool = True,
    pages: bool = False,
    key_file: Path | None = None,
    rule: Rule | None = None,
    policy: Policy | None = None,
) -> Path:
    """Analyse the study and write chart, tables and TensorBoard runs; returns the path of tradeoff.png.

    With `pages` also the report's pages, for the house (`report/`) and, under disclosure control by `rule`, for release
    (`release/`); they need a longer analysis. With a `policy` they say which epsilon meets it. `key_file` is the key of
    the pseudonyms; by default the house's.

    Raises:
        StudyError: no study, no complete arm, or the folder cannot be written.
        DisclosureError: the document holds something that disclosure control does not know; no release is written.
        GuaranteeRefuted: an attack beats a guarantee. No outcome is written, an earlier one is withdrawn, and the arm
            says why (`withdraw`); what was trained is not touched.
    """
    path = Path(study_path)
    study = StudyFolder.open(path)
    try:
        result = analyse(study, details=pages)
    except GuaranteeRefuted as refuted:
        withdraw(path, refuted.by_arm)
        raise
    for label in study.arm_labels():
        (path / "arms" / label / REFUTED).unlink(missing_ok=True)
    tasks: list[Callable[[], object]] = [
        lambda: write_restricted(path, result, study_domain(study.info), key_file),
        lambda: write_result(path, result, tensorboard_runs=tensorboard_runs),
    ]
    if pages:
        document = document_of(result, study.info, {arm.label: study.ledgers(arm.label) for arm in result.arms})
        if policy is not None:
            document = replace(document, choice=choice_for_report(study, result, policy))
        tasks += [
            lambda: write_pages(path, document),
            lambda: write_release(path, document, rule or Rule(), study.cohort().patient_ids.tolist()),
        ]

    def do(index: int) -> None:
        tasks[index]()

    many = result.num_patients * result.num_models > LARGE
    in_order(do, range(len(tasks)), most_workers=2 if many else 1)
    return path / CHART


def write_pages(path: Path, document: Document) -> None:
    """Write a report document into the study's folder `path`."""
    for name, text in render(document).items():
        write_text(path / PAGES / name, text)


def write_comparison(paths: Sequence[Path], folder: Path) -> Path:
    """Compare studies and write the pages into `folder`, which is returned. Raises as `compare.compare`."""
    for name, text in render_comparison(compare(paths)).items():
        write_text(folder / name, text)
    return folder


def withdraw(path: Path, by_arm: Mapping[str, Sequence[str]]) -> None:
    """Write `arms/<label>/refuted.txt` for every refuted arm, and remove an outcome that is there: it may show the
    arm's epsilon as fulfilled, or that of another arm which the same trainer made. It can be drawn again."""
    for label, lines in by_arm.items():
        write_text(path / "arms" / label / REFUTED, "\n".join(lines) + "\n")
    old = [path / name for name in (*OUTCOME, VERDICT) if (path / name).exists()]
    for file in old:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
    if (path / "tensorboard").is_dir():
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
    for folder in (PAGES, RELEASE):
        if (path / folder).is_dir():
            shutil.rmtree(path / folder, ignore_errors=True)
    if old:
        log.warning("Removed the outcome of an earlier run, which does not hold: %s.", ", ".join(map(str, old)))


def write_result(path: Path, result: StudyResult, *, tensorboard_runs: bool = True) -> Path:
    """Write an analysed study into the folder `path`; returns the path of tradeoff.png."""
    picture = charts.png(result)
    write_text(path / "tradeoff.csv", tradeoff_csv(result))
    write_bytes(path / "tradeoff.svg", charts.svg(result))
    write_bytes(path / CHART, picture)
    if tensorboard_runs:
        tensorboard.write_runs(path / "tensorboard", result)
    write_text(path / "tradeoff.json", tradeoff_json(result))
    return path / CHART
