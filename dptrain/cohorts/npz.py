"""`data=npz`: images and labels as arrays of one .npz file, in the layout of MedMNIST (Yang et al. 2023).

Keys {train,val,test}_images, (N, H, W) or (N, H, W, C), and {train,val,test}_labels, (N,) or (N, L). Training and
validation images are training patients, test images test patients. Without patient identifiers the unit of privacy is
the image, and the tool says so; identical images are one unit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.cached_array import cache_root, cached_array
from dptrain.cohorts.cohort import Task
from dptrain.cohorts.decode_cache import Decoded, DecodeOptions, Undecoded
from dptrain.cohorts.image_decode import VERSION, ImageSpec, to_array
from dptrain.cohorts.npz_arrays import NpzArray, npz_array, npz_keys, read_chunks, read_whole
from dptrain.cohorts.pixels import typed_pixels
from dptrain.cohorts.records import Records
from dptrain.cohorts.sources import Source, content_digest
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import near_miss, parse_parts
from dptrain.progress import Progress

UNIT_WARNING = (
    "These data have no patient identifiers: the unit of privacy is the image. A patient with several images is "
    "protected less than epsilon says."
)


@dataclass(frozen=True)
class NpzOptions:
    """Options of data=npz beside those of images."""

    train_parts: tuple[str, ...] = ("train", "val")
    """Parts of the file that are training patients."""
    test_parts: tuple[str, ...] = ("test",)
    """Parts that are test patients; [] lets dptrain split."""
    images_key: str = "{part}_images"
    """Name of a part's images."""
    labels_key: str = "{part}_labels"
    """Name of a part's labels: (N,) or (N, 1) classes 0..K-1, or (N, L) 0/1 labels (multilabel)."""
    patients_key: str | None = None
    """Name of a part's patient identifiers (N,), such as {part}_patients; null if the file has none."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, or of the L labels; null counts them in the labels, and the privacy statement says so."""

    def __post_init__(self) -> None:
        problems = []
        if not self.train_parts or set(self.train_parts) & set(self.test_parts):
            problems.append("data.train_parts must name at least one part, and none that data.test_parts names.")
        for name in ("images_key", "labels_key", "patients_key"):
            value = getattr(self, name)
            if value is not None and "{part}" not in value:
                problems.append(f"data.{name}={value!r} must hold {{part}}, which stands for train, val, test.")
        if problems:
            raise ConfigError(problems)


OPTIONS = (NpzOptions, ImageSpec, DecodeOptions)


def read_npz(data: DataConfig) -> Records:
    """Images of the file `data.path`, training parts first."""
    options, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    if data.path is None:
        raise ConfigError("data.path=null must name an .npz file with images and labels (docs/data.md has the layout).")
    return npz_records(Path(data.path).expanduser(), options, spec, decoding, f"data.name={data.name}")


def npz_records(file: Path, options: NpzOptions, spec: ImageSpec, decoding: DecodeOptions, name: str) -> Records:
    """Records of one file. Raises DataError with every key that it lacks."""
    if spec.frame is not None or spec.dicom_window:
        raise ConfigError("data.frame and data.dicom_window are for DICOM files: leave them out here.")
    parts = (*options.train_parts, *options.test_parts)
    images = _arrays(file, options.images_key, parts)
    labels = [read_whole(array) for array in _arrays(file, options.labels_key, parts)]
    counts = [array.shape[0] for array in images]
    problems = _shape_problems(images, labels, name)
    if problems:
        raise DataError(problems)
    task, values, label_names, outside_dp = _labels(np.concatenate(labels), options.classes, name)
    content = np.concatenate([_digests(array) for array in images])
    is_test = np.repeat(np.arange(len(parts)) >= len(options.train_parts), counts)
    rows = np.arange(len(content))
    if options.patients_key is None:
        ids = content
        rows, warnings = _without_leaks(content, is_test)
        warnings = (UNIT_WARNING, *warnings)
    else:
        ids = np.concatenate([
            read_whole(array).reshape(-1).astype(np.str_) for array in _arrays(file, options.patients_key, parts)
        ])  # fmt: skip
        warnings = ()
    spec = _resolved(spec, images[0])
    return Records(
        task=task, features=_undecoded(images, spec, decoding)[rows], labels=values[rows], patient_ids=ids[rows],
        label_names=label_names, feature_names=spec.channel_names,
        is_test=is_test[rows] if options.test_parts else None, outside_dp=outside_dp, warnings=warnings,
    )  # fmt: skip


def _arrays(file: Path, pattern: str, parts: Sequence[str]) -> list[NpzArray]:
    keys = npz_keys(file)
    wanted = [pattern.replace("{part}", part) for part in parts]
    problems = [
        f"data.path={file} has no array {key!r}{near_miss(key, keys)}. Its arrays: {', '.join(keys)}."
        for key in wanted
        if key not in keys
    ]
    if problems:
        raise DataError(problems)
    return [npz_array(file, key) for key in wanted]


