"""The summary of a study as a table: plain text for the terminal, Markdown for TensorBoard."""

from __future__ import annotations

import textwrap

from dptrain.report.results import HEADLINE_THRESHOLD, ArmResult, Estimate, StudyResult

_SECOND_THRESHOLD = 0.8
MAX_WIDTH = 100


def summary_table(result: StudyResult) -> str:
    """A few lines, at most 100 columns wide, for the terminal."""
    header, rows = _cells(result)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])

    lines = [_title(result)[:MAX_WIDTH], "", line(header), *map(line, rows), "", *_by_label(result), *_notes(result)]
    return "\n".join(lines)


def markdown_table(result: StudyResult, min_count: int = 0) -> str:
    """The same as Markdown; fewer than `min_count` patients are told as such, without their number."""
    header, rows = _cells(result, min_count)
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    notes = [*_by_label(result), *_notes(result)]
    return "\n".join([_title(result), "", *lines, "", *(note + "  " for note in notes)])


def _title(result: StudyResult) -> str:
    simulated = " (SIMULATED data)" if result.simulated else ""
    return f"{result.cohort}{simulated}: {result.num_patients:,} patients, {result.num_models} models per arm"


def _cells(result: StudyResult, min_count: int = 0) -> tuple[list[str], list[list[str]]]:
    header = [
        "arm",
        "epsilon",
        "AUROC (95%)",
        "LR",
        "attack AUC",
        "limit",
        "p99",
        f">={_SECOND_THRESHOLD:g}",
        f">={HEADLINE_THRESHOLD:g}",
    ]
    return header, [_row(arm, min_count) for arm in result.arms]


def _row(arm: ArmResult, min_count: int) -> list[str]:
    return [
        arm.label,
        "-" if arm.epsilon is None else f"{arm.epsilon:.3f}",
        _interval(arm.utility.mean),
        "-" if arm.baseline is None else f"{arm.baseline.utility.mean.value:.3f}",
        f"{arm.attack.auc.value:.3f}",
        "-" if arm.cap is None else f"{arm.cap.auc:.3f}",
        f"{arm.risk.p99.value:.3f}",
        _count(arm, _SECOND_THRESHOLD, min_count),
        _count(arm, HEADLINE_THRESHOLD, min_count),
    ]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def _count(arm: ArmResult, threshold: float, min_count: int) -> str:
    """Patients, and in brackets how many chance alone would show."""
    one = arm.exposed(threshold)
    if not one.resolvable:
        return "n/r"
    expected = f"{one.null_expected:.2f}" if one.null_expected >= 0.005 else "0"
    count = f"{one.count:,}" if one.count >= min_count else f"<{min_count}"
    return f"{count} [{expected}]"


def _by_label(result: StudyResult) -> list[str]:
    """Lines with the AUROC of each class or label under each arm, as wide as the terminal allows."""
    lines: list[str] = []
    for arm in result.arms:
        each = [f"{name} {one.value:.3f}" for name, one in arm.utility.per_label.items()]
        if each:
            lines += textwrap.wrap(f"AUROC, {arm.label}: {', '.join(each)}", MAX_WIDTH, subsequent_indent="  ")
    return [*lines, ""] if lines else []


def _notes(result: StudyResult) -> list[str]:
    notes = [
        "LR: AUROC of logistic regression with the same privacy, the simplest model.",
        "attack AUC: average patient, 0.5 = guessing.  limit: largest that the guarantee allows.",
        "p99: patient AUC that the most exposed 1% of patients reach; chance alone shows "
        f"{result.arms[0].risk.null_p99.value:.3f}.",
        "Column >=0.9: patients with a patient AUC of at least 0.9 [expected if nothing leaked].",
    ]
    for arm in result.arms:
        if arm.patient_level is not None:
            level = arm.patient_level
            notes.append(
                f"{arm.label} protects single records; a patient with the most records ({level['records']['max']}): "
                f"epsilon {level['epsilon']['max']:.3f}."
            )
    if any(not arm.exposed(t).resolvable for arm in result.arms for t in (_SECOND_THRESHOLD, HEADLINE_THRESHOLD)):
        notes.append(f"n/r: not resolvable with {result.num_models} models; train more (fleet.num_models).")
    return notes
