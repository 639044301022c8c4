"""Studies side by side: what is refused, what is said, and paired differences where patients are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dptrain.attacks.signals import compute_signals
from dptrain.audit import patient_auc, patient_evidence
from dptrain.cohorts.cohort import Cohort
from dptrain.errors import StudyError
from dptrain.report import compare as module
from dptrain.report.compare import Comparison, compare
from dptrain.report.page.comparison import render_comparison
from tests.report.fake_study import EPS_3, NONE, FakeStudy


@dataclasses.dataclass(frozen=True)
class FolderStudy(FakeStudy):
    """A fake study with what a folder knows beside it."""

    name: str = "one"
    unit: str = "patient"
    fingerprint: str = "same data"

    @property
    def info(self) -> dict[str, Any]:
        cohort = {"label_names": ["no", "yes"], "outside_dp": [], "task": self.task, "fingerprint": self.fingerprint}
        known = {"name": self.name, "dptrain": "0.1.0", "fingerprint": "f" * 64}
        return {**known, "settings": self.settings, "cohort": cohort}

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = {
            **self.settings,
            "data": {"name": "fake", "path": "/secret"},
            "model": {"name": "mlp", "options": {"width": 8 if self.name == "one" else 64}},
            "privacy": {"unit": self.unit, "delta": 1e-3},
            "training": {"num_steps": 3},
            "fleet": {"num_models": self.num_models},
        }
        object.__setattr__(self, "settings", settings)

    def ledgers(self, label: str) -> list[dict[str, Any]]:
        return []


def compared(monkeypatch: pytest.MonkeyPatch, *studies: FolderStudy) -> Comparison:
    by_path = {Path(f"study{place}"): study for place, study in enumerate(studies)}
    monkeypatch.setattr(module.StudyFolder, "open", classmethod(lambda cls, path: by_path[Path(path)]))
    return compare(list(by_path))


SMALL = FolderStudy(fake_arms=(NONE, EPS_3), num_models=8)
WIDE = FolderStudy(fake_arms=(dataclasses.replace(NONE, num_exposed=20), EPS_3), num_models=8, name="wide")


def risks(study: FakeStudy, label: str) -> Any:
    cohort: Cohort = study.cohort()
    rows = np.flatnonzero(np.isin(cohort.patient, cohort.train_patients))
    place = np.searchsorted(cohort.train_patients, cohort.patient[rows])
    signals = compute_signals(study.logits(label)[:, rows], np.asarray(cohort.labels)[rows], cohort.task)
    return patient_auc(patient_evidence(signals, place, study.num_train), study.membership())


def test_same_patients_and_halves_are_compared_patient_by_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(monkeypatch, SMALL, WIDE)
    assert [(one.study, one.label) for one in found.paired] == [("wide", "none"), ("wide", "eps=3")]
    difference = (risks(WIDE, "none") - risks(SMALL, "none")).mean()
    assert found.paired[0].difference.patient_auc_mean.value == pytest.approx(difference, abs=1e-6)
    assert dict(found.differs) == {"model.options.width": ("8", "64")}
    assert found.cautions == ()


def test_other_data_other_halves_other_sizes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    other_data = dataclasses.replace(WIDE, fingerprint="other data")
    found = compared(monkeypatch, SMALL, other_data)
    assert not found.paired
    assert "different data" in found.cautions[0]
    more_models = dataclasses.replace(WIDE, num_models=12)
    found = compared(monkeypatch, SMALL, more_models)
    assert not found.paired
    for words in ("random halves", "numbers of models"):
        assert any(words in text for text in found.cautions)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (dataclasses.replace(WIDE, unit="record"), "different promises"),
        (dataclasses.replace(WIDE, task="multiclass"), "same kind of task"),
    ],
)
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, other: FolderStudy, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        compared(monkeypatch, SMALL, other)


def test_one_study_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.StudyFolder, "open", classmethod(lambda cls, path: SMALL))
    with pytest.raises(StudyError, match="two or more different"):
        compare([Path("study"), Path("study")])


def test_the_pages_of_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    files = render_comparison(compared(monkeypatch, SMALL, WIDE))
    assert set(files) == {"comparison.html", "comparison.md", "comparison.json", "figures/compared.svg"}
    for name in ("comparison.html", "comparison.md"):
        assert "What differs between the studies" in files[name]
        assert "model.options.width" in files[name]
        assert "wide" in files[name]
    assert json.loads(files["comparison.json"])["schema"] == 1
    assert not any(word in text for text in files.values() for word in ("SECRET", "/secret", "<script", "http://1"))
