"""Words of the chart: what counts as a patient."""

from __future__ import annotations

import dataclasses

import pytest

from dptrain.cohorts import ham10000, npz
from dptrain.report.results import StudyResult
from dptrain.report.words import explanation, subtitle


def test_patients_are_called_patients(result: StudyResult) -> None:
    assert f"{result.num_patients:,} training patients" in subtitle(result)
    assert "ε protects one patient with all records" in subtitle(result)
    assert "identifiers" not in explanation(result)


@pytest.mark.parametrize(("warning", "word"), [(npz.UNIT_WARNING, "image"), (ham10000.UNIT_WARNING, "lesion")])
def test_what_stands_in_for_patients_is_named(result: StudyResult, warning: str, word: str) -> None:
    """The readers' own warnings: a chart that promised patients a protection they do not have would mislead."""
    shown = dataclasses.replace(result, warnings=("Another one.", warning))
    assert f"{result.num_patients:,} training {word}s, {result.num_test_patients:,} test {word}s" in subtitle(shown)
    assert f"ε protects one {word}" in subtitle(shown)
    assert f"read “{word}” for “patient”" in explanation(shown)
    assert "patient" not in subtitle(shown)
