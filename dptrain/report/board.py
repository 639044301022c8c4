"""`dptrain board STUDY [STUDY ...]`: TensorBoard for one study or many, on this machine only.

TensorBoard names a run by its path below one folder. So a folder of links is made for as long as it runs, one link per
study to its runs: they are called `study/arm`, studies may lie anywhere, and a study that is still being made shows up
as it grows. TensorBoard has no passwords; it listens on 127.0.0.1 and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dptrain.arguments import ArgumentParser
from dptrain.errors import StudyError

HOST = "127.0.0.1"
RUNS = "tensorboard"
PATIENCE_S = 120.0
TABS = {
    "hparams": "scatter-plot matrix: performance, risk and epsilon, one point per arm",
    "custom_scalars": "curves over steps with the middle 80% of models",
    "scalars&_smoothingWeight=0": "every curve and result, not smoothed",
    "images": "the charts",
    "text": "the tables",
}


def command(arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Start TensorBoard, `say` where it is, and wait until it is stopped with Ctrl-C.

    Raises StudyError if a folder holds no study with runs, or TensorBoard does not start.
    """
    parser = ArgumentParser("dptrain board", "TensorBoard for one study or several, on 127.0.0.1 only.")
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="a study, or a folder of studies")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    given = parser.parse_args(list(arguments))
    links = links_to(given.studies)
    with board(links, given.port or free_port()) as (process, address):
        lines = [f"{', '.join(sorted(links))}: {address}"]
        lines += [f"  {address}#{tab}   {words}" for tab, words in TABS.items()]
        say("\n".join([*lines, "Stop with Ctrl-C."]))
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()


def links_to(folders: Sequence[Path]) -> dict[str, Path]:
    """Folder of runs by a name for its study: the study's folder, or more of its path where two are called alike.

    A folder that is no study stands for all studies below it. Raises StudyError for one without any.
    """
    studies: list[Path] = []
    for folder in folders:
        found = [folder] if (folder / "study.json").is_file() else sorted(p.parent for p in folder.rglob("study.json"))
        with_runs = [study.resolve() for study in found if (study / RUNS).is_dir()]
        if not with_runs:
            what = "has no TensorBoard runs yet" if found else "is no study, and no folder with studies"
            raise StudyError(f"{folder} {what}. `dptrain report STUDY` draws the runs of a study anew.")
        studies += [study for study in with_runs if study not in studies]
    depth = 1
    while len({_name(study, depth) for study in studies}) < len(studies):
        depth += 1
    return {_name(study, depth): study / RUNS for study in studies}


def _name(study: Path, depth: int) -> str:
    return "-".join(study.parts[-depth:]).replace(os.sep, "")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def board(links: Mapping[str, Path], port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running TensorBoard and its address; it and its folder of links are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dptrain-board-") as folder, tempfile.TemporaryFile() as said:
        for name, runs in links.items():
            (Path(folder) / name).symlink_to(runs, target_is_directory=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--host", HOST, "--port", str(port),
             "--reload_interval", "15", "--samples_per_plugin", "images=100,text=100", "--window_title", "dptrain"],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            address = f"http://{HOST}:{port}/"
            _wait_for(process, address, said)
            yield process, address
        finally:
            _stop(process)


def _wait_for(process: subprocess.Popen[bytes], address: str, said: object) -> None:
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    said.seek(0)  # type: ignore[attr-defined]
    lines = said.read().decode("utf-8", "replace").strip().splitlines()  # type: ignore[attr-defined]
    raise StudyError(f"TensorBoard did not start at {address}: {lines[-1] if lines else 'it said nothing'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Its data server is a process of its own; both are in one session."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            if how is not signal.SIGINT:
                break
