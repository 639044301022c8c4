"""Pixels as image files store them: PNG, JPEG, TIFF, DICOM, .npy, told apart by their first bytes, not by their names.

What belongs to the format is done here (palettes, alpha, orientation, rescale slope and intercept, colour spaces,
compressed transfer syntaxes); what is a choice is done in `image_decode.py`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.extras import library
from dptrain.cohorts.sources import Source, read_bytes

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_START = b"\x93NUMPY"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PLUGINS = "pip install 'dptrain[imaging]' brings those that exist"


@dataclass(frozen=True)
class Pixels:
    """One image as stored."""

    values: NDArray[Any]
    """(H, W, C) numbers of any type, in the file's units (after DICOM's rescale slope and intercept)."""
    low: float | None
    """Smallest value that the stored type can hold; None for floating point."""
    high: float | None
    """Largest one."""
    inverted: bool = False
    """The smallest value is white (MONOCHROME1, white-is-zero TIFF)."""


def read_pixels(source: Source, frame: int | None = None, dicom_window: bool = False) -> Pixels:
    """Decode one file; raises ValueError with advice where we know better than its decoder, else what that raises."""
    data = read_bytes(source)
    if not data:
        raise ValueError("the file is empty")
    if data[128:132] == b"DICM" or source.suffix in DICOM_SUFFIXES:
        return _dicom(data, frame, dicom_window)
    if data.startswith(TIFF_STARTS):
        return _tiff(data)
    if data.startswith(NPY_START):
        return _npy(data)
    return _picture(data)


def typed_pixels(values: NDArray[Any], inverted: bool = False) -> Pixels:
    """Pixels (H, W) or (H, W, C) whose range is that of their type. Raises ValueError for other types."""
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype == np.bool_:
        return Pixels(values, 0.0, 1.0, inverted)
    if values.dtype.kind in "ui":
        info = np.iinfo(values.dtype)
        return Pixels(values, float(info.min), float(info.max), inverted)
    if values.dtype.kind == "f":
        return Pixels(values, None, None, inverted)
    raise ValueError(f"its values have type {values.dtype}, expected whole or floating-point numbers")


def _picture(data: bytes) -> Pixels:
    """PNG, JPEG and whatever else pillow reads, turned upright as its EXIF tag says."""
    image_module = library("PIL.Image", "imaging", "Images")
    operations = library("PIL.ImageOps", "imaging", "Images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = image_module.open(io.BytesIO(data))
        except image_module.UnidentifiedImageError:
            raise ValueError("it is no PNG, JPEG, TIFF, DICOM or .npy file") from None
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ValueError(f"it has {image.n_frames} frames, expected one")
        image.load()
        image = operations.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        values = values[..., :-1]
    if image.mode == "I" and image.format == "PNG":
        values = values.astype(np.uint16)
    return typed_pixels(values)


def _tiff(data: bytes) -> Pixels:
    """The first image of a TIFF; channels may lie in samples, planes or pages."""
    tifffile = library("tifffile", "imaging", "TIFF files")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, series = file.pages[0], file.series[0]
        try:
            values, axes = series.asarray(), series.axes
        except (ValueError, ImportError) as error:
            if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
                raise
            if len(file.pages) > 1:
                raise ValueError(
                    f"its compression {page.compression.name} needs: pip install imagecodecs"
                ) from None
            return _picture(data)  # pillow reads LZW, JPEG and fax compression of grey and RGB images
        photometric = page.photometric
        colormap = page.colormap
    if "Y" not in axes or "X" not in axes:
        raise ValueError(f"its axes are {axes} {values.shape}, expected height and width")
    values = np.moveaxis(values, [axes.index("Y"), axes.index("X")], [0, 1])
    values = values.reshape(*values.shape[:2], *(n for n in values.shape[2:] if n > 1))
    if values.ndim > 3:
        raise ValueError(f"its axes are {axes} {values.shape}, expected height, width and at most one more")
    if photometric == tifffile.PHOTOMETRIC.PALETTE and colormap is not None and values.ndim == 2:
        return typed_pixels(np.moveaxis(np.asarray(colormap)[:, values], 0, -1))
    if photometric == tifffile.PHOTOMETRIC.RGB and values.ndim == 3 and values.shape[-1] == 4 and page.extrasamples:
        values = values[..., :3]
    return typed_pixels(values, inverted=photometric == tifffile.PHOTOMETRIC.MINISWHITE)


def _npy(data: bytes) -> Pixels:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    if values.ndim == 2:
        return typed_pixels(values)
    if values.ndim != 3:
        raise ValueError(f"it has shape {values.shape}, expected (H, W), (H, W, C) or (C, H, W)")
    first, last = values.shape[0], values.shape[-1]
    if first == last:
        raise ValueError(f"it has shape {values.shape}: which axis are the channels? Save it as (H, W, C), C < H")
    return typed_pixels(np.moveaxis(values, 0, -1) if first < last else values)


def _dicom(data: bytes, frame: int | None, dicom_window: bool) -> Pixels:
    pydicom = library("pydicom", "imaging", "DICOM files")
    pixels = library("pydicom.pixels", "imaging", "DICOM files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if "PixelData" not in dataset and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
            raise ValueError("it is no DICOM file with pixel data")
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        num_frames = int(dataset.get("NumberOfFrames") or 1)
        if num_frames > 1 and (frame is None or frame >= num_frames):
            raise ValueError(f"it has {num_frames} frames: pick one with data.frame (from 0)")
        photometric = str(dataset.PhotometricInterpretation)
        syntax = dataset.file_meta.TransferSyntaxUID
        try:
            values = pixels.pixel_array(dataset, index=(frame or 0) if num_frames > 1 else 0)
        except (RuntimeError, NotImplementedError, ImportError) as error:
            reason = f"{_first(error)}; {PLUGINS}"
            raise ValueError(f"its transfer syntax {syntax.name} cannot be decoded: {reason}") from error
        if photometric == "PALETTE COLOR":
            return typed_pixels(pixels.apply_color_lut(values, dataset))
        if values.ndim == 3:
            return typed_pixels(values)
        inverted = photometric == "MONOCHROME1"
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            return typed_pixels(values, inverted)
        bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
        limits = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        shown, limits = (_modality(array, dataset, pixels) for array in (values, limits))
        if dicom_window:
            return _windowed(shown, dataset, pixels, inverted)
    return Pixels(shown[..., None], float(limits.min()), float(limits.max()), inverted)


def _modality(values: NDArray[Any], dataset: Any, pixels: Any) -> NDArray[Any]:
    """Rescale slope and intercept, or the modality LUT."""
    return np.asarray(pixels.apply_rescale(values, dataset))


def _windowed(values: NDArray[Any], dataset: Any, pixels: Any, inverted: bool) -> Pixels:
    """Through the first window or VOI LUT of the file."""
    if "WindowCenter" not in dataset and "VOILUTSequence" not in dataset:
        raise ValueError("it brings no window (data.dicom_window=true); set data.window=[low,high] instead")
    shown = np.asarray(pixels.apply_voi_lut(values, dataset, index=0))
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    del bits, signed
    return Pixels(shown[..., None], float(shown.min()), float(shown.max()), inverted)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
