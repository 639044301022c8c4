"""Workers of one study: killed, hung, short of disk, in each other's way. The bytes are the same every time."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from dptrain.errors import StudyError
from dptrain.study import blocks, claims, runner, workers
from dptrain.study.folder import StudyFolder
from dptrain.study.sealed import DamagedError, read_sealed, write_sealed
from dptrain.study.status import status_text
from tests.training.test_fleet import small_cohort, small_config


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The arm `none` of a small study in blocks of one model, two workers."""
    base = small_config()
    monkeypatch.setattr(runner, "prepared_cohort", lambda config: small_cohort())
    return dataclasses.replace(
        base,
        study=dataclasses.replace(base.study, dir=str(tmp_path / "study")),
        privacy=dataclasses.replace(base.privacy, epsilon=float("inf")),
        fleet=dataclasses.replace(base.fleet, num_models=8, block_size=1, workers=2),
        baseline=dataclasses.replace(base.baseline, num_models=0),
    )


@pytest.fixture
def expected(config) -> dict[str, bytes]:
    """Blocks of a study that nothing happened to."""
    folder = f"{config.study.dir}-expected"
    return contents(runner.run_study(dataclasses.replace(config, study=dataclasses.replace(config.study, dir=folder))))


def contents(study: StudyFolder) -> dict[str, bytes]:
    """Everything in the folder of blocks: no claim, no temporary file may be left."""
    folder = study.path / "restricted" / "blocks"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def once(folder: str, name: str) -> bool:
    """True the first time, over all processes."""
    try:
        os.close(os.open(f"{folder}-{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def before_block(monkeypatch, action) -> None:
    """Call `action(models)` in the worker before it trains a block."""
    real = workers.train_fleet_block

    def train(config, data, arm, mechanism, models, *rest):
        action(list(models))
        return real(config, data, arm, mechanism, models, *rest)

    monkeypatch.setattr(workers, "train_fleet_block", train)


def test_a_killed_worker_is_replaced_and_the_bytes_are_the_same(config, expected, monkeypatch, caplog):
    def action(models):
        if models == [3] and once(config.study.dir, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(os.open(f"{config.study.dir}-trained-{models[0]}-{os.getpid()}", os.O_CREAT))

    before_block(monkeypatch, action)
    assert contents(runner.run_study(config)) == expected
    assert "A worker process died (exit code -9); another one takes its place." in caplog.text
    trained = [path.name.split("-")[2] for path in Path(config.study.dir).parent.glob("study-trained-*")]
    assert sorted(trained) == sorted(set(trained)), "nothing is trained twice"


def test_workers_that_keep_dying_are_an_error_and_nothing_is_lost(config, expected, monkeypatch):
    with monkeypatch.context() as patch:
        before_block(patch, lambda models: models[0] < 2 or os._exit(9))
        with pytest.raises(StudyError, match="died one after another"):
            runner.run_study(config)
    assert StudyFolder.open(config.study.dir).finished_blocks("none") == [0, 1]
    assert contents(runner.run_study(config)) == expected


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_hung_worker_is_killed_and_its_block_trained_anew(config, expected, monkeypatch, caplog, num_workers):
    """Alone, its parent notices; of two, the other one may be faster and take the block."""
    config = dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, workers=num_workers))
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(claims, "STALE_S", 2.0)

    def action(models):
        if models == [5] and once(config.study.dir, "hung"):
            time.sleep(3600)

    before_block(monkeypatch, action)
    assert contents(runner.run_study(config)) == expected
    if num_workers == 1:
        assert "A worker made no step for 2 s while training block 5 of arm none: it is killed" in caplog.text


def test_a_stopped_worker_of_another_run_loses_its_block(config, expected, monkeypatch):
    """SIGSTOP: the process lives, on this machine, and does nothing. Woken up later it does no harm."""
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(claims, "STALE_S", 1.0)
    study = runner.prepare_study(config)
    runner.begin_arm(study, runner.arms_of_run(config.privacy)[0])
    pid = os.fork()
    if pid == 0:
        before_block(monkeypatch, lambda models: os.kill(os.getpid(), signal.SIGSTOP))
        workers.Worker(study.path).train("none", 2)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    assert claims.newest_claim(blocks.claim_base(study.path, "none", 2)) is not None
    assert contents(runner.run_study(config)) == expected
    os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, 0)[1] == 0
    assert contents(study) == expected


def test_status_tells_who_is_at_work(config):
    study = runner.prepare_study(config)
    runner.begin_arm(study, runner.arms_of_run(config.privacy)[0])
    assert "8 models missing" in status_text(study.path)
    assert "nobody trains" in status_text(study.path)
    with claims.claim(blocks.claim_base(study.path, "none", 2), claims.Watch()):
        text = status_text(study.path)
    assert f"process {os.getpid()} of {claims.socket.gethostname()} trains a block of none" in text
    runner.run_study(config)
    assert "train" not in status_text(study.path).partition("state")[2]


