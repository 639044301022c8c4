"""Kill a running study at random moments and finish it: the bytes are those of a study that nobody disturbed. Slow.

DPTRAIN_KILLS=50 makes it fifty kills; `experiments/random_kills.py` does the same to a larger study.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from dptrain.report.write import write_report
from dptrain.study import runner
from dptrain.study.drawing import draw_once, last_drawing
from tests.study.test_shards import blocks_and_outcome
from tests.training.test_fleet import small_cohort, small_config

NUM_KILLS = int(os.environ.get("DPTRAIN_KILLS", "10"))
KILLS_PER_ROUND = 5
TARGETS = ("run", "run and workers", "worker")


def study_config(folder: Path):
    """Two arms of 8 models, a block each."""
    base = small_config()
    private = dataclasses.replace(base.training.private, num_steps=60)
    return dataclasses.replace(
        base,
        study=dataclasses.replace(base.study, dir=str(folder), tensorboard=False),
        privacy=dataclasses.replace(base.privacy, controls=False),
        training=dataclasses.replace(base.training, num_steps=150, private=private),
        fleet=dataclasses.replace(base.fleet, num_models=8, block_size=1, workers=2),
        baseline=dataclasses.replace(base.baseline, num_models=0),
        attack=dataclasses.replace(base.attack, num_permutations=20, num_bootstrap=20),
    )


def run(folder: Path) -> None:
    """A run of the study, chart included."""
    drawn = last_drawing(folder)
    study = runner.run_study(study_config(folder))
    draw_once(study, drawn, lambda: write_report(study.path, tensorboard_runs=False), is_shard=False)


def run_alone(folder: Path) -> None:
    os.setpgid(0, 0)
    run(folder)


def start(folder: Path) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=run_alone, args=(folder,))
    process.start()
    return process


def kill(process: BaseProcess, target: str) -> bool:
    """SIGKILL for a run, a run with its workers, or one worker; whether there was one."""
    pid = process.pid
    assert pid is not None
    try:
        if target == "worker":
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(random.choice(children)), signal.SIGKILL)
        elif target == "run and workers":
            os.killpg(pid, signal.SIGKILL)
        else:
            process.kill()
    except (IndexError, OSError):
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_no_kill_changes_a_byte(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "prepared_cohort", lambda config: small_cohort(200))
    random.seed(0)
    run(tmp_path / "whole")  # here, so that the preflight is passed in all processes forked from this one
    expected = blocks_and_outcome(tmp_path / "whole")
    assert len(expected) == 2 * 8 + 1
    begin = time.monotonic()
    start(tmp_path / "timed").join()
    whole_s = time.monotonic() - begin
    assert blocks_and_outcome(tmp_path / "timed") == expected
    kills: dict[str, int] = dict.fromkeys(TARGETS, 0)
    stages: dict[int, int] = {}
    rounds = 0
    while sum(kills.values()) < NUM_KILLS:
        folder = tmp_path / f"round-{rounds}"
        process = start(folder)
        for _ in range(KILLS_PER_ROUND):
            hit = False
            while not hit:
                process.join(random.uniform(0.0, 0.2 * whole_s))
                target = random.choice(TARGETS)
                hit = process.is_alive() and kill(process, target)
                if not hit or target != "worker":
                    process.join()
                    process = start(folder)
            kills[target] += 1
            finished = len(list((folder / "restricted" / "blocks").rglob("*.npz")))
            stages[finished] = stages.get(finished, 0) + 1
        process.join()
        if process.exitcode != 0:
            run(folder)
        assert blocks_and_outcome(folder) == expected
        rounds += 1
    with capsys.disabled():
        print(f"\nkills: {kills}; finished blocks when killed: {dict(sorted(stages.items()))}")
        print(f"{rounds} rounds; undisturbed {whole_s:.1f} s, in all {time.monotonic() - begin:.0f} s")
