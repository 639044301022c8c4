"""Pixels of a DICOM file (pydicom): compressed transfer syntaxes, rescale slope and intercept, MONOCHROME1, windows.

Only image elements are looked at; names, dates and identifiers in the header are never read out. Which compressed
transfer syntaxes can be decoded depends on the plug-ins installed (the extra `imaging` brings pylibjpeg's).
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.extras import library
from dptrain.cohorts.pixels import Pixels, typed_pixels

FLOATS = ("FloatPixelData", "DoubleFloatPixelData")


def dicom_pixels(data: bytes, frame: int | None, dicom_window: bool) -> Pixels:
    """Pixels in the units of the modality (Hounsfield units in CT); raises ValueError with advice.

    Their range is what `BitsStored` bits can hold, sent through slope and intercept (or the modality LUT). With
    `dicom_window` they went through the file's first VOI LUT or window, and the range is that of its output.
    """
    pydicom = library("pydicom", "imaging", "DICOM files")
    tools = library("pydicom.pixels", "imaging", "DICOM files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if not any(name in dataset for name in ("PixelData", *FLOATS)):
            raise ValueError("it is no DICOM file with pixel data")
        values = _stored(dataset, frame, pydicom, tools)
        photometric = str(dataset.PhotometricInterpretation)
        if photometric == "PALETTE COLOR":
            return typed_pixels(np.asarray(tools.apply_color_lut(values, dataset)))
        inverted = photometric == "MONOCHROME1"
        if any(name in dataset for name in FLOATS):
            return typed_pixels(values, inverted)
        limits = _limits(int(dataset.BitsStored), bool(dataset.PixelRepresentation))
        if values.ndim == 3:
            return Pixels(values, float(limits[0]), float(limits[1]))
        shown = np.asarray(tools.apply_modality_lut(values, dataset))
        if dataset.get("ModalityLUTSequence"):
            limits = _limits(int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]), signed=False)
        else:
            limits = np.asarray(tools.apply_modality_lut(limits, dataset))
        if dicom_window:
            if dataset.get("VOILUTSequence"):
                limits = _limits(int(dataset.VOILUTSequence[0].LUTDescriptor[2]), signed=False)
            elif "WindowCenter" not in dataset:
                raise ValueError("it brings no window (data.dicom_window=true); set data.window=[low,high] instead")
            shown = np.asarray(tools.apply_voi_lut(shown, dataset, index=0))
    return Pixels(shown[..., None], float(limits.min()), float(limits.max()), inverted)


def _stored(dataset: Any, frame: int | None, pydicom: Any, tools: Any) -> NDArray[Any]:
    """(H, W) or (H, W, 3) as stored; colours as RGB."""
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if num_frames > 1 and (frame is None or frame >= num_frames):
        raise ValueError(f"it has {num_frames} frames: pick one with data.frame (counted from 0)")
    if "TransferSyntaxUID" not in dataset.file_meta:  # files from before the standard had a header of its own
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        values = np.asarray(tools.pixel_array(dataset, index=(frame or 0) if num_frames > 1 else 0))
    except (RuntimeError, NotImplementedError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"its pixels ({syntax.name}) cannot be decoded: {reason}. If a plug-in is missing: pip install "
            "'dptrain[imaging]'"
        ) from error
    bits = int(dataset.get("BitsStored", 0))
    if not syntax.is_compressed and values.dtype.kind == "u" and 0 < bits < int(dataset.BitsAllocated):
        values = values & values.dtype.type(2**bits - 1)  # old files keep drawings in the bits above
    return values


def _limits(bits: int, signed: bool) -> NDArray[np.int64]:
    """Smallest and largest number of that many bits."""
    return np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
