"""The arrays in a .npz file or in a folder of models, by name; `attack_files` checks what they say."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.errors import DataError

log = logging.getLogger(__name__)

KEYS = (
    "membership",
    "logits",
    "labels",
    "signals",
    "patient",
    "groups",
    "population_signals",
    "population_logits",
    "population_labels",
    "target",
)
GROUP_PREFIX = "group_"
_ONE_MODEL = ("train_logits.npy", "train_labels.npy", "subset_mask.npy")


def npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The known arrays of an .npz; unknown ones are named in a warning.

    Raises:
        DataError: not an .npz, or arrays that cannot be read.
    """
    problems: list[str] = []
    arrays: dict[str, NDArray[Any]] = {}
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an .npz file: {error}. Make one with numpy.savez.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds a single array; expected an .npz with named arrays (numpy.savez).")
    with archive:
        for key in archive.files:
            if key not in KEYS and not key.startswith(GROUP_PREFIX):
                log.warning(
                    "%s: array %r is not read; known are %s and %sNAME.", path, key, ", ".join(KEYS), GROUP_PREFIX
                )
                continue
            try:
                arrays[key] = archive[key]
            except Exception as error:
                hint = "Save text as numpy.array(values, dtype=str)." if "pickle" in str(error) else "Write it again."
                problems.append(f"{path}: array {key!r} cannot be read: {error}. {hint}")
    if problems:
        raise DataError(problems)
    return arrays


def folder_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a folder of models, stacked in the order of their folders' names, under the names of an .npz.

    `patient.npy`, `groups.npy`, `group_NAME.npy` and `target.npy` beside the models are read too.

    Raises:
        DataError: no model, or files that are missing, unreadable or of different shapes.
    """
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and (folder / _ONE_MODEL[0]).exists())
    if not folders:
        raise DataError(
            f"{path} holds no folder with {', '.join(_ONE_MODEL)}. Expected one such folder per model, or a .npz file."
        )
    problems: list[str] = []
    with_population = all((folder / name).exists() for folder in folders for name in _POPULATION)
    stacks: dict[str, list[NDArray[Any]]] = {}
    for folder in folders:
        for name in (*_ONE_MODEL, *(_POPULATION if with_population else ())):
            array = _loaded(folder / name, problems)
            if array is None:
                continue
            stack = stacks.setdefault(name, [])
            if stack and stack[0].shape != array.shape:
                problems.append(
                    f"{folder / name}: shape {array.shape} differs from {stack[0].shape} of {folders[0].name}."
                )
            elif "labels" not in name or not stack:
                stack.append(array)
            elif not np.array_equal(stack[0], array):
                problems.append(f"{folder / name} differs from that of {folders[0].name}; expected the same records.")
    arrays: dict[str, NDArray[Any]] = {}
    for file in sorted(path.glob("*.npy")):
        if file.stem in ("patient", "groups", "target") or file.stem.startswith(GROUP_PREFIX):
            array = _loaded(file, problems)
            if array is not None:
                arrays[file.stem] = array
    if problems:
        raise DataError(problems)
    for name, key in _NAMES.items():
        if name in stacks:
            stack = stacks.pop(name)
            arrays[key] = stack[0] if "labels" in name else np.stack(stack)
    for key in ("logits", "population_logits"):
        if key in arrays and arrays[key].ndim == 4 and arrays[key].shape[2] == 1:
            arrays[key] = arrays[key][:, :, 0]
    return arrays


_POPULATION = ("eval_logits.npy", "eval_labels.npy")
_NAMES = {
    "train_logits.npy": "logits",
    "train_labels.npy": "labels",
    "subset_mask.npy": "membership",
    "eval_logits.npy": "population_logits",
    "eval_labels.npy": "population_labels",
}


def _loaded(file: Path, problems: list[str]) -> NDArray[Any] | None:
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        problems.append(f"{file} cannot be read: {error}.")
        return None
