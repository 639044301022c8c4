"""Image files to float32 (C, H, W): scaled by public constants, channels by rule, resized with antialiasing.

Per image and in this order: pixels as stored (`image_files.py`) -> [0, 1] by `window` or by the range of the stored
type -> MONOCHROME1 and white-is-zero inverted -> channels -> size -> (value - mean) / std. Nothing is fitted on more
than one image, so nothing of this touches epsilon.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.decode_cache import Decoded, DecodeOptions, Decoder, Undecoded, decode_files, undecoded
from dptrain.cohorts.extras import library
from dptrain.cohorts.image_files import read_pixels
from dptrain.cohorts.pixels import Pixels
from dptrain.cohorts.sources import Source
from dptrain.errors import ConfigError

VERSION = 1
"""Raise it whenever the same file and settings give other values: the cache then decodes anew."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601, what most image libraries use)."""
FITS = ("stretch", "crop", "pad")


@dataclass(frozen=True)
class ImageSpec:
    """Options of every data set whose records are images. All numbers are public constants."""

    size: tuple[int, ...] | None = (64,)
    """Height and width in pixels, or one number for both; null (arrays only, data=npz) keeps theirs."""
    fit: str = "stretch"
    """An image of another aspect ratio is stretched, `crop`: its middle is cut out, `pad`: black is added around it."""
    channels: int | None = 1
    """Channels that the model sees. 3 -> 1: grey by ITU-R BT.601. 1 -> n: repeated. Alpha is dropped, palettes are
    looked up. Anything else is an error: name `select_channels`. null (arrays only) keeps theirs."""
    select_channels: tuple[int, ...] | None = None
    """Take only these channels of each file, in this order, counted from 0 (fluorescence, multispectral TIFF)."""
    frame: int | None = None
    """Which frame of DICOM files with several, counted from 0; null refuses them."""
    window: tuple[float, ...] | None = None
    """[low, high] in the file's units (Hounsfield units in CT) become 0 and 1; values outside are cut off. Centre c and
    width w are [c - w/2, c + w/2]. null takes the range of the stored type: 0..255 for 8 bits, 0..65535 for 16, and for
    DICOM the range of its stored bits. Files of floating-point numbers need a window."""
    dicom_window: bool = False
    """Apply the window (VOI LUT) that each DICOM file brings, instead of `window`."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted after scaling to [0, 1]; one number, or one per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divided by after that."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.size is not None and (len(self.size) not in (1, 2) or min(self.size) < 1):
            problems.append(f"data.size={list(self.size)} must be one whole number >= 1 or [height, width].")
        if self.fit not in FITS:
            problems.append(f"data.fit={self.fit!r} must be one of {', '.join(FITS)}.")
        if self.channels is not None and self.channels < 1:
            problems.append(f"data.channels={self.channels} must be at least 1.")
        if self.select_channels is not None and (not self.select_channels or min(self.select_channels) < 0):
            problems.append(f"data.select_channels={list(self.select_channels)} must name channels, counted from 0.")
        if self.frame is not None and self.frame < 0:
            problems.append(f"data.frame={self.frame} must be >= 0 or null.")
        if self.window is not None and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            problems.append(f"data.window={list(self.window)} must be [low, high] with low < high, or null.")
        if self.window is not None and self.dicom_window:
            problems.append("data.window and data.dicom_window are both set; keep one of them.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels or len(getattr(self, name))):
                problems.append(
                    f"data.{name}={list(getattr(self, name))} must be one number or one for each of "
                    f"data.channels={self.channels}."
                )
        if any(value <= 0 for value in self.std):
            problems.append(f"data.std={list(self.std)} must be > 0.")
        if problems:
            raise ConfigError(problems)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a decoded image; size and channels must be set."""
        assert self.size is not None
        assert self.channels is not None
        return self.channels, self.size[0], self.size[-1]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """`Records.feature_names` of images."""
        channels = self.shape[0]
        known = {1: ("grey",), 3: ("red", "green", "blue")}
        return known.get(channels, tuple(f"channel {index}" for index in range(channels)))


