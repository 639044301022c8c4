"""Every format of image file, written by another library than the one that reads it where there is one."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dptrain.cohorts.image_files import read_pixels
from dptrain.cohorts.pixels import Pixels
from dptrain.cohorts.sources import Source

Read = Callable[..., Pixels]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Pixels of a file with this content; the name says nothing about the format."""

    def read(content: bytes, name: str = "file") -> Pixels:
        (tmp_path / name).write_bytes(content)
        return read_pixels(Source(tmp_path / name))

    return read


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_by_hand(pixels: NDArray[np.uint16]) -> bytes:
    """A 16-bit grey PNG written from its specification."""
    height, width = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_grey_png(read: Read, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (7, 9)).astype(np.uint16)
    found = read(png_by_hand(pixels))
    np.testing.assert_array_equal(found.values[..., 0], pixels)
    assert (found.low, found.high, found.inverted) == (0, 65535, False)


def test_8_bit_grey_and_colour_png(read: Read, rng: np.random.Generator) -> None:
    for shape in ((7, 9), (7, 9, 3)):
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
        found = read(saved(Image.fromarray(pixels), "PNG"))
        np.testing.assert_array_equal(found.values, pixels.reshape(7, 9, -1))
        assert found.high == 255


def test_alpha_is_dropped(read: Read, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (7, 9, 4)).astype(np.uint8)
    np.testing.assert_array_equal(read(saved(Image.fromarray(pixels), "PNG")).values, pixels[..., :3])
    grey = pixels[..., :2].copy()
    np.testing.assert_array_equal(read(saved(Image.fromarray(grey, "LA"), "PNG")).values, pixels[..., :1])


def test_palette_is_looked_up(read: Read, rng: np.random.Generator) -> None:
    colours = rng.integers(0, 256, (16, 3)).astype(np.uint8)
    codes = rng.integers(0, 16, (7, 9)).astype(np.uint8)
    image = Image.fromarray(codes, "P")
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(read(saved(image, "PNG")).values, colours[codes])


def test_black_and_white_png(read: Read, rng: np.random.Generator) -> None:
    pixels = rng.random((7, 9)) < 0.5
    found = read(saved(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(found.values[..., 0], pixels)
    assert found.high == 1


def test_jpeg_is_close_and_turned_upright(read: Read) -> None:
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
    assert np.abs(read(saved(Image.fromarray(ramp), "JPEG", quality=95)).values[..., 0] - ramp.astype(int)).max() <= 3
    exif = Image.Exif()
    exif[274] = 6  # orientation: rotate by 90 degrees clockwise to show
    turned = read(saved(Image.fromarray(ramp), "JPEG", quality=95, exif=exif)).values[..., 0]
    assert turned.shape == (32, 16)
    assert np.abs(turned - np.rot90(ramp, -1).astype(int)).max() <= 3


@pytest.mark.parametrize("options", [
    {"photometric": "minisblack", "planarconfig": "separate"}, {"photometric": "minisblack"}, {"metadata": None},
    {"photometric": "minisblack", "compression": "zlib"},
])  # fmt: skip
def test_16_bit_tiff_with_5_channels(read: Read, rng: np.random.Generator, options: dict[str, Any]) -> None:
    pixels = rng.integers(0, 65536, (5, 7, 9)).astype(np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    found = read(buffer.getvalue())
    np.testing.assert_array_equal(found.values, np.moveaxis(pixels, 0, -1))
    assert found.high == 65535


def test_tiff_with_channels_last_and_white_as_zero(read: Read, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (7, 9, 5)).astype(np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read(buffer.getvalue()).values, pixels)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels[..., 0], photometric="miniswhite")
    assert read(buffer.getvalue()).inverted


def test_floating_point_tiff_has_no_range(read: Read, rng: np.random.Generator) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rng.random((7, 9), dtype=np.float32))
    found = read(buffer.getvalue())
    assert (found.low, found.high) == (None, None)


def test_palette_tiff(read: Read, rng: np.random.Generator) -> None:
    colours = rng.integers(0, 65536, (3, 256)).astype(np.uint16)
    codes = rng.integers(0, 256, (7, 9)).astype(np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, codes, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read(buffer.getvalue()).values, np.moveaxis(colours[:, codes], 0, -1))


def test_lzw_tiff_needs_no_further_library(read: Read, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read(saved(Image.fromarray(pixels), "TIFF", compression="tiff_lzw")).values, pixels)


def test_a_volume_is_refused_with_its_axes(read: Read) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 5, 7, 9), np.uint8), imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(ValueError, match=r"its axes are ZCYX \(7, 9, 4, 5\), expected height, width and"):
        read(buffer.getvalue())


@pytest.mark.parametrize("shape, axis", [((7, 9), None), ((7, 9, 3), -1), ((3, 7, 9), 0), ((7, 9, 1), -1)])
def test_npy(read: Read, rng: np.random.Generator, shape: tuple[int, ...], axis: int | None) -> None:
    pixels = rng.normal(size=shape)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    expected = pixels[..., None] if axis is None else np.moveaxis(pixels, axis, -1)
    np.testing.assert_array_equal(read(buffer.getvalue()).values, expected)


@pytest.mark.parametrize("array, message", [
    (np.zeros((5, 5, 5)), "which axis are the channels"),
    (np.zeros((2, 2, 5, 5)), r"expected \(H, W\), \(H, W, C\) or \(C, H, W\)"),
    (np.zeros((5, 5), dtype=complex), "its values have type complex128"),
    (np.array([[{}]], dtype=object), "allow_pickle"),
])  # fmt: skip
def test_npy_that_is_no_image(read: Read, array: NDArray[Any], message: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    with pytest.raises(ValueError, match=message):
        read(buffer.getvalue())


def test_broken_files(read: Read, rng: np.random.Generator) -> None:
    jpeg = saved(Image.fromarray(rng.integers(0, 256, (64, 64)).astype(np.uint8)), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        read(jpeg[: len(jpeg) // 2])
    with pytest.raises(ValueError, match="the file is empty"):
        read(b"")
    with pytest.raises(ValueError, match=r"it is no PNG, JPEG, TIFF, DICOM or .npy file"):
        read(b"<html>404</html>", "file.png")
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 9)]
    film = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it has 2 frames"):
        read(film)
