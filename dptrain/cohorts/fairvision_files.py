"""The folders of Harvard-FairVision: one .npz per patient under Training, Validation and Test, and a summary table.

Releases differ in names (`Training` or `train`, with or without a folder `Dataset`, the table beside or in `ReadMe`);
all of them are understood. Of an .npz only the small entries are read here, never the OCT volume.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dptrain.cohorts.layout import contents, first_file, gz
from dptrain.cohorts.layout_tables import read_table
from dptrain.errors import DataError
from dptrain.progress import Progress

FOLDERS = {"glaucoma": "Glaucoma", "dr": "DR", "amd": "AMD"}
PARTS = {"training": "training", "train": "training", "validation": "validation", "val": "validation", "test": "test"}
"""Names of folders in lower case, and the part that they hold."""
TABLE_KEYS = ("age", "gender", "race", "ethnicity", "language", "maritalstatus")
NPZ_KEYS = {"gender": "male", "race": "race", "ethnicity": "hispanic", "language": "language",
            "maritalstatus": "maritalstatus"}  # fmt: skip
"""Attributes and the entry of the .npz that holds them; there is no age in it."""
LABEL_KEYS = {"glaucoma": ("glaucoma",), "dr": ("dr_subtype",), "amd": ("amd_condition", "dr_subtype")}
"""Entry of the .npz that holds the label, under the names it has in the files and in the documentation."""


@dataclass(frozen=True)
class Patients:
    """The .npz files of one disease."""

    files: tuple[Path, ...]
    parts: tuple[str, ...]
    """training, validation or test for each file."""
    attributes: pd.DataFrame
    """Text per file: `label` and TABLE_KEYS, '' where not known."""
    broken: tuple[str, ...] = ()
    """Files whose entries could not be read, with the reason; their label is ''."""


def disease_files(root: Path, disease: str, source: str) -> Patients:
    """Files and attributes of a disease below `root` (or in it, if it is the disease's own folder).

    `source` says where labels and attributes come from: `table`, `npz`, or `auto`: the table if there is one. Raises
    DataError if the folders or the table are not there, or the table lacks a file.
    """
    home = _child(root, FOLDERS[disease])
    others = {name.lower() for key, name in FOLDERS.items() if key != disease}
    if home is None and root.resolve().name.lower() not in others and _parts(root):
        home = root
    if home is None:
        raise DataError(
            f"data.path={root} holds neither a folder {FOLDERS[disease]} nor Training, Validation and Test. Found: "
            f"{contents(root)}."
        )
    parts = _parts(home)
    missing = [part for part in ("training", "test") if part not in parts.values()]
    if missing:
        raise DataError(
            f"data.path: {home} has no folder for {' and '.join(missing)} (Training and Test, or train and test). "
            f"Found: {contents(home)}."
        )
    files = [(file, part) for folder, part in parts.items() for file in sorted(folder.glob("data_*.npz"))]
    if not files:
        raise DataError(f"data.path: no data_NNNNN.npz is in {', '.join(map(str, parts))}.")
    paths = tuple(file for file, _ in files)
    table = None
    if source != "npz":
        names = gz(f"data_summary_{disease}.csv", f"{disease}_meta.csv")
        places = (root, home, home / "ReadMe", root / "ReadMe", root.parent)
        table = first_file(places, names)
        if table is None and source == "table":
            raise DataError(
                f"data.attributes=table: there is no {names[0]} in {root} or {home} or a folder ReadMe there. "
                "data.attributes=npz reads every .npz instead."
            )
    broken: tuple[str, ...] = ()
    if table is not None:
        attributes = _from_table(table, paths, disease)
    else:
        attributes, broken = _from_npz(paths, disease)
    return Patients(paths, tuple(part for _, part in files), attributes, broken)


def _child(folder: Path, name: str) -> Path | None:
    return next((c for c in sorted(folder.iterdir()) if c.is_dir() and c.name.lower() == name.lower()), None)


def _parts(folder: Path) -> dict[Path, str]:
    """Folders of the parts, in the order training, validation, test."""
    inner = _child(folder, "Dataset")
    found = {child: PARTS[child.name.lower()] for place in (folder, inner) if place is not None
             for child in sorted(place.iterdir()) if child.is_dir() and child.name.lower() in PARTS}  # fmt: skip
    order = ("training", "validation", "test")
    return dict(sorted(found.items(), key=lambda item: order.index(item[1])))


def _from_table(table: Path, files: Sequence[Path], disease: str) -> pd.DataFrame:
    columns = [("filename",), (disease,), *((key,) for key in TABLE_KEYS)]
    rows = read_table(table, columns[:2], columns[2:]).drop_duplicates("filename").set_index("filename")
    names = [file.name for file in files]
    lost = [name for name in names if name not in rows.index]
    if lost:
        raise DataError(f"data.path: {len(lost)} of {len(names)} .npz files have no row in {table}.")
    return rows.loc[names].rename(columns={disease: "label"}).reset_index(drop=True)


def _from_npz(files: Sequence[Path], disease: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    rows: list[Mapping[str, str]] = []
    broken = []
    progress = Progress(len(files), "labels read")
    for file in files:
        try:
            rows.append(_entries(file, disease))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            rows.append({})
            broken.append(f"{file}: {error}")
        progress.update(1, "")
    progress.close()
    return pd.DataFrame(rows, columns=["label", *TABLE_KEYS], dtype=object).fillna(""), tuple(broken)


def _entries(file: Path, disease: str) -> dict[str, str]:
    """Label and attributes of one .npz; raises ValueError with what is wrong."""
    with np.load(file, allow_pickle=False) as arrays:  # a pickle in a downloaded file could run any program
        label = next((key for key in LABEL_KEYS[disease] if key in arrays.files), None)
        if label is None:
            expected = " or ".join(LABEL_KEYS[disease])
            raise ValueError(f"it has no {expected}; its entries: {', '.join(arrays.files)}")
        keys = {"label": label, **{name: key for name, key in NPZ_KEYS.items() if key in arrays.files}}
        if "age" in arrays.files:
            keys["age"] = "age"
        try:
            return {name: _text(arrays[key]) for name, key in keys.items()}
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            raise ValueError("its labels are Python objects, which are not opened; use the summary table") from None


def _text(value: np.ndarray) -> str:
    item = value.reshape(-1)[0].item() if value.size else ""
    if isinstance(item, float) and np.isfinite(item) and item == int(item):
        item = int(item)
    text = str(item).strip().lower()
    return "" if text in ("-1", "nan", "none", "unknown") else text
