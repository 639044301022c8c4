"""From pixels to (C, H, W): scaling, inversion, channels and size against slow, obvious oracles."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.image_decode import ImageSpec, decode_image, decode_images, to_array
from dptrain.cohorts.pixels import Pixels, typed_pixels
from dptrain.cohorts.sources import locate
from dptrain.errors import ConfigError
from dptrain.options import parse_options

PLAIN: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}


def bilinear(plane: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """Triangle filter as wide as the reduction, one output pixel after the other."""

    def weights(length: int, wanted: int, place: int) -> NDArray[np.float64]:
        scale = length / wanted
        support = max(scale, 1.0)
        centre = (place + 0.5) * scale
        raw = np.array([max(0.0, 1 - abs(k + 0.5 - centre) / support) for k in range(length)])
        return raw / raw.sum()

    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            result[y, x] = weights(plane.shape[0], height, y) @ plane @ weights(plane.shape[1], width, x)
    return result


@given(st.integers(3, 23), st.integers(3, 23), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_resizing_is_a_triangle_filter(rows: int, columns: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(rows * 100 + columns).integers(0, 256, (rows, columns)).astype(np.uint8)
    found = to_array(typed_pixels(pixels), ImageSpec(size=(height, width), **PLAIN))
    np.testing.assert_allclose(found[0], bilinear(pixels / 255, height, width), atol=2e-3)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 7)).astype(np.uint16)
    found = to_array(typed_pixels(pixels), ImageSpec(size=(6, 7), mean=(0.4,), std=(0.2,)))
    np.testing.assert_allclose(found[0], (pixels / 65535 - 0.4) / 0.2, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_crop_takes_the_middle_and_pad_adds_black() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8)).astype(np.uint8)
    crop = to_array(typed_pixels(pixels), ImageSpec(size=(2,), fit="crop", **PLAIN))
    np.testing.assert_allclose(crop[0], bilinear(pixels / 255, 2, 4)[:, 1:3], atol=1e-3)
    pixels[:], pixels[:, 2:6] = 0, 255
    pad = to_array(typed_pixels(np.full((4, 8), 255, np.uint8)), ImageSpec(size=(8,), fit="pad", **PLAIN))
    np.testing.assert_array_equal(pad[0], np.repeat([0, 0, 1, 1, 1, 1, 0, 0], 8).reshape(8, 8))
    stretched = to_array(typed_pixels(pixels), ImageSpec(size=(4,), **PLAIN))
    assert stretched[0, 0, 0] < 0.2 < 0.8 < stretched[0, 0, 1]


def test_window_cuts_off() -> None:
    values = np.array([[-2000.0, -1000, -400, 200, 3000]])
    found = to_array(Pixels(values[..., None], -32768, 32767), ImageSpec(size=(1, 5), window=(-1000.0, 200.0), **PLAIN))
    np.testing.assert_allclose(found[0, 0], [0, 0, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("window", [None, (50.0, 200.0)])
def test_inverted_pixels_are_those_of_the_negative(window: tuple[float, float] | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5)).astype(np.uint8)
    straight, inverted = (
        to_array(typed_pixels(pixels, flag), ImageSpec(size=(5,), window=window, **PLAIN)) for flag in (False, True)
    )
    np.testing.assert_allclose(inverted, 1 - straight, atol=1e-6)


def test_channels() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    grey = to_array(typed_pixels(colour), ImageSpec(size=(5, 6), **PLAIN))
    expected = (0.299 * colour[..., 0] + 0.587 * colour[..., 1] + 0.114 * colour[..., 2]) / 255
    np.testing.assert_allclose(grey[0], expected, atol=1e-6)
    three = to_array(typed_pixels(colour), ImageSpec(size=(5, 6), channels=3, **PLAIN))
    np.testing.assert_allclose(three, np.moveaxis(colour, -1, 0) / 255, atol=1e-6)
    repeated = to_array(typed_pixels(colour[..., 0]), ImageSpec(size=(5, 6), channels=3, **PLAIN))
    assert (repeated == repeated[:1]).all()
    assert ImageSpec(channels=3).channel_names == ("red", "green", "blue")


def test_picked_channels_keep_their_order_and_constants() -> None:
    five = np.random.default_rng(0).integers(0, 65536, (4, 4, 5)).astype(np.uint16)
    spec = ImageSpec(size=(4,), channels=2, select_channels=(3, 1), mean=(0.1, 0.2), std=(1.0, 2.0))
    expected = [five[..., 3] / 65535 - 0.1, (five[..., 1] / 65535 - 0.2) / 2]
    np.testing.assert_allclose(to_array(typed_pixels(five), spec), expected, atol=1e-6)


@pytest.mark.parametrize("shape, changed, message", [
    ((4, 4, 5), {}, r"it has 5 channels, data.channels=1: set data.channels=5, or pick some with data.select_channels"),
    ((4, 4, 2), {"channels": 3}, "it has 2 channels, data.channels=3"),
    ((4, 4), {"select_channels": (1,)}, r"it has 1 channels, data.select_channels=\[1\] asks for more"),
])  # fmt: skip
def test_channels_that_do_not_fit(shape: tuple[int, ...], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_array(typed_pixels(np.zeros(shape, np.uint8)), ImageSpec(**changed))


def test_floating_point_needs_a_window() -> None:
    pixels = typed_pixels(np.full((4, 4), 3.0))
    with pytest.raises(ValueError, match=r"set data.window=\[low,high\]"):
        to_array(pixels, ImageSpec())
    np.testing.assert_allclose(to_array(pixels, ImageSpec(size=(4,), window=(2.0, 6.0), **PLAIN)), 0.25)


def test_settings_are_all_checked_at_once() -> None:
    options = {"size": [0, 3], "fit": "squash", "channels": 2, "mean": [1, 2, 3], "std": [0.0], "window": [3, 2],
               "dicom_window": True, "frame": -1, "select_channels": []}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        parse_options(ImageSpec, options, "data")
    starts = ("data.size=[0, 3]", "data.fit='squash'", "data.mean=[1.0, 2.0, 3.0]", "data.std=[0.0] must be > 0",
              "data.window=[3.0, 2.0]", "data.window and data.dicom_window", "data.frame=-1",
              "data.select_channels=[]")  # fmt: skip
    for start in starts:
        assert any(problem.startswith(start) for problem in caught.value.problems), start


def test_size_may_not_be_left_open_for_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.size=None and data.channels=1 must both be set"):
        decode_images([locate(tmp_path, "a.png")], ImageSpec(size=None), DecodeOptions())


def test_members_of_zips_and_plain_files_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "plain" / "sub").mkdir(parents=True)
    names = [f"sub/{index}.png" for index in range(5)]
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            Image.fromarray(rng.integers(0, 256, (9, 9)).astype(np.uint8)).save(tmp_path / "plain" / name)
            archive.write(tmp_path / "plain" / name, name)
    spec = ImageSpec(size=(9,))
    expected = [decode_image(locate(tmp_path / "plain", name), spec) for name in names]
    for root, prefix in ((tmp_path / "all.zip", ""), (tmp_path / "all.zip", "./"), (tmp_path, "all.zip/")):
        found = decode_images([locate(root, prefix + name) for name in names], spec, DecodeOptions())
        np.testing.assert_array_equal(found.features, expected)
