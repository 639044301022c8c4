"""Named arrays in one file that knows its own SHA-256: any changed bit is noticed.

An .npz archive has a checksum for each array, none for its directory. Here the digest of everything before it is the
archive's comment, so numpy and unzip still read the file.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.study.atomic import write_bytes

_WORD = b"sha256:"
_DIGEST_BYTES = 64
_COMMENT_LENGTH_BYTES = 2


class DamagedError(Exception):
    """The file is not what was written."""


def write_sealed(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays atomically (.npz without timestamps; the same arrays give the same bytes)."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **dict(arrays))
    write_bytes(path, seal(stream.getvalue()))


def read_sealed(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays; raises DamagedError if one bit is not as it was written, OSError if there is no such file."""
    content = path.read_bytes()
    if not is_sealed(content):
        raise DamagedError("its contents do not fit its checksum")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DamagedError(str(error)) from error


def seal(archive: bytes) -> bytes:
    """A zip archive without comment, with the digest of all its other bytes as its comment."""
    assert archive.endswith(bytes(_COMMENT_LENGTH_BYTES)), "the archive has a comment already"
    length = (len(_WORD) + _DIGEST_BYTES).to_bytes(_COMMENT_LENGTH_BYTES, "little")
    head = archive[:-_COMMENT_LENGTH_BYTES] + length + _WORD
    return head + hashlib.sha256(head).hexdigest().encode()


def is_sealed(content: bytes) -> bool:
    """Whether the digest is there and fits."""
    head, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return head.endswith(_WORD) and hashlib.sha256(head).hexdigest().encode() == digest
