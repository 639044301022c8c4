"""`dptrain screen`: one training, ranks under pseudonyms, and the agreement with a study of the same patients."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dptrain import cli
from dptrain.cohorts.registry import load_cohort
from dptrain.study.runner import run_study
from dptrain.training import trace
from dptrain.training.losses import RECORD_LOSSES
from dptrain.training.trace import traced_training

SMALL = ("data.max_patients=80", "training.num_steps=30", "training.num_evaluations=1", "baseline.num_models=0")


def call(capsys, *arguments: str) -> tuple[int, str]:
    code = 0
    try:
        cli.main(["screen", *SMALL, *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_screen_ranks_every_training_patient(capsys) -> None:
    code, text = call(capsys)
    assert code == 0, text
    assert "screen.study=DIR" in text
    folder = Path("screens/breast_cancer-mlp")
    content = json.loads((folder / "screen.json").read_text())
    cohort = load_cohort(cli.compose(list(SMALL)).data, 0)
    assert content["num_patients"] == len(cohort.train_patients)
    assert content["agreement"] is None
    assert 0.3 < content["loss_attack"]["auc"] < 0.8
    rows = list(csv.DictReader((folder / "restricted" / "patients.csv").open()))
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == content["num_patients"]
    values = [float(row["lt_iqr"]) for row in rows]
    assert values == sorted(values, reverse=True)
    text = (folder / "restricted" / "patients.csv").read_text()
    assert not any(one in text for one in cohort.patient_ids.tolist() if len(one) > 4)
    for path in (folder / "restricted").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    before = (folder / "screen.json").read_bytes()
    assert call(capsys)[0] == 0
    assert (folder / "screen.json").read_bytes() == before


def test_with_a_study_it_says_how_far_ranks_agree(capsys) -> None:
    settings = [*SMALL, "privacy.epsilon=inf", "fleet.num_models=8", "fleet.workers=1", "study.dir=study"]
    run_study(cli.compose(settings))
    code, text = call(capsys, "screen.study=study", "audit.canaries=16")
    assert code == 0, text
    assert "Agreement with 8 models" in text
    found = json.loads(Path("screens/breast_cancer-mlp/screen.json").read_text())["agreement"]
    assert set(found["scores"]) == {"lt_iqr", "mean_loss", "final_loss", "gradient_norm"}
    for one in found["scores"].values():
        assert -1 <= one["spearman_low"] <= one["spearman"] <= one["spearman_high"] <= 1
        assert one["top_0.05"]["num_patients"] == 3
    assert 0 <= found["fleet_reliability"] <= 1
    code, text = call(capsys, "screen.study=study", "model=linear")
    assert code == 1
    assert "screen.study=study has model 'mlp', this screen 'linear'" in text
    code, text = call(capsys, "screen.study=study", "data.max_patients=90")
    assert code == 1
    assert "was made from other data" in text
    code, text = call(capsys, "screen.dir=study")
    assert code == 1
    assert "is a study" in text


def test_bad_settings_are_named(capsys) -> None:
    code, text = call(capsys, "screen.num_points=2")
    assert code == 1
    assert "screen.num_points=2 must be at least 4" in text
    code, text = call(capsys, "-m")
    assert code == 1
    assert "dptrain screen takes settings" in text


def test_gradient_norms_are_those_of_single_records() -> None:
    config = cli.compose([*SMALL, "model=tab_resnet_tiny"])
    cohort = load_cohort(config.data, 0)
    seen: list[tuple[torch.nn.Module, np.ndarray]] = []
    original = trace._gradient_norms

    def spy(model, features, labels, record_loss):
        norms = original(model, features, labels, record_loss)
        loss = RECORD_LOSSES[cohort.task]
        model.eval()
        slow = []
        for row in range(5):
            model.zero_grad()
            loss(model(features[row : row + 1]), labels[row : row + 1]).sum().backward()
            slow.append(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5)
        model.zero_grad()
        model.train()
        np.testing.assert_allclose(norms[:5], slow, rtol=1e-3, atol=1e-6)
        seen.append((model, norms))
        return norms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_gradient_norms", spy)
        found = traced_training(config, cohort, 10)
    assert len(seen) == trace.NUM_GRADIENTS
    assert found.losses_ER.shape == (10, len(found.rows))
    assert found.gradients_GR is not None
    assert found.gradients_GR.shape == (trace.NUM_GRADIENTS, len(found.rows))
    labels = torch.from_numpy(np.asarray(cohort.labels)[found.rows])
    last = RECORD_LOSSES[cohort.task](torch.from_numpy(found.logits[found.rows]), labels)
    np.testing.assert_allclose(found.losses_ER[-1], last.numpy(), rtol=1e-5)