def undecoded_images(sources: Sequence[Source], spec: ImageSpec, options: DecodeOptions) -> Undecoded:
    """Features (N, C, H, W) for `Records.features`: decoded by `assemble`, and only for patients that are wanted."""
    return undecoded(sources, _decoder(spec), options)


def decode_images(sources: Sequence[Source], spec: ImageSpec, options: DecodeOptions) -> Decoded:
    """(K, C, H, W) now. Raises DataError that lists every broken file unless `options.on_error=skip`."""
    return decode_files(sources, _decoder(spec), options)


def decode_image(source: Source, spec: ImageSpec) -> NDArray[np.float32]:
    """(C, H, W) of one file; raises whatever its decoder raises."""
    return to_array(read_pixels(source, spec.frame, spec.dicom_window), spec)


def to_array(pixels: Pixels, spec: ImageSpec) -> NDArray[np.float32]:
    """(C, H, W) from pixels (H, W, C): scaling, inversion, channels, size, mean and std."""
    values = _channels(_unit_range(pixels, spec), spec)
    resized = np.stack([_fit(np.ascontiguousarray(values[..., c]), spec) for c in range(values.shape[-1])])
    if len(resized) < spec.shape[0]:  # one channel, repeated after resizing to resize it once
        resized = np.repeat(resized, spec.shape[0], axis=0)
    mean, std = (np.array(numbers, dtype=np.float32)[:, None, None] for numbers in (spec.mean, spec.std))
    scaled: NDArray[np.float32] = (resized - mean) / std
    return scaled


def _decoder(spec: ImageSpec) -> Decoder:
    if spec.size is None or spec.channels is None:
        raise ConfigError(
            f"data.size={spec.size} and data.channels={spec.channels} must both be set: files may differ in them."
        )
    library("PIL.Image", "imaging", "Images")
    return Decoder(
        "images", VERSION, dataclasses.asdict(spec), spec.shape, functools.partial(decode_image, spec=spec)
    )


def _unit_range(pixels: Pixels, spec: ImageSpec) -> NDArray[np.float32]:
    low, high = pixels.low, pixels.high
    if spec.window is not None:
        low, high = spec.window
    if low is None or high is None:
        raise ValueError("its pixels are floating-point numbers of unknown range: set data.window=[low,high]")
    values = np.clip((pixels.values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    inverted: NDArray[np.float32] = 1 - values if pixels.inverted else values
    return inverted


def _channels(values: NDArray[np.float32], spec: ImageSpec) -> NDArray[np.float32]:
    """(H, W, c) with c = spec.channels, or c = 1 to be repeated."""
    found = values.shape[-1]
    if spec.select_channels is not None:
        if max(spec.select_channels) >= found:
            asked = list(spec.select_channels)
            raise ValueError(f"it has {found} channels, data.select_channels={asked} asks for more")
        values = values[..., list(spec.select_channels)]
    count = values.shape[-1]
    if count in (spec.shape[0], 1):
        return values
    if count == 3 and spec.channels == 1:
        grey: NDArray[np.float32] = (values @ np.array(LUMA, dtype=np.float32))[..., None]
        return grey
    raise ValueError(
        f"it has {count} channels, data.channels={spec.channels}: set data.channels={count}, or pick some with "
        "data.select_channels"
    )


def _fit(plane: NDArray[np.float32], spec: ImageSpec) -> NDArray[np.float32]:
    """(H, W) of the asked size; an image that has it already is not touched."""
    from PIL import Image

    height, width = spec.shape[1:]
    if plane.shape == (height, width):
        return plane
    rows, columns = plane.shape
    box = (0.0, 0.0, float(columns), float(rows))
    inner = (height, width)
    if spec.fit == "crop":
        scale = min(rows / height, columns / width)
        left, top = (columns - width * scale) / 2, (rows - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
    elif spec.fit == "pad":
        scale = max(rows / height, columns / width)
        inner = (min(height, max(1, round(rows / scale))), min(width, max(1, round(columns / scale))))
    image = Image.fromarray(plane).resize((inner[1], inner[0]), Image.Resampling.BILINEAR, box=box)
    resized = np.asarray(image, dtype=np.float32)
    if inner == (height, width):
        return resized
    canvas = np.zeros((height, width), dtype=np.float32)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = resized
    return canvas
