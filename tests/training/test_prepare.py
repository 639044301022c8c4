"""A probe on a frozen encoder, from the command line to the chart and the released model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch import jit, nn

from dptrain import cli
from dptrain.release.model_file import load_model
from dptrain.study.folder import StudyFolder
from dptrain.training.prepare import prepared_cohort


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    jit.script(nn.Sequential(nn.Linear(30, 7), nn.Tanh())).save(str(tmp_path / "encoder.pt"))
    return tmp_path / "encoder.pt"


def settings(tmp_path: Path, encoder: Path) -> list[str]:
    return ["model=linear_probe", f"model.encoder={encoder}", f"model.cache_dir={tmp_path / 'cache'}"]


def test_features_take_the_place_of_the_records(tmp_path, encoder):
    cohort = prepared_cohort(cli.compose(settings(tmp_path, encoder)))
    assert cohort.features.shape == (569, 7)
    assert "frozen encoder encoder.pt" in cohort.outside_dp[-1]
    plain = prepared_cohort(cli.compose([]))
    assert plain.features.shape == (569, 30)
    assert plain.fingerprint() != cohort.fingerprint()
    assert np.array_equal(plain.is_test, cohort.is_test)


def test_study_and_release_of_a_probe(tmp_path, encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["fleet.num_models=4", "fleet.workers=1", "training.num_steps=5", "training.private.num_steps=3",
            "attack.num_permutations=20", "attack.num_bootstrap=20", "baseline.num_models=2"]  # fmt: skip
    cli.main(["privacy.epsilon=8", "study.dir=study", *tiny, *settings(tmp_path, encoder)])
    assert not cli._failures
    study = StudyFolder.open("study")
    assert study.cohort().features.shape == (569, 7)
    assert study.arm("eps=8").num_parameters == 8
    # Moved weights with the same contents are the same study.
    moved = tmp_path / "elsewhere" / "encoder.pt"
    moved.parent.mkdir()
    moved.write_bytes(encoder.read_bytes())
    cli.main(["privacy.epsilon=8", "study.dir=study", *tiny, *settings(tmp_path, moved)])
    assert not cli._failures
    cli.main(["train", "privacy.epsilon=8", "release.dir=release", "training.private.num_steps=3",
              *settings(tmp_path, encoder)])  # fmt: skip
    assert sum(param.numel() for param in load_model("release").parameters()) == 8
    statement = json.loads(Path("release/statement.json").read_text())
    assert any("frozen encoder encoder.pt" in sentence for sentence in statement["outside"])
    assert str(tmp_path) not in Path("release/model.json").read_text()
