"""Canaries of a release: coins drawn once, the bound in the statement, and a trainer without noise caught by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dptrain import cli
from dptrain.errors import StudyError
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.preflight import PreflightReport
from dptrain.release import history, run, train
from dptrain.release.canaries import canary_coins

SETTINGS = (
    "privacy.epsilon=0.5",
    "model=linear",
    "training.private.num_steps=20",
    "training.private.learning_rate=2",
    "training.private.schedule=constant",
    "release.dir=release",
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "release"


def call(capsys, *arguments: str) -> tuple[int, str]:
    code = 0
    try:
        cli.main(["train", *SETTINGS, *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


def test_the_statement_names_canaries_and_bound(capsys, folder) -> None:
    code, text = call(capsys, "audit.canaries=64")
    assert code == 0, text
    stated = json.loads((folder / "statement.json").read_text())
    bound = stated["lower_bound"]
    assert bound["num_canaries"] == 64
    assert bound["num_models"] == 1
    assert bound["epsilon_lower_bound"] <= stated["epsilon"]
    assert bound["num_guesses"] <= 64
    words = (folder / "statement.md").read_text()
    assert "Planted canaries: 64" in words
    assert any("64 canaries" in sentence for sentence in stated["outside"])
    file = folder / "restricted" / "canaries.npy"
    assert file.stat().st_mode & 0o077 == 0
    coins = np.load(file)
    assert 10 < coins.sum() < 54
    patients = {line["patients"] for line in history.read(Path("releases/restricted/breast_cancer.jsonl"))}
    code, _ = call(capsys, "release.dir=other")
    other = {line["patients"] for line in history.read(Path("releases/restricted/breast_cancer.jsonl"))}
    assert other == patients, "the same patients with and without canaries"
    assert json.loads(Path("other/statement.json").read_text())["lower_bound"] is None


def test_coins_are_drawn_once(tmp_path) -> None:
    restricted = tmp_path / "restricted"
    first = canary_coins(restricted, 40)
    np.testing.assert_array_equal(canary_coins(restricted, 40), first)
    (restricted / "config.json").write_text("{}")
    (restricted / "canaries.npy").unlink()
    with pytest.raises(StudyError, match="is gone"):
        canary_coins(restricted, 40)


def test_a_continued_run_keeps_its_coins(capsys, monkeypatch, folder) -> None:
    original = run.private_steps

    def steps(*arguments):
        inner, count = original(*arguments), iter(range(9))

        def one_step() -> float:
            if next(count) == 2:
                raise KeyboardInterrupt
            return inner()

        return one_step

    with monkeypatch.context() as patch:
        patch.setattr(run, "private_steps", steps)
        code, _ = call(capsys, "audit.canaries=64")
    assert code == 130
    assert not (folder / "statement.json").exists()
    coins = np.load(folder / "restricted" / "canaries.npy")
    code, text = call(capsys, "audit.canaries=64")
    assert code == 0, text
    np.testing.assert_array_equal(np.load(folder / "restricted" / "canaries.npy"), coins)
    bound = json.loads((folder / "statement.json").read_text())["lower_bound"]
    assert bound["num_canaries"] == 64
    code, text = call(capsys, "audit.canaries=32")
    assert code == 1
    assert "audit.canaries" in text


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_a_trainer_without_noise_is_caught_by_canaries_alone(capsys, monkeypatch, folder, factor) -> None:
    """Preflight and ledger are blind; nothing but the canaries can see that the noise is missing. Coins of a release
    are the operating system's: with 20 steps the bound was 1.9 or more in 14 of 14 runs, with 4 once below 0.5."""
    build, enter = PrivateEngine.__init__, Ledger.enter

    def broken(self, *args, **kwargs) -> None:
        build(self, *args, **kwargs)
        self.ledger.accounted = self._optimizer.noise_multiplier
        self._optimizer.noise_multiplier *= factor

    def lie(self, units, noise_multiplier, clipping_norm, divisor, noise_norm, sum_norm, num_values) -> None:
        noise_norm = self.accounted * clipping_norm * num_values**0.5
        enter(self, units, self.accounted, clipping_norm, divisor, noise_norm, sum_norm, num_values)

    monkeypatch.setattr(PrivateEngine, "__init__", broken)
    monkeypatch.setattr(Ledger, "enter", lie)
    monkeypatch.setattr(train, "check_training", lambda *args: PreflightReport(()))
    code, text = call(capsys, "audit.canaries=64", "data=sim_ecg", "data.max_patients=60")
    stated = json.loads((folder / "statement.json").read_text())
    if factor:
        assert code == 0, text
        assert stated["epsilon"] == pytest.approx(0.5, rel=0.01)
    else:
        assert code == 1
        assert "Canaries: epsilon is at least" in text
        assert stated["epsilon"] is None
        assert "Canaries: epsilon is at least" in stated["void"][0]
        assert not (folder / "model.safetensors").exists()
