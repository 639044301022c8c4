"""Folders that a user brings, from the files to the chart with configuration alone: ECGs and images, several labels."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dptrain import cli

FEW = (
    "fleet.num_models=8",
    "fleet.workers=1",
    "training.num_steps=60",
    "training.learning_rate=0.01",
    "training.private.num_steps=6",
    "training.num_evaluations=2",
    "baseline.num_models=2",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
    "data.delta=1e-3",
    "data.workers=1",
)

pytestmark = pytest.mark.slow


def outcome(folder: Path, *settings: str) -> dict[str, Any]:
    """tradeoff.json of a study at epsilon 8 and without privacy."""
    cli._failures.clear()
    for epsilon in ("inf", "8"):
        cli.main([*FEW, *settings, f"privacy.epsilon={epsilon}", f"study.dir={folder}"])
    assert not cli._failures
    found: dict[str, Any] = json.loads((folder / "tradeoff.json").read_text())
    return found


def check(found: dict[str, Any], labels: list[str]) -> None:
    """Performance of each label and of all, and an attack, for every arm."""
    assert found["task"] == "multilabel"
    assert [arm["label"] for arm in found["arms"]] == ["none", "matched", "clip", "eps=8"]
    for arm in found["arms"]:
        utility = arm["utility"]
        assert list(utility["per_label"]) == labels
        each = [one["mean"] for one in utility["per_label"].values()]
        assert np.mean(each) == pytest.approx(utility["mean"], abs=1e-5)
        assert 0 <= arm["attack"]["auc"] <= 1
        assert arm["risk"]["patient_auc_p99"] >= arm["risk"]["patient_auc_median"]
    assert found["arms"][0]["utility"]["mean"] > 0.8, "the findings are plain to see"
    assert found["arms"][3]["epsilon"] <= 8


def test_images_of_a_clinic(tmp_path: Path) -> None:
    """16-bit PNGs in a zip, named by a pattern; findings left open are empty; a list by bars."""
    rng = np.random.default_rng(0)
    rows = []
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for case in range(90):
            for visit in range(1 + case % 3):
                spot, fluid = rng.random(2) < 0.4
                pixels = rng.integers(0, 9000, (24, 20)).astype(np.uint16)
                pixels[4:9, 4:9] += np.uint16(30000 * spot)
                pixels[16:, :] += np.uint16(25000 * fluid)
                Image.fromarray(pixels).save(tmp_path / "film.png")
                archive.write(tmp_path / "film.png", f"{case}/visit{visit}.png")
                seen = "" if rng.random() < 0.1 else int(fluid)
                rows.append([f"K{case:04d}", case, visit, int(spot), seen, "mf"[case % 2], 20 + case % 60])
    names = ["Case", "Number", "Visit", "Spot", "Fluid", "Sex", "Age"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "list.txt", sep="|", index=False)
    found = outcome(
        tmp_path / "study", "data=images", f"data.path={tmp_path}/list.txt", "data.root=films.zip",
        "data.path_pattern='{Number}/visit{Visit}.png'", "data.patient_column=Case", "data.label_columns=[Spot,Fluid]",
        "data.group_columns=[Sex,Age]", "data.group_bands={Age:[40]}", "data.size=16", "data.nominal_patients=60",
        "model=small_cnn_8", "training.private.learning_rate=2",
    )  # fmt: skip
    check(found, ["Spot", "Fluid"])
    assert (found["num_patients"], found["cohort"]) == (63, "images")


def test_ecgs_of_a_practice(tmp_path: Path) -> None:
    """CSV files with a column per lead in microvolts, other leads in another order, at 200 Hz; records too long."""
    rng = np.random.default_rng(1)
    rows = []
    (tmp_path / "export").mkdir()
    for number in range(130):
        patient, (fast, high) = number % 90, rng.random(2) < 0.4
        time = np.arange(500 + number) / 200
        beat = np.sin(2 * np.pi * (3.0 if fast else 1.5) * time) * (900 if high else 400)
        noise = rng.normal(0, 40, (2, len(time)))
        table = pd.DataFrame({"t": time, "V1": 0 * time, "Lead II": beat + noise[0], "I": beat / 2 + noise[1]})
        table.round(1).to_csv(tmp_path / "export" / f"{number}.csv", index=False)
        rows.append([f"export/{number}.csv", 7000 + patient, bool(fast), bool(high)])
    pd.DataFrame(rows, columns=["ecg", "who", "fast", "high"]).to_parquet(tmp_path / "ecgs.parquet")
    found = outcome(
        tmp_path / "study", "data=ecg", f"data.path={tmp_path}/ecgs.parquet", "data.path_column=ecg",
        "data.patient_column=who", "data.label_columns=[fast,high]", "data.leads=[I,II]", "data.unit=uV",
        "data.file_sampling_rate=200", "data.sampling_rate=50", "data.duration_s=2", "data.nominal_patients=60",
        "model=resnet1d_8", "training.private.learning_rate=2",
    )  # fmt: skip
    check(found, ["fast", "high"])
    assert found["num_patients"] == 63