def test_an_error_in_a_worker_is_the_error_of_the_run(config, monkeypatch):
    def action(models):
        if models == [2]:
            raise FloatingPointError("Model 2 of arm none has weights that are not finite.")

    before_block(monkeypatch, action)
    with pytest.raises(FloatingPointError, match="not finite") as caught:
        runner.run_study(config)
    assert any("in train_fleet_block" in note or "action" in note for note in caught.value.__notes__)


def test_runs_side_by_side_share_the_blocks(config, expected, monkeypatch):
    """They also start at the same time in a folder that is not there yet."""
    before_block(monkeypatch, lambda models: Path(f"{config.study.dir}-{models[0]}-{os.getpid()}").touch())
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            runner.run_study(config)
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert contents(StudyFolder.open(config.study.dir)) == expected
    trained = [path.name.split("-")[1] for path in Path(config.study.dir).parent.glob("study-[0-9]-*")]
    assert sorted(trained) == [str(index) for index in range(8)], "each block once"


def test_every_changed_bit_of_a_block_is_noticed(tmp_path):
    path = tmp_path / "block.npz"
    arrays = {"logits": np.arange(6, dtype=np.float32).reshape(2, 3), "ledgers": np.array("[]")}
    write_sealed(path, arrays)
    content = path.read_bytes()
    assert all(np.array_equal(value, arrays[name]) for name, value in read_sealed(path).items())
    with np.load(path) as plain:
        assert set(plain.files) == set(arrays)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedError):
            read_sealed(path)
    for length in (0, 1, 70, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError):
            read_sealed(path)


def test_a_full_disk_stops_the_run_and_a_larger_one_goes_on(config, expected, tmp_path):
    """A real file system that is really full (needs the right to mount)."""
    place = tmp_path / "small_disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        config = dataclasses.replace(config, study=dataclasses.replace(config.study, dir=str(place / "study")))
        study = runner.prepare_study(config)
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        (place / "study" / "hydra").mkdir()
        (place / "study" / "hydra" / "ballast").write_bytes(bytes(max(free - 24 * 1024, 0)))
        with pytest.raises(StudyError, match="No space left"):
            runner.run_study(config)
        assert not [path for path in study.path.rglob("*") if ".tmp" in path.name or ".claim" in path.name]
        finished = contents(study)
        assert finished.items() <= expected.items()
        (place / "study" / "hydra" / "ballast").unlink()
        assert contents(runner.run_study(config)) == expected
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_workers_share_the_cohort_in_memory(config):
    """Two workers read all records: no page of them is private to one, and their shares add up to one copy."""
    small = small_cohort()
    wide = np.repeat(small.features, 4000, axis=1)
    cohort = dataclasses.replace(small, name="wide", features=wide)
    study = StudyFolder.create_or_open(config.study.dir, config, cohort)
    context = multiprocessing.get_context("fork")
    ready, go = context.Barrier(3), context.Event()
    processes = [context.Process(target=_hold, args=(study.path, index, ready, go)) for index in range(2)]
    for process in processes:
        process.start()
    ready.wait(30)
    file = study.path / "restricted" / "cohort" / "features.npy"
    shares = [mapped_kib(process.pid, file) for process in processes]
    go.set()
    for process in processes:
        process.join()
    size = file.stat().st_size / 1024
    assert all(share["Rss"] >= 0.95 * size and share["Private_Dirty"] == 0 for share in shares)
    assert sum(share["Pss"] for share in shares) <= 1.05 * size


def _hold(path: Path, index: int, ready, go) -> None:
    worker = workers.Worker(path, index)
    assert float(worker._data.features.sum()) != 0
    ready.wait(30)
    go.wait(30)


def mapped_kib(pid: int | None, file: Path) -> dict[str, int]:
    """Rss, Pss, Private_Dirty, ... of a process's mapping of a file, from /proc/PID/smaps."""
    total: dict[str, int] = {}
    is_file = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_file = words[-1] == str(file)
        elif is_file and words[-1] == "kB":
            total[words[0][:-1]] = total.get(words[0][:-1], 0) + int(words[1])
    return total


def _killed(function, *arguments) -> None:
    """Run in a process that dies in it."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _dies_in_a_claim(base: Path) -> None:
    with claims.claim(base, claims.Watch()):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_claim_that_a_kill_left_on_a_finished_block_goes_away(config, expected):
    """Also if the block was finished before the run that follows: nothing is left to train then."""
    study = runner.run_study(config)
    base = blocks.claim_base(study.path, "none", 5)
    _killed(_dies_in_a_claim, base)
    _killed(_dies_in_a_claim, study.path / "restricted" / "study")
    assert list(study.path.rglob("*.claim-*"))
    runner.run_study(config)
    assert not list(study.path.rglob("*.claim-*"))
    assert contents(study) == expected


def test_what_a_kill_left_of_a_cohort_goes_away(config):
    """Patients' arrays, half-written: the next creation removes them."""
    folder = Path(config.study.dir) / "restricted" / "cohort"
    folder.mkdir(parents=True)
    (folder / ".features.npy.0123456789abcdef.tmp").write_bytes(b"half")
    (folder.parent / ".membership.npy.0123456789abcdef.tmp").write_bytes(b"half")
    study = runner.run_study(config)
    assert not list(study.path.rglob("*.tmp"))
