"""Files decoded once into a memory-mapped array that is found again by content.

The key of an entry is a hash over the decoder's version, its settings and the content of every file in order; names and
times of files are no part of it. An entry is written under another name and renamed when it is complete, so a killed
run leaves nothing that is believed. Entries hold patients' data: folders have mode 0700, files 0600. They may be
deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.decode_pool import Task, decode_all, describe
from dptrain.cohorts.sources import Source, content_digest, stat_signature
from dptrain.errors import ConfigError, DataError, DptrainError
from dptrain.progress import Progress

MISSING = b"missing"
MAX_LISTED = 1000
"""Broken files that an error names; all of them are in the entry's `skipped.tsv`."""
SETTLED_S = 2.0
"""A file younger than this may be written to again within the clock's resolution: its times prove nothing yet."""
COPY_ROWS = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeOptions:
    """Options of every data set whose records are files (images, ECGs)."""

    on_error: str = "stop"
    """What to do if files cannot be decoded: `stop` lists all of them, `skip` leaves their records out and says so."""
    cache_dir: str | None = None
    """Folder of decoded arrays; null takes `dptrain` in $XDG_CACHE_HOME (~/.cache). Holds patients' data."""
    workers: int = 0
    """Processes that decode; 0 takes one per core. Changes speed only."""

    def __post_init__(self) -> None:
        problems = []
        if self.on_error not in ("stop", "skip"):
            problems.append(f"data.on_error={self.on_error!r} must be stop or skip.")
        if self.workers < 0:
            problems.append(f"data.workers={self.workers} must be >= 0 (0 takes one process per core).")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Decoder:
    """How the files of one kind become arrays."""

    what: str
    """In messages: `images`, `ECGs`."""
    version: int
    """Raise it whenever the same file and settings give other values: old entries are not used any more."""
    settings: Mapping[str, Any]
    """Everything else that the values depend on; plain values."""
    shape: tuple[int, ...]
    """Of one decoded record."""
    decode: Callable[[Source], NDArray[np.float32]]
    """A module's function (or a functools.partial of one) from a file to `shape`; raises anything on a broken file."""
    files: Callable[[Source], Sequence[Source]] = lambda source: (source,)
    """All files that `decode` reads for a source (a WFDB header and its signals)."""


@dataclass(frozen=True)
class Decoded:
    """What became of N files."""

    features: NDArray[np.float32]
    """(K, ...) the records that could be decoded, in order; a read-only memory map."""
    kept: NDArray[np.bool_]
    """(N,) which ones; K of them are True."""
    warnings: tuple[str, ...] = ()
    """One sentence about those that were left out, without paths."""


@dataclass(frozen=True)
class Undecoded:
    """Features that are still in their files. `Records.features` may be one: `assemble` decodes what it needs."""

    read: Callable[[NDArray[np.int64]], Decoded]
    """Decodes the records with these indices."""
    rows: NDArray[np.int64]
    """(N,) indices for `read`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Undecoded:
        """The same for some of the records; nothing is decoded."""
        return Undecoded(self.read, self.rows[rows])

    def decode(self) -> Decoded:
        """Decode, or find what was decoded before."""
        return self.read(self.rows)


def undecoded(sources: Sequence[Source], decoder: Decoder, options: DecodeOptions) -> Undecoded:
    """`decode_files` put off until it is known which records are wanted."""
    return Undecoded(
        lambda rows: decode_files([sources[row] for row in rows], decoder, options), np.arange(len(sources))
    )


def decode_files(sources: Sequence[Source], decoder: Decoder, options: DecodeOptions) -> Decoded:
    """The decoded records, from the cache if these contents were decoded with these settings before.

    Raises DataError that lists every broken file unless `on_error=skip`, and ConfigError if a library is missing.
    """
    root = cache_root(options)
    key, no_file = _key(sources, decoder, root)
    if no_file == len(sources) > 0:
        shown = ", ".join(str(source) for source in sources[:3])
        raise DataError(
            f"None of the {no_file} {decoder.what} exists, for example {shown}. Check data.path and the folder that "
            "the names in the manifest start at."
        )

    def fill(features: Path, state: Path) -> dict[int, str]:
        progress = Progress(len(sources), f"{decoder.what} decoded")
        task = Task(sources, decoder.decode, features, state)
        try:
            return decode_all(task, options.workers, lambda count: progress.update(count, ""))
        finally:
            progress.close()

    entry = cached_array(root, key, (len(sources), *decoder.shape), fill, decoder.what, retry=_retry(sources, decoder))
    return _outcome(entry, sources, decoder, options)


def cache_root(options: DecodeOptions) -> Path:
    """The folder of entries, created with mode 0700. Raises ConfigError if it cannot be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dptrain"
    if options.cache_dir is not None:
        base = Path(options.cache_dir).expanduser()
    root = base / "decoded"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir={options.cache_dir}: {root} cannot be created ({error.strerror}). Name a folder that you "
            "may write to and that has room for the decoded data."
        ) from error
    return root


