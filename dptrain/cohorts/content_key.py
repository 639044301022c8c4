"""A key for many files that depends on their content and order alone, remembered so that they are rarely read."""

from __future__ import annotations

import concurrent.futures
import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from dptrain.cohorts.cached_array import write_private
from dptrain.cohorts.sources import Source, content_digest, stat_signature
from dptrain.progress import Progress

MISSING = b"missing"
SETTLED_S = 2.0
"""A file younger than this may be written to again within the clock's resolution: its times prove nothing yet."""
FILES_PER_UPDATE = 1024


def content_key(files: Sequence[Sequence[Source]], head: str, root: Path, what: str, workers: int) -> tuple[str, int]:
    """(key, number of records whose first file does not exist).

    `files[i]` are the files that record i is decoded from, `head` is everything else that the key depends on. Reading
    all contents is slow for a large set, so the key is remembered in `root` under a hash of the files' names, sizes,
    times and inodes; any change of those leads to reading again. A remembered key holds no names.
    """
    status_hash, youngest = _status(files, head)
    remembered = root / f"{status_hash}.key"
    if remembered.exists():
        key, _, count = remembered.read_text().partition(" ")
        return key, int(count)
    digest = hashlib.blake2b(head.encode(), digest_size=16)
    num_missing = 0
    progress = Progress(len(files), f"{what} looked through")
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:  # hashing and reading let other threads run
        for start in range(0, len(files), FILES_PER_UPDATE):
            group = files[start : start + FILES_PER_UPDATE]
            for digests in pool.map(_digests, group):
                num_missing += digests[0] == MISSING
                digest.update(b"\0".join(digests) + b"\1")
            progress.update(len(group), "")
    progress.close()
    if time.time_ns() - youngest > SETTLED_S * 1e9:
        write_private(remembered, f"{digest.hexdigest()} {num_missing}")
    return digest.hexdigest(), num_missing


def _status(files: Sequence[Sequence[Source]], head: str) -> tuple[str, int]:
    """(hash of names, sizes, times and inodes; the latest of the times in nanoseconds)."""
    seen = hashlib.blake2b(head.encode(), digest_size=16)
    statuses: dict[Path, tuple[int | str, ...]] = {}
    youngest = 0
    for group in files:
        for file in group:
            status = statuses.get(file.path)
            if status is None:
                try:
                    status = stat_signature(file)
                except (OSError, ValueError):  # ValueError: a name that no file can have (a damaged header names it)
                    status = ("missing",)
                statuses[file.path] = status
                youngest = max([youngest, *(value for value in status[1:3] if isinstance(value, int))])
            seen.update(f"{file} {status}\n".encode())
        seen.update(b"\1")
    return seen.hexdigest(), youngest


def _digests(files: Iterable[Source]) -> list[bytes]:
    digests = []
    for file in files:
        try:
            digests.append(content_digest(file))
        except FileNotFoundError:
            digests.append(MISSING)
        except Exception as error:  # decoding it will say what is wrong
            digests.append(type(error).__name__.encode())
    return digests
