"""The journal of a release: which steps were begun, and by which process. Written before the noise of a step is drawn.

What it is for: a run that is continued after a kill must never use the noise of a step twice, nor take back a step
whose result somebody may have seen. Noise cannot be drawn twice because its key dies with the process
(`privacy.secure_random`); the journal says how many steps were begun, so that a step whose result was lost counts as
spent. It lies on disk, flushed, before the step begins.
"""

from __future__ import annotations

import os
from pathlib import Path

from dptrain.errors import StudyError
from dptrain.study.atomic import make_folder


class Journal:
    """An append-only file with one line per step begun."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StudyError(f"Cannot write {path}: {error.strerror or error}. Choose another release.dir.") from error
        self._path = path

    def begin(self, step: int) -> None:
        """Write down that `step` (from 1) is about to begin; returns when it is on disk."""
        try:
            os.write(self._file, f"{step}\n".encode())
            os.fsync(self._file)
        except OSError as error:
            raise StudyError(
                f"Cannot write {self._path}: {error.strerror or error}. No step was begun; free some space and run the "
                "same command again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def last_begun(path: Path) -> int:
    """The last step that was begun, 0 if none was. A line that a kill cut off counts as begun."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise StudyError(f"Cannot read {path}: {error}. Without it nobody knows which noise was used.") from error
    whole, _, cut = text.rpartition("\n")
    try:
        steps = [int(line) for line in whole.split("\n")] if whole else []
    except ValueError as error:
        raise StudyError(f"{path} is damaged ({error}). Without it nobody knows which noise was used.") from error
    return max([*steps, steps[-1] + 1 if cut and steps else int(bool(cut))], default=0)
