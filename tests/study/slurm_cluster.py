"""A real Slurm of one node: munged, slurmctld and slurmd with a configuration of their own below a temporary folder.

Works in a container without systemd: no cgroups (`proctrack/linuxproc`, `task/none`), all daemons run as root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
START_S = 90


def why_not() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    missing = [name for name in PROGRAMS if _find(name) is None]
    if missing:
        return f"Slurm is not installed (no {', '.join(missing)}): apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "the daemons of Slurm must be started by root"


class SlurmCluster:
    """One controller, one node with `num_cpus` processors, one partition `all`."""

    def __init__(self, folder: Path, num_cpus: int) -> None:
        self.folder, self.num_cpus = folder, num_cpus
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**inherited, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons; raises RuntimeError with their logs if the node is not idle in time."""
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        munge = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        (self.folder / "slurm.conf").write_text(self._configuration(munge["socket"]))
        self._run(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge['socket']}",
            f"--pid-file={munge['pid']}", f"--log-file={munge['log']}", f"--seed-file={munge['seed']}",
        )  # fmt: skip
        self._wait_for(munge["socket"].exists, "munged")
        self._run("slurmctld", "-D", "-c")
        self._wait_for(lambda: self.call("scontrol", "ping", check=False).returncode == 0, "slurmctld")
        self._run("slurmd", "-D", "-c", "-N", "node")
        self._wait_for(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T", check=False).stdout, "slurmd")

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        with contextlib.suppress(Exception):
            jobs = self.call("squeue", "-h", "-o", "%A", check=False).stdout.split()
            if jobs:
                self.call("scancel", "--signal=KILL", "--full", *jobs, check=False)
                self.call("scancel", *jobs, check=False)
            end = time.monotonic() + 20
            while self.call("squeue", "-h", check=False).stdout.strip() and time.monotonic() < end:
                time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()

    def call(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands against this cluster."""
        command = [str(_find(program)), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=check, timeout=60
        )

    def logs(self) -> str:
        """The end of every log, for messages."""
        files = sorted(self.folder.glob("*.log")) + sorted((self.folder / "log").iterdir())
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "log" / f"{program}.out").open("wb") as out:
            command = [str(_find(program)), *arguments]
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def _wait_for(self, is_ready, what: str) -> None:
        end = time.monotonic() + START_S
        while not is_ready():
            if time.monotonic() > end or self._daemons[-1].poll() is not None:
                raise RuntimeError(f"{what} did not start.\n{self.logs()}")
            time.sleep(0.2)

    def _configuration(self, munge_socket: Path) -> str:
        host, folder = socket.gethostname(), self.folder
        controller, node = _free_ports(2)
        return f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge_socket}
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
KillWait=2
RebootProgram=/bin/true
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={self.num_cpus} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=node Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


@contextlib.contextmanager
def slurm_cluster(folder: Path, num_cpus: int = 2) -> Iterator[SlurmCluster]:
    """A running cluster, stopped at the end."""
    cluster = SlurmCluster(folder, num_cpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
