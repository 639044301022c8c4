"""`fleet.num_models=auto`: twins are added until every arm is known well enough; nothing is trained twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dptrain import cli
from dptrain.config import to_dict
from dptrain.errors import ConfigError, StudyError
from dptrain.report.enough import headline_widths
from dptrain.report.write import write_report
from dptrain.study import growth
from dptrain.study.folder import StudyFolder
from dptrain.study.runner import run_study
from dptrain.study.status import status_text

SETTINGS = (
    "fleet.num_models=auto",
    "fleet.max_models=16",
    "fleet.block_size=4",
    "fleet.workers=1",
    "fleet.headline_width=0.1",
    "baseline.num_models=2",
    "privacy.controls=false",
    "model=linear",
    "data.max_patients=60",
    "training.num_steps=5",
    "training.num_evaluations=1",
    "training.private.num_steps=3",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
)
FLEET = {"headline": "patient_auc_p99", "headline_width": 0.1, "max_models": 64}


@pytest.fixture(autouse=True)
def _few_at_first(monkeypatch) -> None:
    monkeypatch.setattr(growth, "FIRST", 4)


def run(path: Path, epsilon: str, widths) -> tuple[StudyFolder, list[tuple[int, tuple[str, ...]]]]:  # type: ignore[no-untyped-def]
    """Run one arm with a look that answers `widths(number of models, label)`; returns what was looked at too."""
    looked: list[tuple[int, tuple[str, ...]]] = []

    def look(study, labels):
        looked.append((study.num_models, tuple(labels)))
        assert all(study.logits(label).shape[0] == study.num_models for label in labels)
        return {label: widths(study.num_models, label) for label in labels}

    study = run_study(cli.compose([*SETTINGS, f"privacy.epsilon={epsilon}", f"study.dir={path}"]), look)
    return study, looked


def test_a_study_grows_until_every_arm_is_narrow_enough(tmp_path) -> None:
    path = tmp_path / "study"
    study, looked = run(path, "inf", lambda models, label: 0.28 / math.sqrt(models))
    assert [models for models, _ in looked] == [4, 8]
    assert study.num_models == 8
    coins = study.membership()
    kept = {file: file.stat().st_mtime_ns for file in path.rglob("*.npz")}
    assert study.settings["fleet"]["num_models"] == "auto"

    study, looked = run(path, "8", lambda models, label: 0.1 * (1 + (models < 12 and label == "eps=8")))
    assert looked == [(8, ("none", "eps=8")), (16, ("none", "eps=8"))]
    assert study.num_models == 16
    assert {label: len(study.logits(label)) for label in ("none", "eps=8")} == {"none": 16, "eps=8": 16}
    np.testing.assert_array_equal(study.membership()[:8], coins)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items()), "a finished block was trained again"

    assert "models  16 per arm in blocks of 4, so far: patient_auc_p99 to 0.1 was asked for" in status_text(path)
    _, looked = run(path, "8", lambda models, label: 0.1)
    assert [models for models, _ in looked] == [16]
    write_report(path, tensorboard_runs=False, key_file=tmp_path / "key")
    outcome = json.loads((path / "tradeoff.json").read_text())
    assert outcome["num_models"] == 16
    assert outcome["fleet"]["max_models"] == 16
    assert [look["num_models"] for look in outcome["fleet"]["looks"]] == [4, 8, 16]
    assert [look["verdict"] for look in outcome["fleet"]["looks"]] == ["more", "more", "narrow enough"]
    assert [one["num_models"] for one in outcome["arms"][0]["stability"]] == [4, 8, 16, 32, 64]


def test_it_goes_on_after_a_kill_and_stops_at_the_most(tmp_path, caplog) -> None:
    path = tmp_path / "study"

    def die(models: int, label: str) -> float:
        if models == 8:
            raise KeyboardInterrupt
        return 9.0

    with pytest.raises(KeyboardInterrupt):
        run(path, "inf", die)
    trained = len(list(path.rglob("block-*.npz")))
    study, looked = run(path, "inf", lambda models, label: 9.0)
    assert [models for models, _ in looked] == [8, 16]
    assert study.num_models == 16
    assert len(list(path.rglob("block-*.npz"))) == trained + 2
    assert "With 16 models per arm (fleet.max_models)" in caplog.text
    assert growth.state(path)["looks"][-1]["verdict"] == "max_models"


def test_the_coins_are_those_of_a_fixed_number(tmp_path) -> None:
    study, _ = run(tmp_path / "auto", "inf", lambda models, label: 0.0)
    settings = ["fleet.num_models=4" if item == SETTINGS[0] else item for item in SETTINGS]
    fixed = run_study(cli.compose([*settings, "privacy.epsilon=inf", f"study.dir={tmp_path / 'fixed'}"]))
    np.testing.assert_array_equal(study.membership(), fixed.membership())
    np.testing.assert_array_equal(study.logits("none"), fixed.logits("none"))
    assert fixed.growth() is None
    assert "headline" not in fixed.settings["fleet"]


@pytest.mark.parametrize("headline", ["patient_auc_p99", "attack_auc", "count_0.9"])
def test_real_looks(tmp_path, headline) -> None:
    settings = [*SETTINGS, "privacy.epsilon=inf", f"study.dir={tmp_path / 'study'}", f"fleet.headline={headline}"]
    study = run_study(cli.compose(settings), headline_widths)
    looks = growth.state(study.path)["looks"]
    assert looks[-1]["num_models"] == study.num_models
    known = [look["widths"]["none"] for look in looks if look["widths"]["none"] is not None]
    assert all(0 <= width < 2 for width in known)
    if headline == "count_0.9":
        assert looks[0]["widths"]["none"] is None, "4 models cannot resolve 0.9"


def test_how_many_are_asked_for(tmp_path) -> None:
    (tmp_path / "restricted").mkdir()

    def asked(seen: int, width: float, block_size: int = 4) -> int:
        growth.begin(tmp_path, seen)
        growth.grow(tmp_path, lambda: {"none": width}, FLEET, block_size, seen)
        return growth.state(tmp_path)["num_models"]

    assert asked(16, 0.1) == 16
    assert asked(16, 0.11) == 20
    assert asked(16, 0.5) == 32
    assert asked(16, math.inf) == 32
    assert asked(40, 0.5) == 64
    assert asked(64, 0.5) == 64
    assert asked(12, 0.11, block_size=3) == 18
    assert growth.largest_fleet(6, 64) == 60
    assert growth.models_at_first(4, 16, 256) == 16
    growth.begin(tmp_path, 32)
    assert growth.grow(tmp_path, lambda: pytest.fail("somebody else grew it"), FLEET, 4, 16)
    (tmp_path / "fleet.json").unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        growth.state(tmp_path)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError) as error:
        cli.compose(["fleet.num_models=auto", "fleet.headline=auc", "fleet.headline_width=2", "fleet.max_models=2"])
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError, match="even and at least 4"):
        cli.compose(["fleet.num_models=7"])
    assert to_dict(cli.compose(["fleet.num_models=auto"]))["fleet"]["num_models"] == 0