def cached_array(
    root: Path,
    key: str,
    shape: tuple[int, ...],
    fill: Callable[[Path, Path], dict[int, str]],
    what: str,
    retry: Callable[[dict[int, str]], bool] = lambda reasons: False,
) -> Path:
    """The complete entry `key`: `features.npy` (rows that were filled) and `entry.json` (reasons of the others).

    `fill(features, state)` writes rows into a .npy of zeros of this shape and returns the reasons of failed rows.
    `retry` says whether an entry with failed rows is worth another try. One process fills, others wait for it.
    """
    entry = root / key
    with _lock(root / f"{key}.lock"):
        if _is_complete(entry):
            reasons = read_reasons(entry)
            if not (reasons and retry(reasons)):
                log.info("%s: %d found decoded in %s.", what, shape[0] - len(reasons), entry)
                return entry
        if entry.exists():
            shutil.rmtree(entry)
        building = root / f"{key}.building"
        shutil.rmtree(building, ignore_errors=True)  # of a killed process: whoever holds the lock is alone
        building.mkdir(mode=0o700)
        try:
            features, state = building / "features.npy", building / "state.npy"
            _reserve(features, shape, np.float32, what)
            _reserve(state, (shape[0],), np.uint8, what)
            reasons = fill(features, state)
            state.unlink()
            _drop_rows(features, shape, sorted(reasons))
            write_private(building / "entry.json", json.dumps({"what": what, "shape": shape, "reasons": reasons}))
            _sync(features)
            building.rename(entry)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    log.info("%s: %d decoded into %s (%.1f MB).", what, shape[0] - len(reasons), entry, _size(entry) / 1e6)
    return entry


def read_reasons(entry: Path) -> dict[int, str]:
    """Row and reason of every file that could not be decoded."""
    return {int(row): str(reason) for row, reason in json.loads((entry / "entry.json").read_text())["reasons"].items()}


