"""Arrays inside a .npz, read in pieces: a file of 5 GB never has to fit into memory."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dptrain.errors import DataError

CHUNK_BYTES = 16 * 2**20
DAMAGED = (
    ValueError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError, tokenize.TokenError, SyntaxError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile, zlib and numpy raise for damaged files."""


@dataclass(frozen=True)
class NpzArray:
    """One array of the file, not yet read."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype


def npz_keys(file: Path) -> list[str]:
    """Names of the arrays. Raises DataError if there is no such file or it is not an .npz."""
    if not file.exists():
        raise DataError(f"data.path={file} does not exist.")
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except DAMAGED as error:
        raise DataError(f"data.path={file} is not an .npz file: {error}.") from error


def npz_array(file: Path, key: str) -> NpzArray:
    """Shape and type of one array, from its header."""
    with _opened(file, key) as (shape, dtype, _):
        return NpzArray(file, key, shape, dtype)


def read_chunks(array: NpzArray) -> Iterator[tuple[int, NDArray]]:
    """(index of the first row, (n, ...) rows), from the first row to the last. Raises DataError for a damaged file."""
    with _opened(array.file, array.key) as (shape, dtype, stream):
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        step = max(1, CHUNK_BYTES // max(1, row_bytes))
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            try:
                data = stream.read(count * row_bytes)
            except DAMAGED as error:
                raise DataError(f"data.path={array.file}: array {array.key!r} cannot be read: {error}.") from error
            if len(data) < count * row_bytes:
                raise DataError(f"data.path={array.file}: array {array.key!r} ends too early.")
            yield start, np.frombuffer(data, dtype=dtype).reshape(count, *shape[1:])


def read_whole(array: NpzArray) -> NDArray:
    """The array in memory: for labels."""
    chunks = [rows for _, rows in read_chunks(array)]
    return np.concatenate(chunks) if chunks else np.empty(array.shape, array.dtype)


@contextmanager
def _opened(file: Path, key: str) -> Iterator[tuple[tuple[int, ...], np.dtype, IO[bytes]]]:
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(f"{key}.npy"))
            version = np.lib.format.read_magic(stream)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = read_header[version](stream)
        except DAMAGED as error:
            raise DataError(f"data.path={file}: array {key!r} has no readable header ({error}).") from error
        if fortran_order or dtype.hasobject:
            raise DataError(
                f"data.path={file}: array {key!r} is stored in Fortran order or as Python objects. Save it again with "
                "numpy.savez as a plain C-ordered array."
            )
        yield shape, dtype, stream
