"""Pixels as image files store them: PNG, JPEG, TIFF, DICOM, .npy, told apart by their first bytes, not by their names.

What belongs to the format is done here and in `dicom_file.py` (palettes, alpha, orientation, colour spaces, rescale
slope and intercept, compressed transfer syntaxes); what is a choice is done in `image_decode.py`.
"""

from __future__ import annotations

import io
import logging
import math
import warnings

import numpy as np

from dptrain.cohorts.dicom_file import dicom_pixels
from dptrain.cohorts.extras import library
from dptrain.cohorts.pixels import Pixels, typed_pixels
from dptrain.cohorts.sources import Source, read_bytes

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_START = b"\x93NUMPY"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_VALUES = 1 << 29
"""Values of the largest TIFF that is read (2 GB as float32): a damaged header can claim any size."""


def read_pixels(source: Source, frame: int | None = None, dicom_window: bool = False) -> Pixels:
    """Decode one file; raises ValueError with advice where we know better than its decoder, else what that raises."""
    data = read_bytes(source)
    if not data:
        raise ValueError("the file is empty")
    if data[128:132] == b"DICM" or source.suffix in DICOM_SUFFIXES:
        return dicom_pixels(data, frame, dicom_window)
    if data.startswith(TIFF_STARTS):
        return _tiff(data)
    if data.startswith(NPY_START):
        return _npy(data)
    return _picture(data)


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
        is_png = image.format == "PNG"
        image.load()
        image = operations.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        values = values[..., :-1]
    if image.mode == "I" and is_png:  # 16 bits, as older pillows read them
        values = values.astype(np.uint16)
    return typed_pixels(values)


def _tiff(data: bytes) -> Pixels:
    """The first image of a TIFF; channels may lie in samples, planes or pages."""
    tifffile = library("tifffile", "imaging", "TIFF files")
    tifffile.logger().setLevel(logging.CRITICAL)  # what is wrong with a file is said in the list of broken files
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, series = file.pages[0], file.series[0]
        if math.prod(series.shape) > MAX_VALUES:
            raise ValueError(f"it says that its size is {series.shape}: more than {MAX_VALUES:,} values are not read")
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
