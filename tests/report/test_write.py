"""Everything lands where docs/study.md says; of a broken guarantee only the refutation is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dptrain.errors import PrivacyError
from dptrain.report import write
from dptrain.report.results import StudyResult
from tests.report.fake_study import EPS_3, NONE, FakeStudy


def test_the_whole_outcome_is_written_twice_the_same(result: StudyResult, tmp_path: Path) -> None:
    chart = write.write_result(tmp_path, result)
    assert chart == tmp_path / "tradeoff.png"
    names = ("tradeoff.png", "tradeoff.svg", "tradeoff.csv", "tradeoff.json")
    first = {name: (tmp_path / name).read_bytes() for name in names}
    assert (tmp_path / "tensorboard" / "eps=3").is_dir()
    write.write_result(tmp_path, result, tensorboard_runs=False)
    assert {name: (tmp_path / name).read_bytes() for name in names} == first
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_study_whose_guarantee_is_beaten_gets_no_chart_and_loses_an_earlier_one(
    result: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write.write_result(tmp_path, result)
    leaking = FakeStudy((NONE, EPS_3)).with_arm(EPS_3, num_exposed=60, noise_multiplier=150.0)
    monkeypatch.setattr(write.StudyFolder, "open", lambda path: leaking)
    with pytest.raises(PrivacyError) as caught:
        write.write_report(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["arms/eps=3/refuted.txt"]
    assert (tmp_path / "arms" / "eps=3" / "refuted.txt").read_text() == str(caught.value) + "\n"
    assert "SECRET" not in str(caught.value)
