"""Images by name, wherever a download put them: folders, folders in folders, zips that were never unpacked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from dptrain.cohorts.layout import contents
from dptrain.cohorts.sources import ZIP_SUFFIX, Source
from dptrain.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
MAX_SHOWN = 8


def named_images(folder: Path, images: str | None, names: Iterable[str]) -> list[Source]:
    """The file of each name (without ending). One that is nowhere gets a path that does not exist: decoding lists it.

    Looked for in `images` (data.images; a relative one starts in `folder`), else in `folder`, and in the folders and
    zips inside, two levels deep; an earlier place wins. Raises DataError if there is no image at all.
    """
    root = folder if images is None else folder / Path(images).expanduser()
    if not root.exists():
        raise DataError(f"data.images={images}: there is no {root}. {folder} holds {contents(folder)}.")
    index: dict[str, Source] = {}
    for place in _places(root):
        for source in _files(place):
            if source.suffix in IMAGE_SUFFIXES:
                index.setdefault(Path(source.member or source.path).stem, source)
    wanted = list(names)
    if wanted and not any(name in index for name in wanted):
        raise DataError(
            f"data.path: none of the {len(wanted)} images is in {root} or in a folder or zip in it. It holds "
            f"{contents(root) if root.is_dir() else f'{len(index)} other images'}. Put them there, or set "
            "data.images=FOLDER_OR_ZIP."
        )
    return [index.get(name, Source(root / f"{name}.jpg")) for name in wanted]


def _places(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    inside = _inside(root)
    return [root, *inside, *(deeper for place in inside if place.is_dir() for deeper in _inside(place))]


def _inside(folder: Path) -> list[Path]:
    """Folders and zips in a folder, by name."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries
                      if entry.name.lower().endswith(ZIP_SUFFIX) or entry.is_dir())  # fmt: skip


def _files(place: Path) -> list[Source]:
    if place.is_dir():
        return [Source(place / name) for name in sorted(os.listdir(place))]
    try:
        with zipfile.ZipFile(place) as archive:
            return [Source(place, member) for member in archive.namelist() if not member.startswith("__MACOSX")]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"data.path: {place} is not a readable zip: {error}.") from error
