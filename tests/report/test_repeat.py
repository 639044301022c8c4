"""The settings file of a report repeats the study: the same configuration, nothing left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dptrain.cli import compose, with_own_settings
from dptrain.report.repeat import FOLDER, settings_file, without_paths
from dptrain.study.frozen import freeze


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=breast_cancer", "seed=5", "model.width=16", "fleet.num_models=8", "training.private.num_steps=7"],
        ["data=sim_ehr", "data.num_patients=500", "privacy.unit=record", "training.augment.noise=0.1"],
        ["data=sim_imaging", "data.labels=multilabel", "model=small_cnn_8", "baseline.num_models=0"],
    ],
)
def test_the_settings_file_gives_the_same_configuration(overrides: list[str], tmp_path: Path) -> None:
    settings = json.loads(json.dumps(freeze(compose([*overrides, "privacy.epsilon=3"]))))
    file = tmp_path / FOLDER / "experiment" / "repeat.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(settings_file(without_paths(settings)))
    command = ["--config-dir", str(tmp_path / FOLDER), overrides[0], "model=custom", "experiment=repeat"]
    again = compose(with_own_settings([*command, "privacy.epsilon=3"]))
    assert json.loads(json.dumps(freeze(again))) == settings
