"""A real study on simulated patients finds those that were planted in them, and says that they are simulated.

    make test PYTEST_FLAGS="-s -m slow -k planted"     prints how exposed each kind of patient is

Every patient has three visits, so that nobody is exposed for having many. The same study with nothing planted in the
same patients shows that it is the planting that is found.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from dptrain import cli

SETTINGS = (
    "data=sim_ehr",
    "data.num_patients=1200",
    "data.nominal_patients=840",
    "data.records_distribution=fixed",
    "data.records_per_patient=3",
    "data.outlier_share=0.03",
    "model.width=16",
    "model.depth=1",
    "privacy.epsilon=inf",
    "fleet.num_models=64",
    "fleet.workers=1",
    "training.num_steps=300",
    "training.batch_size=128",
    "training.num_evaluations=1",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
)
PLANTED = ("data.outlier_strength=3", "data.outlier_labels=contradict", "data.rare_label_rule=own")
NOTHING = (
    "data.outlier_strength=0",
    "data.outlier_labels=same",
    "data.rare_strength=0",
    "data.rare_label_rule=same",
)

pytestmark = pytest.mark.slow


def study(folder: Path, *settings: str) -> pd.DataFrame:
    """The restricted table of patients of the arm without privacy: `planted` and `auc`."""
    cli._failures.clear()
    cli.main([*SETTINGS, *settings, f"study.dir={folder}"])
    assert not cli._failures
    table = pd.read_csv(folder / "restricted" / "patient_risk.csv")
    return pd.DataFrame({"planted": table["group_planted"], "auc": table["patient_auc_none"]})


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("planted") / "study"
    return folder, study(folder, *PLANTED)


def test_most_of_the_most_exposed_patients_are_planted_outliers(planted: tuple[Path, pd.DataFrame]) -> None:
    _, table = planted
    print(table.groupby("planted")["auc"].describe().round(3))
    is_outlier = (table["planted"] == "outlier").to_numpy()
    order = np.argsort(-table["auc"].to_numpy(), kind="stable")
    assert 15 <= is_outlier.sum() <= 35
    assert is_outlier[order[:10]].sum() >= 6, "most of the ten most exposed patients"
    assert is_outlier[order[: is_outlier.sum()]].mean() > 0.5, "most of as many as were planted"
    assert roc_auc_score(is_outlier, table["auc"]) > 0.9
    mean = table.groupby("planted")["auc"].mean()
    assert mean["outlier"] > mean["rare_group"] > mean["none"] + 0.05


def test_the_same_patients_are_like_all_others_when_nothing_is_planted(tmp_path: Path) -> None:
    table = study(tmp_path / "study", *NOTHING)
    is_outlier = table["planted"] == "outlier"
    assert 0.35 < roc_auc_score(is_outlier, table["auc"]) < 0.65
    mean = table.groupby("planted")["auc"].mean()
    assert mean.max() - mean.min() < 0.1


def test_simulated_is_said_wherever_the_cohort_appears(
    planted: tuple[Path, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = planted
    assert json.loads((folder / "tradeoff.json").read_text())["simulated"] is True
    assert json.loads((folder / "study.json").read_text())["cohort"]["simulated"] is True
    assert "SIMULATED" in (folder / "tradeoff.svg").read_text()
    assert pd.read_csv(folder / "tradeoff.csv")["simulated"].all()
    cli.main(["status", str(folder)])
    assert "sim_ehr (SIMULATED data)" in capsys.readouterr().out
    events = b"".join(file.read_bytes() for file in (folder / "tensorboard" / "study").iterdir())
    assert b"SIMULATED" in events
