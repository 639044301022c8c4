"""The list of all releases on the same patients: append-only, one JSON line each, chained by hashes.

Every model that is trained on a patient spends some of the patient's privacy, also the one that was thrown away and the
one from last year. The list outlives the folders of the releases: a run enters it before its first step. Each line
holds the hash of the one before, so a line that was changed or taken out shows (lines cut off at the end do not).

RESTRICTED (mode 0600): a line holds a digest of who was in the training.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dptrain.errors import StudyError
from dptrain.study.atomic import make_folder

EVENTS = ("begun", "continued", "finished", "void")


def digest_of_patients(patient_ids: list[str]) -> str:
    """Equal for two sets of patients if and only if they are the same set."""
    return hashlib.sha256("\0".join(sorted(patient_ids)).encode()).hexdigest()


def append(path: Path, event: str, entry: Mapping[str, Any]) -> None:
    """Add a line and wait until it is on disk. Raises StudyError if the list is damaged or cannot be written."""
    if event not in EVENTS:
        raise ValueError(f"event={event!r} must be one of {', '.join(EVENTS)}.")
    with _locked(path) as file:
        lines = _checked(path, file)
        content = json.dumps({"event": event, **entry, "previous": lines[-1]["hash"] if lines else ""}, sort_keys=True)
        line = json.dumps({**json.loads(content), "hash": hashlib.sha256(content.encode()).hexdigest()}, sort_keys=True)
        try:
            os.write(file, line.encode() + b"\n")
            os.fsync(file)
        except OSError as error:
            raise StudyError(f"Cannot write {path}: {error.strerror or error}. Nothing was trained.") from error


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first; [] without a file. Raises StudyError if the list is damaged."""
    if not path.exists():
        return []
    with _locked(path) as file:
        return _checked(path, file)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    try:
        make_folder(path.parent)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise StudyError(
            f"Cannot open the list of releases {path}: {error.strerror or error}. Name another: release.history=FILE."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _checked(path: Path, file: int) -> list[dict[str, Any]]:
    os.lseek(file, 0, os.SEEK_SET)
    text = b"".join(iter(lambda: os.read(file, 1 << 20), b"")).decode()
    lines: list[dict[str, Any]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        try:
            line = json.loads(raw)
            content = json.dumps({key: value for key, value in line.items() if key != "hash"}, sort_keys=True)
            whole = line["hash"] == hashlib.sha256(content.encode()).hexdigest()
            whole = whole and line["previous"] == (lines[-1]["hash"] if lines else "")
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise StudyError(
                f"The list of releases {path} was changed or cut at line {number}: its hashes do not fit. Restore it "
                "from a backup. Without it nobody knows what was released on these patients."
            )
        lines.append(line)
    return lines
