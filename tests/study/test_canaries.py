"""Canaries in a study on disk: trained on, held against the claim, and in no other figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dptrain import cli
from dptrain.errors import StudyError
from dptrain.report.write import write_report
from dptrain.study.folder import StudyFolder
from dptrain.study.runner import run_study

SETTINGS = (
    "privacy.epsilon=8",
    "privacy.controls=false",
    "fleet.num_models=4",
    "fleet.workers=1",
    "baseline.num_models=0",
    "model=linear",
    "data.max_patients=60",
    "training.num_steps=5",
    "training.num_evaluations=1",
    "training.private.num_steps=3",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[int, StudyFolder]:
    folder = tmp_path_factory.mktemp("studies")
    found = {}
    for num in (0, 16):
        arguments = [*SETTINGS, f"study.dir={folder / str(num)}", f"audit.canaries={num}"]
        found[num] = run_study(cli.compose(arguments))
        write_report(found[num].path, tensorboard_runs=False, key_file=folder / "key")
    return found


def test_a_report_sees_patients_only(studies) -> None:
    without, planted = studies[0], studies[16]
    assert planted.cohort().fingerprint() == without.cohort().fingerprint()
    np.testing.assert_array_equal(planted.membership(), without.membership())
    assert planted.logits("none").shape == without.logits("none").shape
    assert planted.training_membership().shape[1] == without.membership().shape[1] + 16
    outcomes = [json.loads((study.path / "tradeoff.json").read_text()) for study in (without, planted)]
    for key in ("num_patients", "num_records", "num_test_patients"):
        assert outcomes[0][key] == outcomes[1][key]
    assert any("16 planted canaries" in warning for warning in outcomes[1]["warnings"])
    rows = list(csv.reader((planted.path / "restricted" / "patient_risk.csv").open()))
    assert len(rows) == 1 + outcomes[0]["num_patients"]
    assert "canary" not in (planted.path / "restricted" / "patient_risk.csv").read_text()


def test_the_coin_is_the_membership(studies) -> None:
    canaries = studies[16].canaries("eps=8")
    assert canaries.logits.shape == (4, 16, 1)
    assert canaries.membership.shape == (4, 16)
    assert (canaries.membership[0] != canaries.membership[1]).all()
    assert studies[0].canaries("eps=8") is None


def test_public_numbers_count_them(studies) -> None:
    """The divisor holds half of the canaries, whatever the coins said."""
    without, planted = (study.arm("eps=8").mechanism for study in studies.values())
    rate = planted["sampling_rate"]
    assert planted["expected_batch_size"] == pytest.approx(without["expected_batch_size"] + rate * 8)
    assert planted["noise_multiplier"] == without["noise_multiplier"]


def test_the_number_of_canaries_is_part_of_the_study(studies) -> None:
    path = studies[16].path
    with pytest.raises(StudyError, match=r"audit.canaries: the study has 16, this run asks for 32"):
        run_study(cli.compose([*SETTINGS, f"study.dir={path}", "audit.canaries=32"]))
    assert "audit" not in studies[0].settings


def test_the_status_names_patients_only(studies) -> None:
    info = studies[16].info["cohort"]
    assert info["num_canaries"] == 16
    assert info["num_patients"] == studies[0].info["cohort"]["num_patients"]
    assert Path(studies[16].path / "restricted" / "membership.npy").stat().st_mode & 0o077 == 0
