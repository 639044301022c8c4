"""Progress of long work: a bar with ETA on a terminal, plain lines elsewhere. Writes to standard error."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

LINE_EVERY_S = 15.0
log = logging.getLogger(__name__)
_steps_done = 0


def format_duration(seconds: float) -> str:
    """`3 s`, `2 min 05 s`, `1 h 07 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def step_done() -> None:
    """Every loop of long work calls this once per step: a process in which no step ends is held to hang."""
    global _steps_done
    _steps_done += 1


def steps_done() -> int:
    """Steps that ended in this process, of whatever kind."""
    return _steps_done


class Progress:
    """Counts finished models (or files, ...). `update` is called after every block."""

    def __init__(self, total: int, what: str, stream: TextIO | None = None) -> None:
        self._total, self._what = total, what
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty()
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._draw("")

    def update(self, num_models: int, label: str) -> None:
        """`num_models` more are done, the last of them in arm `label` ('' where there are no arms)."""
        self._done += num_models
        self._draw(label)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar:
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, label: str) -> None:
        now = time.monotonic()
        elapsed = now - self._start
        eta = elapsed / self._done * (self._total - self._done) if self._done else None
        times = f"{format_duration(elapsed)} elapsed" + ("" if eta is None else f", {format_duration(eta)} left")
        if self._bar:
            filled = 30 * self._done // self._total
            bar = "#" * filled + "-" * (30 - filled)
            self._stream.write(f"\r\x1b[K[{bar}] {self._done}/{self._total} {self._what}, {times}  {label}")
            self._stream.flush()
        elif self._done and (now - self._last_line >= LINE_EVERY_S or self._done == self._total):
            self._last_line = now
            where = f" (arm {label})" if label else ""
            log.info("%d/%d %s done, %s%s.", self._done, self._total, self._what, times, where)
