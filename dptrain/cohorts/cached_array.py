"""Arrays in a cache folder: complete or not there, one process writing, others waiting.

An entry is built under another name and renamed when it is complete, so a killed run leaves nothing that is believed.
Entries hold patients' data: folders have mode 0700, files 0600. They may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dptrain.errors import ConfigError, DataError

try:
    import fcntl
except ImportError:  # Windows: two processes may then decode the same files at once; the first to finish is believed
    fcntl = None  # type: ignore[assignment]

COPY_ROWS = 256
log = logging.getLogger(__name__)


def cache_root(cache_dir: str | None) -> Path:
    """The folder of entries below `cache_dir` (None: dptrain in $XDG_CACHE_HOME or ~/.cache), created with mode 0700.

    Raises ConfigError if it cannot be created.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dptrain"
    if cache_dir is not None:
        base = Path(cache_dir).expanduser()
    root = base / "decoded"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir={cache_dir}: {root} cannot be created ({error.strerror}). Name a folder that you "
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


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when the holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
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
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, start + length)
            else:
                file.truncate(start + length)
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
