"""What the terminal gets: lines of the log, and problems without a traceback."""

from __future__ import annotations

import logging
import sys

from dptrain.errors import DptrainError


def configure_logging() -> None:
    """Plain lines with the time on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dptrain").setLevel(logging.INFO)
    # dp-accounting logs every RDP order that it drops; the order that is used is not among them.
    logging.getLogger("absl").setLevel(logging.ERROR)


def print_problems(error: DptrainError) -> None:
    """Every problem on its own line, no traceback."""
    for problem in error.problems:
        print(f"error: {problem}" if not problem.startswith(" ") else problem, file=sys.stderr)
