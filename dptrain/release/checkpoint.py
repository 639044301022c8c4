"""Checkpoints of a release: weights, optimizer and ledger after a step; never the state of a random generator.

Loaded without pickle's code execution (`weights_only`). Random streams are not stored on purpose: a continued run draws
fresh coins and fresh noise, which is the mechanism that is accounted.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch

from dptrain.errors import StudyError
from dptrain.study.atomic import write_bytes

NUM_CHECKPOINTS = 50
"""At least so many over a training: a kill loses at most 2% of the steps."""


class Checkpoints:
    """Writes a checkpoint as often as a given fraction of the time allows, and `NUM_CHECKPOINTS` times in any case.

    `overhead` 0 writes none but those that are asked for.
    """

    def __init__(self, path: Path, overhead: float, num_steps: int) -> None:
        self._path, self._overhead = path, overhead
        self._every = -(-num_steps // NUM_CHECKPOINTS)
        self._cost_s = 0.0
        self._last = -float("inf")

    def is_due(self, step: int) -> bool:
        """Whether one is due after this step."""
        if self._overhead == 0:
            return False
        return step % self._every == 0 or time.monotonic() - self._last >= self._cost_s * (1 / self._overhead - 1)

    def write(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; the old one stays until the new one is whole and on disk."""
        start = time.monotonic()
        stream = io.BytesIO()
        torch.save(state, stream)
        write_bytes(self._path, stream.getvalue())
        self._last = time.monotonic()
        self._cost_s = self._last - start


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, None if none was written. Raises StudyError if it is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise StudyError(
            f"The checkpoint {path} is damaged ({error}). The noise of its steps is spent and cannot be drawn again: "
            "restore the file from a backup made after the last step, or train anew with another release.dir. The "
            "list of releases will then count both."
        ) from error
    return state
