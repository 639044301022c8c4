"""Files that are either whole or not there: written under a temporary name, flushed, renamed.

A full disk, a kill or an unwritable folder leaves what was there before. Files below `restricted/` are readable by
their owner only, from the first byte.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.errors import StudyError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; raises StudyError (nothing changed) when the disk or folder refuses."""
    path = Path(path)
    mode = 0o600 if "restricted" in path.parts else 0o644
    # Random, not the process number: two machines that share the folder may have the same one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(_open_new(temporary, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StudyError(
            f"Cannot write {path}: {error.strerror or error}. Expected a writable folder with space; free some, or "
            "choose another folder with study.dir=DIR, and run the same command again. Finished results are kept."
        ) from error


def _open_new(path: Path, mode: int) -> int:
    """Descriptor of a new file; its folder is made, again if somebody's `probe_folder` removed it just then."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with contextlib.suppress(FileNotFoundError):
        make_folder(path.parent)
        return os.open(path, flags, mode)
    make_folder(path.parent)
    return os.open(path, flags, mode)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for text (UTF-8)."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_bytes` for JSON with stable formatting; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """`write_bytes` for one array in .npy format."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    write_bytes(path, stream.getvalue())


def remove_rests(folder: Path, name: str = "*") -> None:
    """Remove temporary files that killed writers of `name` left in a folder; only for who alone may write it now."""
    for rest in folder.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            rest.unlink()


def flush_folder(path: Path) -> None:
    """Make a rename in this folder outlast a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; `restricted/` and everything below it for the owner only."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700 if "restricted" in folder.parts else 0o755, exist_ok=True)


def probe_folder(path: Path) -> None:
    """Check that `path` can be a study folder by making it and writing one file; raises StudyError if not."""
    existed = path.exists()
    probe = path / f".probe-{secrets.token_hex(8)}.tmp"
    write_bytes(probe, b"")
    probe.unlink()
    if not existed:
        with contextlib.suppress(OSError):
            path.rmdir()
