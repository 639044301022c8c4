"""Workers: one process per core with one thread each; every one claims blocks until none is missing.

Workers of any number of runs, on any number of machines, may share a study folder. The parent trains nothing: it counts
finished blocks (also those of other runs), replaces a worker that was killed, and kills one that hangs. A worker holds
the cohort as a memory map, so that all of them share one copy in the page cache.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from dptrain.errors import DptrainError, StudyError
from dptrain.privacy.mechanism import Mechanism
from dptrain.progress import Progress
from dptrain.study import claims
from dptrain.study.arm_record import BASELINE, config_of
from dptrain.study.atomic import remove_rests
from dptrain.study.blocks import block_path, claim_base, is_sound, set_aside_if_damaged, write_block
from dptrain.study.claims import Watch, claim, local_owner, newest_claim, remove_dead
from dptrain.study.folder import StudyFolder
from dptrain.training.allocator import keep_freed_memory
from dptrain.training.arms import arm_from_label
from dptrain.training.fleet import FleetData, train_fleet_block
from dptrain.training.speed import SpeedConfig
from dptrain.training.threads import one_thread

Task = tuple[str, int]
"""Label of an arm or a baseline, and index of a block."""
POLL_S = 0.5
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Forked workers share the libraries that this process has loaded (importing torch takes seconds and 200 MB each). Safe
here because this process runs torch with one thread and starts no thread of its own before the workers."""
GRACE_S = 3.0
"""For idle workers to end by themselves."""
MOST_DEATHS = 3
"""Workers that may die one after another without a block being finished between."""
log = logging.getLogger(__name__)


class Worker:
    """Trains blocks of one study in this process with one thread."""

    def __init__(self, path: str | Path, index: int = 0) -> None:
        one_thread()
        keep_freed_memory()
        self.index = index
        """Place among the workers of its run; with several devices it takes the one with this number, in turn."""
        self.watch = Watch()
        self._study = StudyFolder.open(path)
        self._config = self._study.config()
        self._speed = SpeedConfig.read(self._study.info.get("speed"))
        self._data = FleetData.build(self._study.training_cohort(), self._config.privacy.unit, self._device())
        self._membership = self._study.training_membership()

    def _device(self) -> str:
        if self._speed.device == "cpu":
            return "cpu"
        if not torch.cuda.is_available():
            raise StudyError("This study was created with fleet.device=cuda, and PyTorch finds no GPU here.")
        return f"cuda:{self.index % torch.cuda.device_count()}"

    def train(self, label: str, index: int) -> bool:
        """Train and write one block, if it is missing or damaged; False if somebody else holds its claim."""
        path = self._study.path
        with claim(claim_base(path, label, index), self.watch) as ours:
            if not ours:
                return False
            if is_sound(path, label, index):
                return True
            set_aside_if_damaged(path, label, index)
            file = block_path(path, label, index)
            remove_rests(file.parent, file.name)
            record = self._study.arm(label)
            mechanism = None if record.mechanism is None else Mechanism(**record.mechanism)
            config, arm = config_of(self._config, label), arm_from_label(label.removeprefix(BASELINE))
            models = self._study.models(label, index)
            members = self._membership[models.start : models.stop]
            results = train_fleet_block(config, self._data, arm, mechanism, models, members, self._speed)
            write_block(path, label, index, results)
            return True


def train_blocks(study: StudyFolder, tasks: list[Task], num_workers: int) -> None:
    """Train the blocks; returns when all of them are there, made here or by other runs.

    Raises what a worker raised, or StudyError if workers keep dying; what is finished is kept.
    """
    torch.set_num_threads(1)
    crew = _Crew(study, tasks, min(num_workers, len(tasks)))
    with crew:
        while not crew.is_done():
            crew.wait()


def remove_dead_claims(study: StudyFolder, labels: list[str]) -> None:
    """Remove claims that killed workers left on finished blocks of the arms, in this run or an earlier one."""
    for label in labels:
        finished = study.finished_blocks(label)
        claims_there = claim_base(study.path, label, 0).parent.glob("*.claim-*")
        claimed = {path.name.partition(".claim-")[0] for path in claims_there}
        for index in finished:
            base = claim_base(study.path, label, index)
            if base.name in claimed:
                remove_dead(base)