def write_private(path: Path, text: str) -> None:
    """Write a text file with mode 0600 under a temporary name, then rename it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _outcome(entry: Path, sources: Sequence[Source], decoder: Decoder, options: DecodeOptions) -> Decoded:
    reasons = read_reasons(entry)
    kept = np.ones(len(sources), dtype=bool)
    if not reasons:
        return Decoded(np.load(entry / "features.npy", mmap_mode="r"), kept)
    kept[list(reasons)] = False
    broken = [f"{sources[row]}\t{reason}" for row, reason in sorted(reasons.items())]
    listing = entry / "skipped.tsv"
    write_private(listing, "\n".join(["file\treason", *broken, ""]))
    counts = f"{len(broken)} of {len(sources)} {decoder.what}"
    if options.on_error == "stop" or not kept.any():
        listed = [f"  {line.replace(chr(9), ': ')}" for line in broken[:MAX_LISTED]]
        if len(broken) > MAX_LISTED:
            listed.append(f"  ... all of them are listed in {listing}")
        advice = "Repair them or take them out of the manifest, or set data.on_error=skip to leave their records out."
        raise DataError([f"{counts} cannot be decoded. {advice}", *listed])
    log.info("data.on_error=skip: the list of skipped files is %s.", listing)
    return Decoded(
        np.load(entry / "features.npy", mmap_mode="r"), kept,
        (f"data.on_error=skip: {counts} could not be decoded and their records are left out.",),
    )  # fmt: skip


def _retry(sources: Sequence[Source], decoder: Decoder) -> Callable[[dict[int, str]], bool]:
    """Whether a file that failed once works now: a library was installed, a disk is back."""

    def works_now(reasons: dict[int, str]) -> bool:
        for row in reasons:
            try:
                decoder.decode(sources[row])
            except DptrainError:
                raise
            except Exception as error:
                log.debug("still broken: %s", describe(error))
            else:
                return True
        return False

    return works_now


def _key(sources: Sequence[Source], decoder: Decoder, root: Path) -> tuple[str, int]:
    """(key of the entry, number of files that do not exist).

    Hashing all contents is slow for a large set, so the key is remembered under a hash of the files' names, sizes and
    times; any change of those leads to hashing again.
    """
    head = json.dumps([decoder.what, decoder.version, decoder.settings, decoder.shape], sort_keys=True)
    seen = hashlib.blake2b(head.encode(), digest_size=16)
    youngest = 0
    files: list[Sequence[Source]] = []
    statuses: dict[Path, tuple[int | str, ...]] = {}
    for source in sources:
        files.append(_files(source, decoder))
        for file in files[-1]:
            if file.path not in statuses:
                try:
                    statuses[file.path] = stat_signature(Source(file.path))
                except OSError:
                    statuses[file.path] = (str(file.path), "missing")
            status = statuses[file.path]
            youngest = max([youngest, *(value for value in status[2:4] if isinstance(value, int))])
            seen.update(f"{file} {status[1:]}\n".encode())
    remembered = root / f"{seen.hexdigest()}.key"
    if remembered.exists():
        key, _, count = remembered.read_text().partition(" ")
        return key, int(count)
    digest = hashlib.blake2b(head.encode(), digest_size=16)
    num_missing = 0
    progress = Progress(len(sources), f"{decoder.what} looked through")
    for index, group in enumerate(files):
        digests = [_digest(file) for file in group]
        num_missing += digests[0] == MISSING
        digest.update(b"\0".join(digests) + b"\1")
        if index % COPY_ROWS == COPY_ROWS - 1:
            progress.update(COPY_ROWS, "")
    progress.update(len(files) % COPY_ROWS, "")
    progress.close()
    if time.time_ns() - youngest > SETTLED_S * 1e9:
        write_private(remembered, f"{digest.hexdigest()} {num_missing}")
    return digest.hexdigest(), num_missing


def _files(source: Source, decoder: Decoder) -> Sequence[Source]:
    try:
        return decoder.files(source)
    except DptrainError:
        raise
    except Exception:  # a header that cannot be read: decoding it will say why
        return (source,)


def _digest(file: Source) -> bytes:
    try:
        return content_digest(file)
    except FileNotFoundError:
        return MISSING
    except Exception as error:
        return describe(error).encode()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when the holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_complete(entry: Path) -> bool:
    try:
        shape = json.loads((entry / "entry.json").read_text())["shape"]
        features = np.load(entry / "features.npy", mmap_mode="r")
        return len(features) == shape[0] - len(read_reasons(entry)) and list(features.shape[1:]) == shape[1:]
    except (OSError, ValueError, KeyError):
        return False


def _reserve(path: Path, shape: tuple[int, ...], dtype: type[np.generic], what: str) -> None:
    """A .npy of zeros whose blocks exist on disk: writing into it later cannot fail for want of room."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        )
        start = file.tell()
        length = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            file.flush()
            os.posix_fallocate(file.fileno(), 0, start + length)
        except OSError as error:
            raise DataError(
                f"{path.parent.parent} has no room for the decoded {what}: they need {length / 1e9:.2f} GB "
                f"({error.strerror}). Set data.cache_dir to a folder on a larger disk, lower data.size or set "
                "data.max_patients."
            ) from error


def _drop_rows(path: Path, shape: tuple[int, ...], rows: list[int]) -> None:
    """Take the failed rows out of the file, in place."""
    if not rows:
        return
    kept = np.delete(np.arange(shape[0]), rows)
    array = np.load(path, mmap_mode="r+")
    for start in range(0, len(kept), COPY_ROWS):
        part = kept[start : start + COPY_ROWS]
        array[start : start + len(part)] = array[part]  # a kept row only ever moves up
    array.flush()
    offset = array.offset
    del array
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (len(kept), *shape[1:])}
        )
        assert file.tell() == offset, "numpy pads headers, so that a smaller first axis takes the same room"
        file.truncate(offset + len(kept) * int(np.prod(shape[1:], dtype=np.int64)) * 4)


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())