def _shape_problems(images: Sequence[NpzArray], labels: Sequence[NDArray], name: str) -> list[str]:
    problems = []
    if not sum(len(values) for values in labels):
        problems.append(f"{name}: there is not one label in {', '.join(array.key for array in images)}.")
    if any(values.dtype.kind not in "uifb" for values in labels):
        problems.append(f"{name}: labels must be numbers, found type {labels[0].dtype}: number the classes from 0 on.")
    for array, values in zip(images, labels, strict=True):
        if len(array.shape) not in (3, 4) or (len(array.shape) == 4 and array.shape[3] > min(array.shape[1:3])):
            problems.append(f"{name}: array {array.key!r} has shape {array.shape}, expected (N, H, W) or (N, H, W, C).")
        if array.shape[1:] != images[0].shape[1:] or array.dtype != images[0].dtype:
            problems.append(f"{name}: arrays {images[0].key!r} and {array.key!r} differ in size or type of the images.")
        if len(values) != array.shape[0] or values.ndim not in (1, 2) or values.shape[1:] != labels[0].shape[1:]:
            problems.append(
                f"{name}: {array.key!r} has {array.shape[0]} images and its labels have shape {values.shape}, expected "
                "(N,) or (N, L) with the same N and L everywhere."
            )
    return problems


def _labels(
    values: NDArray, classes: tuple[str, ...] | None, name: str
) -> tuple[Task, NDArray[np.float32] | NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    """(task, labels, label names, what epsilon does not cover)."""
    if values.ndim == 2 and values.shape[1] > 1:
        names = classes or tuple(f"label {index}" for index in range(values.shape[1]))
        if len(names) != values.shape[1]:
            raise ConfigError(f"data.classes={list(names)} must name each of the {values.shape[1]} labels.")
        return "multilabel", values.astype(np.float32), names, ()
    codes = values.reshape(-1)
    if codes.dtype.kind not in "ui" and not np.array_equal(codes, np.round(codes)):
        raise DataError(f"{name}: labels must be whole numbers 0..K-1, found type {codes.dtype}.")
    codes = codes.astype(np.int64)
    outside: tuple[str, ...] = ()
    if classes is None:
        classes = tuple(str(index) for index in range(max(2, int(codes.max()) + 1)))
        outside = ("The number of classes was counted in the labels (data.classes=null); epsilon does not cover it.",)
    return ("binary" if len(classes) == 2 else "multiclass"), codes, classes, outside


def _digests(array: NpzArray) -> NDArray[np.str_]:
    """(N,) name of each image made of its content: the same image has the same name."""
    names = [
        hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=12).hexdigest()
        for _, rows in read_chunks(array)
        for image in rows
    ]
    return np.array(names, dtype="<U24")


def _without_leaks(
    content: NDArray[np.str_], is_test: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(rows without test images that are also in training, warnings about identical images)."""
    leaked = is_test & np.isin(content, content[~is_test])
    rows = np.flatnonzero(~leaked)
    warnings = []
    num_same = len(rows) - len(np.unique(content[rows]))
    if num_same:
        warnings.append(
            f"{num_same} images are exact copies of others: copies count as records of one unit, so that nobody is in "
            "and out of the training set at once."
        )
    if leaked.any():
        warnings.append(
            f"{int(leaked.sum())} test images are exact copies of training images and are left out of the test."
        )
    return rows, tuple(warnings)


def _resolved(spec: ImageSpec, array: NpzArray) -> ImageSpec:
    """With the file's own size and channels where the configuration leaves them open."""
    channels = array.shape[3] if len(array.shape) == 4 else 1
    if spec.select_channels is not None:
        channels = len(spec.select_channels)
    return dataclasses.replace(
        spec, size=spec.size or array.shape[1:3], channels=channels if spec.channels is None else spec.channels
    )


def _undecoded(images: Sequence[NpzArray], spec: ImageSpec, decoding: DecodeOptions) -> Undecoded:
    starts = np.cumsum([0, *(array.shape[0] for array in images)])

    def read(rows: NDArray[np.int64]) -> Decoded:
        settings = json.dumps([VERSION, dataclasses.asdict(spec), [array.key for array in images]], sort_keys=True)
        digest = hashlib.blake2b(settings.encode(), digest_size=16)
        digest.update(content_digest(Source(images[0].file)))
        digest.update(np.ascontiguousarray(rows).tobytes())

        def fill(features: Path, state: Path) -> dict[int, str]:
            target = np.load(features, mmap_mode="r+")
            order = np.argsort(rows, kind="stable")
            progress = Progress(len(rows), "images scaled")
            for array, first in zip(images, starts, strict=False):
                for start, chunk in read_chunks(array):
                    low, high = np.searchsorted(rows[order], [first + start, first + start + len(chunk)])
                    for place in order[low:high]:
                        try:
                            target[place] = to_array(typed_pixels(chunk[rows[place] - first - start]), spec)
                        except ValueError as error:
                            raise DataError(f"data.path={array.file}: an image of {array.key!r}: {error}.") from error
                    if high > low:
                        progress.update(int(high - low), "")
            progress.close()
            return {}

        root = cache_root(decoding.cache_dir)
        entry = cached_array(root, digest.hexdigest(), (len(rows), *spec.shape), fill, "images")
        return Decoded(np.load(entry / "features.npy", mmap_mode="r"), np.ones(len(rows), dtype=bool))

    return Undecoded(read, np.arange(int(starts[-1])))
