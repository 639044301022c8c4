"""A trainer with its noise switched off behind the accountant's back: three layers look, and each alone refuses it.

    make test PYTEST_FLAGS="-s -m slow -k broken_trainer"     prints who catches what

*Preflight*: steps of the engine before training. *Ledger*: what each model's training really added, compared with
what is accounted. *Audit*: what the finished models tell about their patients, compared with the cap; it knows nothing
of how they were made. Layers are made blind one by one; the study is the real one, trained on real patients.

The recipe is one in which attacks on finished models come close to what the mechanism allows (few patients, few
full-batch steps, a linear model whose gradients are all clipped), and epsilon one whose cap is near chance. With a
recipe that leaks less, noise ten times too small is far below what an attack on finished models can see; only the other
two layers are then left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dptrain import cli
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.fused.engine import FusedEngine
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.preflight import PreflightReport
from dptrain.report import analysis
from dptrain.study import runner
from dptrain.study.folder import StudyFolder

SETTINGS = (
    "privacy.epsilon=0.3",
    "privacy.controls=false",
    "fleet.num_models=128",
    "fleet.block_size=16",
    "model=linear",
    "data.max_patients=100",
    "data.nominal_patients=70",
    "training.num_steps=20",
    "training.num_evaluations=1",
    "training.private.num_steps=4",
    "training.private.learning_rate=1",
    "training.private.schedule=constant",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
)
FAULTS = {"noise as accounted": 1.0, "noise a tenth": 0.1, "no noise": 0.0}
LAYERS = ("preflight", "ledger", "audit")
OUTCOME = ("tradeoff.json", "tradeoff.csv", "tradeoff.svg", "tradeoff.png")

pytestmark = pytest.mark.slow
_caught: dict[tuple[str, tuple[str, ...]], str] = {}


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch) -> None:
    """What passed a preflight in this process before must not pass now."""
    monkeypatch.setattr(runner, "_passed", {})


def scale_noise(monkeypatch, factor: float) -> None:
    """The engine draws `factor` times the noise that is accounted. Forked workers inherit it."""
    build = PrivateEngine.__init__

    def broken(self, *args, **kwargs) -> None:
        build(self, *args, **kwargs)
        self.ledger.accounted = self._optimizer.noise_multiplier
        self._optimizer.noise_multiplier *= factor

    monkeypatch.setattr(PrivateEngine, "__init__", broken)
    build_fused = FusedEngine.__init__

    def broken_fused(self, *args, **kwargs) -> None:
        build_fused(self, *args, **kwargs)
        for ledger in self.ledgers:
            ledger.accounted = self.noise_multiplier
        self.noise_multiplier *= factor

    monkeypatch.setattr(FusedEngine, "__init__", broken_fused)


def make_blind(monkeypatch, layer: str) -> None:
    """Preflight and audit find nothing; the ledger enters the noise that is accounted instead of what it measured."""
    if layer == "preflight":
        monkeypatch.setattr(runner, "check_training", lambda *args: PreflightReport(()))
    elif layer == "ledger":
        enter = Ledger.enter

        def lie(self, units, noise_multiplier, clipping_norm, divisor, noise_norm, sum_norm, num_values) -> None:
            noise_norm = self.accounted * clipping_norm * num_values**0.5
            enter(self, units, self.accounted, clipping_norm, divisor, noise_norm, sum_norm, num_values)

        monkeypatch.setattr(Ledger, "enter", lie)
    else:
        monkeypatch.setattr(analysis, "contradictions", lambda *args: {})


def call(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed by `dptrain ARGUMENTS`, in this process."""
    cli._failures.clear()
    code = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


