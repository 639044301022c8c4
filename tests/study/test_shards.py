"""Shards: several jobs, started together or one after another, make one study, and one of them draws."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dptrain import cli
from dptrain.errors import ConfigError
from dptrain.study import drawing, runner
from dptrain.study.drawing import draw_once, last_drawing
from dptrain.study.folder import StudyFolder
from tests.training.test_fleet import small_cohort, small_config

TINY = (
    "data.nominal_patients=200",
    "fleet.num_models=4",
    "fleet.block_size=1",
    "fleet.workers=1",
    "training.num_steps=5",
    "training.private.num_steps=3",
    "baseline.num_models=2",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
    "study.tensorboard=false",
)


def blocks_and_outcome(folder: Path, allow_rests: bool = False) -> dict[str, bytes]:
    """What must be the same bytes whoever made the study, and nothing half-done beside it."""
    files = [*(folder / "restricted" / "blocks").rglob("*.npz" if allow_rests else "*"), folder / "tradeoff.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files) if path.is_file()}


def test_a_sweep_over_epsilon_becomes_shards_with_all_arms():
    overrides = ["privacy.epsilon=8,inf,3", "fleet.shards=3", "model=mlp,linear", "hydra/launcher=submitit_slurm"]
    arguments = cli.as_shards(["-m", *overrides], overrides, 3)
    assert arguments == [
        "-m",
        *overrides[1:],
        "privacy.epsilon=8",
        'fleet.arms=["none","matched","clip","eps=8","eps=3"]',
        "fleet.shard=0,1,2",
    ]
    config = cli.compose([*arguments[1:2], *arguments[4:6], "fleet.shard=2"])
    assert [arm.label for arm in runner.arms_of_job(config)] == ["eps=8", "eps=3", "none", "matched", "clip"]


def test_targets_of_risk_become_arms_too():
    overrides = ["privacy.target=tpr", "privacy.tpr=0.1,0.2", "privacy.fpr=0.05", "fleet.shards=2"]
    arguments = cli.as_shards(overrides, overrides, 2)
    assert arguments[0] == "-m"
    config = cli.compose([item for item in arguments[1:] if not item.startswith("fleet.shard=")])
    labels = [arm.label for arm in runner.arms_of_job(config)]
    assert labels == ["none", "matched", "clip", "tpr=0.2@fpr=0.05", "tpr=0.1@fpr=0.05"]


def test_shards_cannot_have_different_arms():
    overrides = ["privacy.controls=true", "experiment=few_patients,capacity", "fleet.shards=2"]
    with pytest.raises(ConfigError, match="same arms everywhere"):
        cli.as_shards(overrides, overrides, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["fleet.shards=0"], "fleet.shards=0 must be >= 1"),
        (["fleet.shard=1"], r"fleet.shard=1 must be in 0..0"),
        (["fleet.arms=3"], "fleet.arms=3 must be texts"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        cli.compose(settings)


def test_an_arm_that_is_none_is_named():
    with pytest.raises(ConfigError, match="must be none, matched"):
        runner.arms_of_job(cli.compose(["fleet.arms=[nonsense]"]))


def test_a_launcher_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'dptrain\[slurm\]'"):
        cli.check_early(["hydra/launcher=submitit_slurm", "study.dir=unused/a"])


def test_a_job_keeps_to_the_processors_it_was_given(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    assert runner.num_cores() == 16
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert runner.num_cores() == 3


@pytest.fixture
def study(tmp_path, monkeypatch) -> StudyFolder:
    base = small_config()
    monkeypatch.setattr(runner, "prepared_cohort", lambda config: small_cohort())
    config = dataclasses.replace(
        base,
        study=dataclasses.replace(base.study, dir=str(tmp_path / "study")),
        privacy=dataclasses.replace(base.privacy, epsilon=float("inf")),
        baseline=dataclasses.replace(base.baseline, num_models=0),
    )
    return runner.run_study(config)


def draw_beside(study: StudyFolder, draw, num_runs: int, is_shard: bool) -> list[int]:
    """Runs that finish at the same time; exit codes."""
    context = multiprocessing.get_context("fork")
    start, before = context.Event(), last_drawing(study.path)

    def finish() -> None:
        start.wait()
        draw_once(study, before, draw, is_shard)

    runs = [context.Process(target=finish) for _ in range(num_runs)]
    for run in runs:
        run.start()
    start.set()
    for run in runs:
        run.join()
    return [run.exitcode for run in runs]


@pytest.mark.parametrize("is_shard", [False, True])
def test_of_many_that_finish_at_once_one_draws(study, is_shard):
    def draw() -> None:
        Path(f"{study.path}-drawn-{os.getpid()}").touch()
        time.sleep(0.2)
        (study.path / "tradeoff.json").write_text("{}")

    assert draw_beside(study, draw, 5, is_shard) == [0] * 5
    assert len(list(study.path.parent.glob("study-drawn-*"))) == 1


def test_a_killed_drawer_is_succeeded(study):
    def draw() -> None:
        drawers = list(study.path.parent.glob("study-drawn-*"))
        Path(f"{study.path}-drawn-{os.getpid()}").touch()
        if not drawers:
            os.kill(os.getpid(), signal.SIGKILL)
        (study.path / "tradeoff.json").write_text("{}")

    assert sorted(draw_beside(study, draw, 3, False)) == [-signal.SIGKILL, 0, 0]
    assert len(list(study.path.parent.glob("study-drawn-*"))) == 2
    assert not list(study.path.rglob("*.claim-*"))


def test_a_later_run_draws_again_and_a_late_shard_does_not(study):
    drawn = []

    def draw() -> None:
        drawn.append(1)
        (study.path / "tradeoff.json").write_text("{}")

    assert draw_once(study, last_drawing(study.path), draw, False)
    assert draw_once(study, last_drawing(study.path), draw, False)
    assert not draw_once(study, last_drawing(study.path), draw, True)
    (study.path / "tradeoff.json").unlink()
    assert draw_once(study, last_drawing(study.path), draw, True)
    assert len(drawn) == 3


def test_other_models_are_another_drawing(study, monkeypatch):
    before = drawing.models_key(study)
    path = next((study.path / "restricted" / "blocks" / "none").glob("*.npz"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + (b"0" if content[-1:] != b"0" else b"1"))
    assert drawing.models_key(study) != before


@pytest.mark.slow
def test_processes_started_by_hand_share_a_study(tmp_path):
    """The same sweep typed twice on one folder, and once on another: the same bytes."""
    folders = [tmp_path / "one", tmp_path / "two"]
    sweep = ["-m", "privacy.epsilon=8,3", *TINY]
    command = [sys.executable, "-m", "dptrain", *sweep]
    runs = [subprocess.Popen([*command, f"study.dir={folder}"]) for folder in (folders[0], *[folders[1]] * 3)]
    assert [run.wait(600) for run in runs] == [0] * 4
    expected = blocks_and_outcome(folders[0])
    assert len(expected) == 5 * 4 + 3 * 2 + 1
    assert blocks_and_outcome(folders[1]) == expected
