"""Decode files in parallel into one memory-mapped array; a file that cannot be decoded never stops the others.

A file on which a decoder crashes the process (a damaged JPEG inside a DICOM can) is found out and counted as broken.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.sources import Source
from dptrain.errors import ConfigError, DataError

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Forked workers need not import everything again; decoding uses neither torch nor threads of this process."""
ROWS_PER_TASK = 16
MIN_ROWS_FOR_POOL = 64
"""Fewer files are decoded here: starting processes would take longer."""
POLL_S = 0.5
NOT_BEGUN, BEGUN, DONE = 0, 1, 2


@dataclass(frozen=True)
class Task:
    """What the workers share."""

    sources: Sequence[Source]
    """N files."""
    decode: Callable[[Source], NDArray[np.float32]]
    """A function of a module (workers must find it by name) from a file to its array."""
    features: Path
    """A .npy, (N, ...) float32, whose row i becomes decode(sources[i])."""
    state: Path
    """A .npy, (N,) uint8 of zeros: how far each row is; tells which files were open when a worker died."""


def num_workers(asked: int) -> int:
    """`asked`, or one per core that this process may use if it is 0."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or cores


def decode_all(task: Task, workers: int, update: Callable[[int], None]) -> dict[int, str]:
    """Fill every row of `task.features`; reasons of the rows that could not be decoded (left at 0).

    `update` is called with the number of files done since the last call. Raises ConfigError for a missing library.
    """
    reasons: dict[int, str] = {}

    def collect(rows: Sequence[int], found: dict[int, str]) -> None:
        reasons.update(found)
        update(len(rows))

    total = len(task.sources)
    workers = min(num_workers(workers), -(-total // ROWS_PER_TASK))
    if workers <= 1 or total < MIN_ROWS_FOR_POOL:
        worker = Worker(task)
        for rows in _cut(np.arange(total)):
            collect(rows, worker.decode(rows))
        return reasons
    left = np.arange(total)
    while len(left):
        left = np.setdiff1d(left, _run_pool(task, _cut(left), workers, collect))
        state = np.load(task.state, mmap_mode="r")
        suspects = [int(row) for row in left if state[row] == BEGUN]
        if len(left) and not suspects:
            raise DataError("A worker process died before it opened a file: run again, perhaps with data.workers=1.")
        for row in suspects:  # open when a worker died: each alone, to learn which one it was
            if not _run_pool(task, [[row]], 1, collect):
                collect([row], {row: "the decoder crashed on this file (or ran out of memory)"})
        left = np.setdiff1d(left, suspects)
    return reasons


class Worker:
    """Decodes rows of one task in this process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._features = np.load(task.features, mmap_mode="r+")
        self._state = np.load(task.state, mmap_mode="r+")

    def decode(self, rows: Sequence[int]) -> dict[int, str]:
        """Fill `rows`; the reasons of those that failed."""
        reasons: dict[int, str] = {}
        for row in rows:
            self._state[row] = BEGUN
            try:
                array = self._task.decode(self._task.sources[row])
                if array.shape != self._features.shape[1:]:
                    raise ValueError(f"it decodes to shape {array.shape}, expected {self._features.shape[1:]}")
                if not np.isfinite(array).all():
                    raise ValueError("it has values that are NaN or infinite")
                self._features[row] = array
            except ConfigError:
                raise
            except MemoryError:  # as a rule a damaged header that claims an enormous size
                reasons[row] = "it needs more memory than there is: is it damaged, or a whole slide?"
            except Exception as error:  # decoders raise anything on damaged files
                reasons[row] = describe(error)
            self._state[row] = DONE
        return reasons


def describe(error: BaseException) -> str:
    """One line for people; the type only where the message does not speak for itself."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, (ValueError, FileNotFoundError, IsADirectoryError)) and lines:
        return lines[0][:300]
    detail = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    return f"it is damaged or of an unknown kind ({detail})"


def _cut(rows: NDArray[np.int64]) -> list[list[int]]:
    return [rows[i : i + ROWS_PER_TASK].tolist() for i in range(0, len(rows), ROWS_PER_TASK)]


def _run_pool(
    task: Task, parts: list[list[int]], workers: int, collect: Callable[[Sequence[int], dict[int, str]], None]
) -> list[int]:
    """The rows whose results arrived: all, unless a worker died."""
    arrived: list[int] = []
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context(START_METHOD), _start_worker, (task, os.getpid())
    )
    try:
        futures = {pool.submit(_decode_in_worker, rows): rows for rows in parts}
        for future in concurrent.futures.as_completed(futures):
            collect(futures[future], future.result())
            arrived += futures[future]
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return arrived


_worker: Worker | None = None


def _start_worker(task: Task, parent: int) -> None:
    global _worker
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    _worker = Worker(task)


def _die_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)


def _decode_in_worker(rows: list[int]) -> dict[int, str]:
    assert _worker is not None
    return _worker.decode(rows)
