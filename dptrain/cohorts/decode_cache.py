"""Files decoded once into a memory-mapped array that is found again by content.

The key of an entry is a hash over the decoder's version, its settings and the content of every file in order; names and
times of files are no part of it (`content_key.py`). Entries are complete or not there (`cached_array.py`); files are
decoded in parallel (`decode_pool.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.cached_array import cache_root, cached_array, read_reasons, write_private
from dptrain.cohorts.content_key import content_key
from dptrain.cohorts.decode_pool import Task, decode_all, describe, num_workers
from dptrain.cohorts.sources import Source
from dptrain.errors import ConfigError, DataError, DptrainError
from dptrain.progress import Progress

MAX_LISTED = 1000
"""Broken files that an error names; all of them are in the entry's `skipped.tsv`."""
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
    root = cache_root(options.cache_dir)
    head = json.dumps([decoder.what, decoder.version, decoder.settings, decoder.shape], sort_keys=True)
    files = [_files(source, decoder) for source in sources]
    key, no_file = content_key(files, head, root, decoder.what, num_workers(options.workers))
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


def _files(source: Source, decoder: Decoder) -> Sequence[Source]:
    try:
        return decoder.files(source)
    except DptrainError:
        raise
    except Exception:  # a header that cannot be read: decoding it will say why
        return (source,)
