"""Claims: one process at a time does a piece of work that many may do, and the dead and the hung lose theirs.

A claim is a small file beside the work, `<work>.claim-<generation>`, that appears whole or not at all (an exclusive
link) and names its owner. While the owner makes progress its heartbeat changes the file. The claim with the highest
generation counts. It may be succeeded, by the next generation, when

- its owner is a process of this machine that no longer runs, or
- somebody has *watched* it for `STALE_S` seconds without seeing its heartbeat change. Only the watcher's own monotonic
  clock is read: clocks of two machines, and clocks that jump, decide nothing.

Only one process can create a generation, and nobody ever removes a claim that another one may hold: two that find the
same stale claim cannot take it from each other. Even if two processes do the same work (the first was suspended so long
that it was given up for dead), nothing breaks: both write the same bytes and renames are atomic.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dptrain.errors import StudyError
from dptrain.progress import steps_done
from dptrain.study.atomic import make_folder

HEARTBEAT_S = 5.0
STALE_S = 120.0
LONGEST_STEP_S = 900.0
"""A process that only uses its processor, but finishes no step, keeps its claims for so long."""
LONGEST_GAP_S = 15.0
"""Time between two looks at a claim counts up to here: a watcher that was suspended itself has not watched."""
_IDLE_FRACTION = 0.01
_DIGITS = 12
log = logging.getLogger(__name__)


@contextlib.contextmanager
def claim(base: Path, watch: Watch, longest_step_s: float = LONGEST_STEP_S) -> Iterator[bool]:
    """Try to claim the work named `base`; yields whether it is ours.

    The claim is kept alive while the body runs and makes progress (`progress.step_done`, or processor time for at most
    `longest_step_s`), and is given back at its end. Raises StudyError if the claim cannot be written.
    """
    make_folder(base.parent)
    path = _take(base, watch)
    if path is None:
        yield False
        return
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, stop, longest_step_s), daemon=True)
    thread.start()
    try:
        yield True
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


@dataclass
class _Seen:
    """What a watcher knows of a claim."""

    content: bytes
    last_look: float
    unchanged_s: float = 0.0


class Watch:
    """Remembers how long it has seen each claim unchanged."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[Path, _Seen] = {}

    def is_stale(self, path: Path) -> bool:
        """Look at a claim: True if its owner is dead or has made no progress for `STALE_S` before our eyes."""
        try:
            content = path.read_bytes()
        except OSError:
            self._seen.pop(path, None)
            return False
        owner = _owner(content)
        if owner.get("place") == place() and _process_start(int(owner["pid"])) != owner["started"]:
            return True
        return self.unchanged_s(path, content) > STALE_S

    def unchanged_s(self, path: Path, content: bytes) -> float:
        """Seconds for which this watcher has seen `content` at `path`."""
        now, seen = self._monotonic(), self._seen.get(path)
        if seen is None or seen.content != content:
            self._seen[path] = _Seen(content, now)
            return 0.0
        seen.unchanged_s += min(max(now - seen.last_look, 0.0), LONGEST_GAP_S)
        seen.last_look = now
        return seen.unchanged_s


def newest_claim(base: Path) -> tuple[int, Path] | None:
    """Generation and file of the claim that counts; None if the work is not claimed."""
    prefix = f"{base.name}.claim-"
    with contextlib.suppress(FileNotFoundError):
        names = [name for name in os.listdir(base.parent) if name.startswith(prefix)]
        generations = [int(name.removeprefix(prefix)) for name in names if name.removeprefix(prefix).isdigit()]
        if generations:
            return max(generations), base.with_name(f"{prefix}{max(generations)}")
    return None


def remove_dead(base: Path) -> None:
    """Remove what dead processes of this machine left of claims on work that is done."""
    newest = newest_claim(base)
    if newest is not None and Watch().is_stale(newest[1]):
        with contextlib.suppress(OSError):
            newest[1].unlink()


def local_owner(path: Path) -> int | None:
    """Process number of the owner of a claim if it is of this machine."""
    try:
        owner = _owner(path.read_bytes())
    except OSError:
        return None
    return int(owner["pid"]) if owner.get("place") == place() else None


def owner_words(path: Path) -> str:
    """`process 123 of HOST`, for messages."""
    try:
        owner = _owner(path.read_bytes())
    except OSError:
        owner = {}
    return f"process {owner['pid']} of {owner['host']}" if owner else "an unknown process"


@functools.cache
def place() -> str:
    """Where process numbers mean the same: host, boot and, in a container, its name space."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _take(base: Path, watch: Watch) -> Path | None:
    newest = newest_claim(base)
    if newest is not None and not watch.is_stale(newest[1]):
        return None
    path = base.with_name(f"{base.name}.claim-{0 if newest is None else newest[0] + 1}")
    try:
        if not _create(path):
            return None
    except OSError as error:
        raise StudyError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose another study.dir."
        ) from error
    # Who looked before a claim was made and succeeded may only now create generation 0: the higher one counts.
    now = newest_claim(base)
    if now is not None and now[1] != path:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    if newest is not None:
        log.info("Taking over work that %s left unfinished.", owner_words(newest[1]))
        with contextlib.suppress(OSError):
            newest[1].unlink()
    return path


def _create(path: Path) -> bool:
    """Make a claim whole or not at all; False if it exists."""
    owner = {
        "host": socket.gethostname(),
        "place": place(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "token": secrets.token_hex(8),
    }
    content = f"{0:0{_DIGITS}d} {json.dumps(owner)}\n".encode()
    mine = path.with_name(f".{path.name}.{owner['token']}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with open(os.open(mine, flags, 0o600), "wb") as stream:
            stream.write(content)
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        except OSError:
            # A file system without links: exclusive all the same, but a kill may leave a claim without an owner, which
            # is stale only after it was watched.
            with open(os.open(path, flags, 0o600), "wb") as stream:
                stream.write(content)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            mine.unlink()


def _owner(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content[_DIGITS:])
        return owner if {"place", "pid", "started", "host"} <= owner.keys() else {}
    except (ValueError, AttributeError):
        return {}


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


def _beat(path: Path, stop: threading.Event, longest_step_s: float) -> None:
    """Change the claim's file as long as this process gets somewhere."""
    count, steps, cpu, last_step = 0, steps_done(), time.process_time(), time.monotonic()
    while not stop.wait(HEARTBEAT_S):
        before_steps, before_cpu = steps, cpu
        steps, cpu, now = steps_done(), time.process_time(), time.monotonic()
        if steps != before_steps:
            last_step = now
        is_busy = cpu - before_cpu > _IDLE_FRACTION * HEARTBEAT_S and now - last_step < longest_step_s
        if steps == before_steps and not is_busy:
            continue
        count += 1
        # Never creates: a claim that was succeeded is gone and stays so.
        with contextlib.suppress(OSError), open(path, "r+b") as stream:
            stream.write(f"{count:0{_DIGITS}d}".encode())