def caught_by(code: int, text: str) -> str:
    """The layer whose words are in the error, "none" for a command that succeeded."""
    if code == 0:
        return "none"
    words = {
        "preflight": "The preflight refuses this training",
        "ledger": "The run is not the mechanism that is accounted",
        "audit": "Arm eps=0.3 is refuted",
    }
    found = [layer for layer, sentence in words.items() if sentence in text]
    assert len(found) == 1, text
    return found[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_layer_alone_refuses_a_broken_trainer(capsys, monkeypatch, tmp_path, fault) -> None:
    scale_noise(monkeypatch, FAULTS[fault])
    every = [LAYERS, *((layer,) for layer in LAYERS), ()]
    for seeing in every if fault != "noise as accounted" else [LAYERS]:
        with monkeypatch.context() as patch:
            patch.setattr(runner, "_passed", {})
            for layer in LAYERS:
                if layer not in seeing:
                    make_blind(patch, layer)
            folder = tmp_path / ("-".join(seeing) or "nobody")
            code, text = call(capsys, *SETTINGS, "fleet.workers=1", f"study.dir={folder}")
        caught = caught_by(code, text)
        _caught[fault, seeing] = caught
        assert "Traceback" not in text
        assert (code == 0) == (folder / "tradeoff.json").exists()
        assert caught == ("none" if fault == "noise as accounted" or not seeing else seeing[0])


def test_the_audit_says_what_is_wrong_and_nothing_trained_is_lost(capsys, monkeypatch, tmp_path) -> None:
    """Two workers, preflight and ledger blind, as a user would see it from the first command to the mended trainer."""
    folder = tmp_path / "study"
    command = (*SETTINGS, "fleet.workers=2", f"study.dir={folder}")
    with monkeypatch.context() as patch:
        scale_noise(patch, 0.0)
        make_blind(patch, "preflight")
        make_blind(patch, "ledger")
        # An earlier version without an audit left an outcome that shows this arm as private.
        make_blind(patch, "audit")
        assert call(capsys, *command)[0] == 0
    assert _shown_epsilon(folder) == pytest.approx(0.3, rel=0.01)
    trained = dict(_trained(folder))
    assert len(trained) >= 2 * 128 // 16

    code, text = call(capsys, *command)
    assert code == 1
    assert "error: Arm eps=0.3 is refuted: epsilon=0.29" in text
    assert "Mean AUC of the attack: observed 0.6" in text
    assert "95% interval 0." in text
    assert "the guarantee allows at most 0.54" in text
    assert "move arms/eps=0.3 and restricted/blocks/eps=0.3 out of the study's folder" in text
    assert "1 run(s) failed: privacy.epsilon=0.3" in text
    assert not any((folder / name).exists() for name in (*OUTCOME, "tensorboard"))
    assert "is refuted" in (folder / "arms" / "eps=0.3" / "refuted.txt").read_text()
    assert dict(_trained(folder)) == trained

    code, text = call(capsys, "report", str(folder))
    assert code == 1
    assert "is refuted" in text
    code, text = call(capsys, "status", str(folder))
    assert code == 0
    line = next(line for line in text.splitlines() if line.startswith("eps=0.3"))
    assert line.split()[:3] == ["eps=0.3", "128", "refuted"]
    assert "complete" not in line

    aside = tmp_path / "aside"
    aside.mkdir()
    (folder / "arms" / "eps=0.3").rename(aside / "arm")
    (folder / "restricted" / "blocks" / "eps=0.3").rename(aside / "blocks")
    code, _ = call(capsys, "report", str(folder))
    assert code == 0
    assert [arm["label"] for arm in json.loads((folder / "tradeoff.json").read_text())["arms"]] == ["none"]
    code, text = call(capsys, *command)
    assert code == 0, text
    assert _shown_epsilon(folder) == pytest.approx(0.3, rel=0.01)
    assert not (folder / "arms" / "eps=0.3" / "refuted.txt").exists()
    kept = {path: time for path, time in trained.items() if "none" in path.parts}
    assert kept.items() <= dict(_trained(folder)).items(), "the sound arm was trained again"


def _shown_epsilon(folder: Path) -> float:
    arms = json.loads((folder / "tradeoff.json").read_text())["arms"]
    return float(next(arm["epsilon"] for arm in arms if arm["label"] == "eps=0.3"))


def _trained(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in (StudyFolder.open(folder).path / "restricted" / "blocks").rglob("*.npz"):
        yield path, path.stat().st_mtime_ns


def test_table_of_layers(capsys) -> None:
    """Prints what the tests above found (run the whole file)."""
    if not _caught:
        pytest.skip("run the whole file")
    with capsys.disabled():
        print(f"\n{'fault':<20}{'layers that see':<28}caught by")
        for (fault, seeing), caught in _caught.items():
            print(f"{fault:<20}{', '.join(seeing) or 'nobody':<28}{caught}")
    assert all((caught == "none") == (fault == "noise as accounted" or not seeing)
               for (fault, seeing), caught in _caught.items())  # fmt: skip
