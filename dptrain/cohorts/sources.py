"""Files that hold one record each: where they lie (a folder or a zip), their bytes and a digest of their content."""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20
ZIP_SUFFIX = ".zip"


@dataclass(frozen=True)
class Source:
    """One file on disk, or one member of a zip. Paths of hospitals name patients: RESTRICTED."""

    path: Path
    """The file, or the zip that holds it."""
    member: str | None = None
    """Name inside the zip; None for a plain file."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def suffix(self) -> str:
        """`.dcm`, in lower case; '' where the name has none."""
        return Path(self.member or self.path).suffix.lower()

    def beside(self, name: str) -> Source:
        """The file `name` in the same folder (of the disk or of the zip)."""
        if self.member is None:
            return Source(self.path.with_name(name))
        folder = self.member.rpartition("/")[0]
        return Source(self.path, f"{folder}/{name}" if folder else name)


def locate(root: Path, name: str) -> Source:
    """The source that a manifest calls `name`, seen from `root`.

    `root` is a folder or a zip. In a folder, a part of `name` that ends in .zip is a zip and the rest its member:
    `part1.zip/0001.png`. An absolute `name` needs no root. Windows separators are understood.
    """
    name = name.replace("\\", "/")
    if root.suffix.lower() == ZIP_SUFFIX and not name.startswith("/"):
        return Source(root, name.removeprefix("./"))
    head, dot, member = name.partition(f"{ZIP_SUFFIX}/")
    if dot:
        return Source(root / (head + ZIP_SUFFIX), member)
    return Source(root / name)


def read_bytes(source: Source) -> bytes:
    """Content of the file. Raises OSError with a plain message, or what zipfile raises for a damaged zip."""
    if source.member is None:
        try:
            return source.path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError("there is no such file") from None
        except IsADirectoryError:
            raise IsADirectoryError("it is a folder") from None
    return _archive(source.path).read(_member(source))


def exists(source: Source) -> bool:
    """Whether there is such a file or member; False for a zip that cannot be opened."""
    if source.member is None:
        return source.path.is_file()
    try:
        _member(source)
    except (OSError, zipfile.BadZipFile):
        return False
    return True


def content_digest(source: Source) -> bytes:
    """16 bytes that change with the content, not with name, place or time.

    A plain file is hashed (BLAKE2b). Of a zip's member the directory gives CRC-32 and size, so that nothing needs to be
    unpacked; zipfile checks that CRC-32 whenever the member is read.
    """
    if source.member is not None:
        member = _member(source)
        return hashlib.blake2b(f"zip {member.CRC} {member.file_size}".encode(), digest_size=16).digest()
    digest = hashlib.blake2b(digest_size=16)
    with source.path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()


def stat_signature(source: Source) -> tuple[int, ...]:
    """Size, times of writing and of any change (nanoseconds) and inode of the file or zip.

    Found without reading it, and different after anybody wrote to it.
    """
    status = source.path.stat()
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _member(source: Source) -> zipfile.ZipInfo:
    assert source.member is not None
    try:
        return _archive(source.path).getinfo(source.member)
    except KeyError:
        raise FileNotFoundError("the zip has no such member") from None


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return _opened(path, os.getpid(), stat_signature(Source(path)))
    except FileNotFoundError:
        raise FileNotFoundError("there is no such zip") from None


@functools.lru_cache(maxsize=16)
def _opened(path: Path, process: int, signature: tuple[int, ...]) -> zipfile.ZipFile:
    """An open zip: one per process, because forked processes would share the position in the file, and none that is
    older than the file."""
    return zipfile.ZipFile(path)
