"""A study spread over a real Slurm of one node: requeued and killed jobs change no byte. Slow."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.study.slurm_cluster import SlurmCluster, slurm_cluster, why_not
from tests.study.test_shards import TINY, blocks_and_outcome

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install dptrain[slurm]")

STUDY = ("privacy.epsilon=8", *TINY, "training.num_steps=8000", "training.private.num_steps=400")
PATIENCE_S = 600


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), num_cpus=2) as running:
        yield running


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """The study made by one process without Slurm."""
    folder = tmp_path_factory.mktemp("plain") / "study"
    subprocess.run([sys.executable, "-m", "dptrain", "-m", *STUDY, f"study.dir={folder}"], check=True)
    return blocks_and_outcome(folder)


class Sweep:
    """`dptrain -m hydra/launcher=submitit_slurm ...` on its way."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "fleet.shards=2"]
        command = [sys.executable, "-m", "dptrain", "-m", *STUDY, *launcher, f"study.dir={folder}"]
        self.process = subprocess.Popen(
            command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end, f"{self.cluster.logs()}\n{self.logs()}"
            assert self.process.poll() is None, f"{self.process.communicate()[0]}\n{self.logs()}"
            time.sleep(0.1)

    def is_under_way(self) -> bool:
        return len(list((self.folder / "restricted" / "blocks").rglob("*.npz"))) >= 3

    def jobs(self) -> list[str]:
        return self.cluster.call("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").stdout.split()

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, f"{output}\n{self.logs()}"

    def logs(self) -> str:
        files = sorted((self.folder / "hydra").rglob("*.out"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in files)


def test_shards_on_slurm_make_the_same_bytes_and_one_draws(cluster, expected, tmp_path):
    sweep = Sweep(cluster, tmp_path / "study")
    sweep.wait_for(lambda: len(sweep.jobs()) == 2)
    names = cluster.call("squeue", "-h", "-o", "%j").stdout.split()
    assert set(names) == {"dptrain"}
    code, output = sweep.end()
    assert code == 0, output
    assert blocks_and_outcome(sweep.folder) == expected
    assert len(re.findall("was drawn by another run", output)) == 1, output


def test_a_requeued_job_goes_on_and_changes_no_byte(cluster, expected, tmp_path):
    sweep = Sweep(cluster, tmp_path / "study")
    sweep.wait_for(lambda: sweep.is_under_way() and len(sweep.jobs()) == 2)
    job = sweep.jobs()[0]
    cluster.call("scontrol", "requeue", job)
    # Slurm holds a requeued job back for two minutes.
    sweep.wait_for(lambda: "JobState=PENDING" in cluster.call("scontrol", "show", "job", job, check=False).stdout)
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    sweep.wait_for(lambda: "Restarts=1" in cluster.call("scontrol", "show", "job", job, check=False).stdout)
    code, output = sweep.end()
    assert code == 0, output
    assert blocks_and_outcome(sweep.folder) == expected


def test_the_other_shard_finishes_what_a_killed_job_left(cluster, expected, tmp_path):
    sweep = Sweep(cluster, tmp_path / "study")
    sweep.wait_for(lambda: sweep.is_under_way() and len(sweep.jobs()) == 2)
    killed = sweep.jobs()[0]
    cluster.call("scancel", "--signal=KILL", "--full", killed)
    finished = blocks_and_outcome(sweep.folder, allow_rests=True)
    assert len(finished) < len(expected), "it was killed too late to see anything"
    sweep.wait_for(lambda: killed not in sweep.jobs())
    sweep.wait_for(lambda: not cluster.call("squeue", "-h").stdout.strip())
    assert blocks_and_outcome(sweep.folder) == expected
    assert (sweep.folder / "tradeoff.png").exists()
    # Without Slurm's accounting nobody tells submitit that a job died: the command would wait for ever.
    sweep.process.terminate()
    sweep.end()
