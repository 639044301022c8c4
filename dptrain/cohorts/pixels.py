"""`Pixels`: one image as its file stores it, with the range that its numbers could have had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
