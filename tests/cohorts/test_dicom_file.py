"""DICOM: stored numbers, modality units, MONOCHROME1, windows, compression, and files that lack what they need."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from dptrain.cohorts.dicom_file import dicom_pixels


def dataset_of(pixels: NDArray[Any], bits_stored: int | None = None, **tags: Any) -> FileDataset:
    """A minimal file with these stored numbers."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.PatientName = "Nonymous^A"
    dataset.Rows, dataset.Columns = pixels.shape[-2:] if pixels.ndim == 2 else pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def written(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def twelve_bits() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 4096, (8, 10)).astype(np.uint16)


def test_stored_bits_are_the_range(twelve_bits: NDArray[np.uint16]) -> None:
    found = dicom_pixels(written(dataset_of(twelve_bits, 12)), None, False)
    np.testing.assert_array_equal(found.values[..., 0], twelve_bits)
    assert (found.low, found.high, found.inverted) == (0, 4095, False)


def test_bits_above_the_stored_ones_are_drawings(twelve_bits: NDArray[np.uint16]) -> None:
    drawn = twelve_bits | np.uint16(0x8000)
    found = dicom_pixels(written(dataset_of(drawn, 12)), None, False)
    np.testing.assert_array_equal(found.values[..., 0], twelve_bits)


def test_monochrome1_is_inverted(twelve_bits: NDArray[np.uint16]) -> None:
    dataset = dataset_of(twelve_bits, 12, PhotometricInterpretation="MONOCHROME1")
    assert dicom_pixels(written(dataset), None, False).inverted


def test_hounsfield_units() -> None:
    stored = np.random.default_rng(0).integers(-1000, 3000, (8, 10)).astype(np.int16)
    found = dicom_pixels(written(dataset_of(stored, RescaleSlope=2, RescaleIntercept=-24)), None, False)
    np.testing.assert_array_equal(found.values[..., 0], 2.0 * stored - 24)
    assert (found.low, found.high) == (-32768 * 2 - 24, 32767 * 2 - 24)


def test_window_of_the_file(twelve_bits: NDArray[np.uint16]) -> None:
    data = written(dataset_of(twelve_bits, 12, WindowCenter=2000, WindowWidth=1001))
    found = dicom_pixels(data, None, dicom_window=True)
    # PS3.3 C.11.2.1.2.1: centre - 0.5 and width - 1
    expected = np.clip((twelve_bits - 1999.5) / 1000 + 0.5, 0, 1) * 4095
    np.testing.assert_allclose(found.values[..., 0], expected, atol=1e-6)
    assert (found.low, found.high) == (0, 4095)
    with pytest.raises(ValueError, match=r"it brings no window \(data.dicom_window=true\)"):
        dicom_pixels(written(dataset_of(twelve_bits, 12)), None, dicom_window=True)


def test_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3)).astype(np.uint8)
    found = dicom_pixels(written(dataset_of(pixels)), None, False)
    np.testing.assert_array_equal(found.values, pixels)
    assert found.high == 255


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression(twelve_bits: NDArray[np.uint16], syntax: Any) -> None:
    twelve_bits = np.tile(twelve_bits, (8, 8))  # OpenJPEG refuses tiny images
    dataset = dataset_of(twelve_bits, 12)
    dataset.compress(syntax)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(dicom_pixels(written(dataset), None, False).values[..., 0], twelve_bits)


def test_jpeg_compression() -> None:
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "JPEG", quality=95)
    dataset = dataset_of(ramp)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found = dicom_pixels(written(dataset), None, False)
    assert np.abs(found.values[..., 0] - ramp.astype(int)).max() <= 3


def lossless_jpeg(pixels: NDArray[np.uint16], bits: int) -> bytes:
    """Process 14, selection value 1 (ITU-T T.81 annex H), with a code of 5 bits for each of the 17 categories."""
    stored = pixels.astype(int)
    predicted = np.empty_like(stored)
    predicted[:, 1:] = stored[:, :-1]
    predicted[1:, 0] = stored[:-1, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    text = []
    for difference in (stored - predicted).ravel():
        category = int(abs(difference)).bit_length()
        text.append(f"{category:05b}")
        if category:
            text.append(f"{difference if difference > 0 else difference + 2**category - 1:0{category}b}")
    coded = "".join(text)
    coded += "1" * (-len(coded) % 8)
    scan = int(coded, 2).to_bytes(len(coded) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    height, width = pixels.shape
    frame = bytes([bits]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    start = bytes([1, 1, 0, 1, 0, 0])
    return b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, table) + segment(0xDA, start) + scan + b"\xff\xd9"


def test_lossless_jpeg_as_mammographs_write_it(twelve_bits: NDArray[np.uint16]) -> None:
    dataset = dataset_of(twelve_bits, 12)
    dataset.PixelData = encapsulate([lossless_jpeg(twelve_bits, 12)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    np.testing.assert_array_equal(dicom_pixels(written(dataset), None, False).values[..., 0], twelve_bits)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
def test_the_same_image_compressed_in_other_ways(name: str) -> None:
    """Test files that come with pydicom."""
    plain, packed = (
        dicom_pixels(Path(pydicom.data.get_testdata_file(file, download=False)).read_bytes(), None, False)
        for file in ("MR_small.dcm", name)
    )
    np.testing.assert_array_equal(packed.values, plain.values)
    assert (packed.low, packed.high) == (plain.low, plain.high)


def test_frames(twelve_bits: NDArray[np.uint16]) -> None:
    dataset = dataset_of(twelve_bits, 12, NumberOfFrames=2)
    dataset.PixelData = twelve_bits.tobytes() + twelve_bits[::-1].tobytes()
    for frame in (None, 2):
        with pytest.raises(ValueError, match=r"it has 2 frames: pick one with data.frame"):
            dicom_pixels(written(dataset), frame, False)
    np.testing.assert_array_equal(dicom_pixels(written(dataset), 1, False).values[..., 0], twelve_bits[::-1])


def test_files_that_lack_what_they_need(twelve_bits: NDArray[np.uint16]) -> None:
    dataset = dataset_of(twelve_bits, 12)
    del dataset.PixelData
    with pytest.raises(ValueError, match="no DICOM file with pixel data"):
        dicom_pixels(written(dataset), None, False)
    whole = written(dataset_of(twelve_bits, 12))
    with pytest.raises(Exception, match=r"pixel data|expected|length"):
        dicom_pixels(whole[:-60], None, False)


def test_file_from_before_the_header_existed(twelve_bits: NDArray[np.uint16]) -> None:
    dataset = dataset_of(twelve_bits, 12)
    buffer = io.BytesIO()
    del dataset.file_meta
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    start = 132 if buffer.getvalue()[128:132] == b"DICM" else 0
    found = dicom_pixels(buffer.getvalue()[start:], None, False)
    np.testing.assert_array_equal(found.values[..., 0], twelve_bits)
