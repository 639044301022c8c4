"""Blocks of models: claimed, trained, written under a temporary name, renamed; never trained twice.

A claim is a file that names its owner and appears by an exclusive link.
It is stale when its owner is a dead process of this machine, or
when its heartbeat stopped. Even if two workers ever train the same block, nothing breaks: both write the same bytes and
the rename is atomic.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.errors import StudyError
from dptrain.study.atomic import make_folder, write_arrays
from dptrain.training.fleet import ModelResult

HEARTBEAT_S = 5.0
STALE_S = 120.0
log = logging.getLogger(__name__)


def num_blocks(num_models: int, block_size: int) -> int:
    """Blocks that an arm is cut into."""
    return -(-num_models // block_size)


def block_models(index: int, num_models: int, block_size: int) -> range:
    """Models of a block."""
    return range(index * block_size, min((index + 1) * block_size, num_models))


def block_path(study: Path, label: str, index: int) -> Path:
    """Where a finished block lies."""
    return study / "restricted" / "blocks" / label / f"block-{index:04d}.npz"


def write_block(study: Path, label: str, index: int, results: list[ModelResult]) -> None:
    """Write a finished block."""
    write_arrays(
        block_path(study, label, index),
        {
            "logits": np.stack([result.logits for result in results]),
            "step": results[0].steps,
            "train_loss": np.stack([result.train_loss for result in results]),
            "utility": np.stack([result.utility for result in results]),
            "ledgers": np.array(json.dumps([result.ledger for result in results if result.ledger is not None])),
        },
    )


def read_block(study: Path, label: str, index: int) -> dict[str, NDArray[Any]]:
    """The arrays of a finished block; raises StudyError if the file is damaged."""
    path = block_path(study, label, index)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise StudyError(
            f"{path} is missing or damaged ({error}). Run the study's command again: it is trained anew."
        ) from error


def set_aside_if_damaged(study: Path, label: str, index: int) -> bool:
    """Check a finished block's checksums; a damaged file is renamed to `*.damaged` so that it is trained anew."""
    path = block_path(study, label, index)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except (OSError, zipfile.BadZipFile, EOFError):
        damaged = True
    if damaged:
        os.replace(path, path.with_suffix(".damaged"))
        log.warning("Block %d of arm %s was damaged on disk; it is trained anew.", index, label)
    return damaged


@contextlib.contextmanager
def claim(study: Path, label: str, index: int) -> Iterator[bool]:
    """Try to claim a block; yields whether it is ours. The claim is kept alive while the body runs, then removed."""
    path = block_path(study, label, index).with_suffix(".claim")
    make_folder(path.parent)
    if not _take(path):
        yield False
        return
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    thread.start()
    try:
        yield True
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _take(path: Path) -> bool:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process_start(os.getpid())}
    mine = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        mine.write_text(json.dumps(owner))
        for _ in range(2):
            try:
                # A link appears whole or not at all, so a claim without an owner cannot exist.
                os.link(mine, path)
                return True
            except FileExistsError:
                if not _is_stale(path):
                    return False
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, path.with_name(f"{mine.name}.stale"))
        return False
    except OSError as error:
        raise StudyError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose another study.dir."
        ) from error
    finally:
        for leftover in (mine, path.with_name(f"{mine.name}.stale")):
            with contextlib.suppress(OSError):
                leftover.unlink()


def _is_stale(path: Path) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        owner = {}
    if owner.get("host") == socket.gethostname():
        return _process_start(int(owner["pid"])) != owner["started"]
    return age > STALE_S


def _process_start(pid: int) -> str | None:
    """When a local process started (guards against reused process numbers); None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "running"


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