class _Crew:
    """The workers of one run and what their parent knows."""

    def __init__(self, study: StudyFolder, tasks: list[Task], num_workers: int) -> None:
        self._study = study
        # A file that was there before all of this is damaged: it counts when its contents are right.
        self._left = {task: block_path(study.path, *task).exists() for task in tasks}
        # A forked process cannot use a GPU that its parent has looked at.
        on_gpu = SpeedConfig.read(study.info.get("speed")).device == "cuda"
        self._context: Any = multiprocessing.get_context("spawn" if on_gpu else START_METHOD)
        self._watch = Watch()
        self._deaths = 0
        self._looked = time.monotonic()
        self._progress = Progress(sum(len(study.models(*task)) for task in tasks), "models")
        self._workers = {index: self._start(index) for index in range(num_workers)}

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Idle workers stop; those in the middle of a block end it after another worker's error, not after a signal.

        A worker that is still busy when every block is there was given up for dead, and others did its work."""
        for process, channel in self._workers.values():
            with contextlib.suppress(OSError):
                channel.send_bytes(b"stop")
            if kind is not None and not issubclass(kind, Exception):
                process.terminate()
        while any(process.is_alive() for process, _ in self._workers.values()):
            for process, _ in self._workers.values():
                process.join(GRACE_S / len(self._workers))
            self._kill_hanging()
            owners = self._owners()
            for process, _ in self._workers.values():
                if process.pid not in owners:
                    process.kill()
        self._progress.close()

    def is_done(self) -> bool:
        """Count what is finished; True when nothing is left."""
        present = {label: self._study.finished_blocks(label) for label in {label for label, _ in self._left}}
        for (label, index), was_damaged in list(self._left.items()):
            if index in present[label] and (not was_damaged or is_sound(self._study.path, label, index)):
                del self._left[label, index]
                self._deaths = 0
                self._progress.update(len(self._study.models(label, index)), label)
        return not self._left

    def wait(self) -> None:
        """Sleep until something may have changed, then look after the workers."""
        sentinels = [process.sentinel for process, _ in self._workers.values()]
        multiprocessing.connection.wait(sentinels, timeout=POLL_S)
        if time.monotonic() - self._looked > claims.HEARTBEAT_S:
            self._looked = time.monotonic()
            self._kill_hanging()
        for index, (process, channel) in list(self._workers.items()):
            if not process.is_alive():
                self._bury(index, process, channel)

    def _start(self, index: int) -> tuple[BaseProcess, multiprocessing.connection.Connection]:
        # Not an Event: its locks are never released by a process that was killed while it waited.
        ours, theirs = self._context.Pipe()
        arguments = (str(self._study.path), list(self._left), index, theirs, os.getpid())
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _bury(self, index: int, process: BaseProcess, channel: multiprocessing.connection.Connection) -> None:
        """A worker ended: pass on its error, or put another one in its place if it was killed."""
        with contextlib.suppress(EOFError, OSError):
            raise pickle.loads(channel.recv_bytes())
        process.join()
        channel.close()
        if self.is_done():
            return
        if process.exitcode != 0:
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                raise StudyError(
                    f"{self._deaths} worker processes died one after another (killed, or out of memory). Finished "
                    "blocks are kept; run the same command again, with fleet.workers=1 if memory is short."
                )
            log.warning("A worker process died (exit code %s); another one takes its place.", process.exitcode)
        self._workers[index] = self._start(index)

    def _owners(self) -> dict[int, tuple[Task, Path]]:
        """Process numbers of this machine that own the claim of a missing block: which, and the claim."""
        owners = {}
        for task in self._left:
            newest = newest_claim(claim_base(self._study.path, *task))
            owner = None if newest is None else local_owner(newest[1])
            if newest is not None and owner is not None:
                owners[owner] = (task, newest[1])
        return owners

    def _kill_hanging(self) -> None:
        """Kill workers of ours whose claims went stale: no step ended and no processor time was used."""
        owners = self._owners()
        for process, _ in self._workers.values():
            task, path = owners.get(process.pid or 0, (None, None))
            if task is not None and path is not None and process.is_alive() and self._watch.is_stale(path):
                log.warning(
                    "A worker made no step for %g s while training block %d of arm %s: it is killed, the block is "
                    "trained anew.",
                    claims.STALE_S,
                    task[1],
                    task[0],
                )
                process.kill()
                process.join()


def _work(
    path: str,
    tasks: list[Task],
    index: int,
    channel: multiprocessing.connection.Connection,
    parent: int,
) -> None:
    """A worker's life: train whatever nobody else trains until every block is there, or the parent says stop."""
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = Worker(path, index)
        while tasks and not channel.poll(0):
            tasks = _round(worker, Path(path), tasks, channel)
            if tasks:
                channel.poll(POLL_S)
    except DptrainError as error:
        channel.send_bytes(pickle.dumps(error))
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        try:
            content = pickle.dumps(error)
            pickle.loads(content)
        except Exception:
            content = pickle.dumps(RuntimeError(traceback.format_exc()))
        channel.send_bytes(content)


def _round(
    worker: Worker, path: Path, tasks: list[Task], channel: multiprocessing.connection.Connection
) -> list[Task]:
    """Try every task once, in order, until the parent says stop; returns those that somebody else is at."""
    left = []
    for task in tasks:
        if channel.poll(0):
            return tasks
        if not block_path(path, *task).exists() or not is_sound(path, *task):
            try:
                if not worker.train(*task):
                    left.append(task)
            except StudyError:
                # Given up for dead while it was suspended, and its temporary file removed: somebody else was faster.
                if not is_sound(path, *task):
                    raise
    return left


def _die_with_parent(parent: int) -> None:
    """A killed run must not leave workers behind that hold claims."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
