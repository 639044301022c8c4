"""A study whose trainer adds no noise, with preflight, ledger and the attack on patients blind: its canaries refuse it.

The models are linear on signals of many samples, where each canary has a direction of its own; the attack on patients
needs a recipe made for it (`test_broken_trainer`), the canaries do not.
"""

from __future__ import annotations

import json

import pytest

from dptrain.report import analysis
from dptrain.study import runner
from tests.e2e.test_broken_trainer import call, make_blind, scale_noise

SETTINGS = (
    "privacy.epsilon=1",
    "privacy.controls=false",
    "audit.canaries=64",
    "fleet.num_models=8",
    "fleet.workers=1",
    "baseline.num_models=0",
    "data=sim_ecg",
    "data.max_patients=60",
    "model=linear",
    "training.num_steps=10",
    "training.num_evaluations=1",
    "training.private.num_steps=4",
    "training.private.schedule=constant",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_canaries_alone_refuse_a_study_without_noise(capsys, monkeypatch, tmp_path, factor) -> None:
    monkeypatch.setattr(runner, "_passed", {})
    scale_noise(monkeypatch, factor)
    for layer in ("preflight", "ledger"):
        make_blind(monkeypatch, layer)
    monkeypatch.setattr(analysis, "contradictions", lambda *args: {})
    folder = tmp_path / "study"
    code, text = call(capsys, *SETTINGS, f"study.dir={folder}")
    if factor:
        assert code == 0, text
        arms = json.loads((folder / "tradeoff.json").read_text())["arms"]
        bounds = {arm["label"]: arm["lower_bound"]["epsilon_lower_bound"] for arm in arms}
        assert bounds["eps=1"] <= 1
        assert bounds["none"] > 1
    else:
        assert code == 1
        assert "Arm eps=1 is refuted: its canaries are recognised more surely than its guarantee allows" in text
        assert "Canaries: epsilon is at least" in (folder / "arms" / "eps=1" / "refuted.txt").read_text()
        assert not (folder / "tradeoff.json").exists()
