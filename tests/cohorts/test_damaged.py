"""Whatever is wrong with files and tables, the answer is one of ours: a list of files with reasons, or what to change.

Files are damaged at random, tables are made of random cells. Nothing may crash, hang, or be believed with NaN in it.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.decode_pool import describe
from dptrain.cohorts.ecg_decode import EcgSpec, decode_ecgs
from dptrain.cohorts.image_decode import ImageSpec, decode_images
from dptrain.cohorts.image_files import MAX_VALUES, read_pixels
from dptrain.cohorts.registry import load_cohort
from dptrain.cohorts.sources import locate
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from tests.cohorts.layouts import write_wfdb

WAVE = np.stack([np.sin(np.arange(250) / 10)] * 2)
IMAGES = ImageSpec(size=(8,), window=(0, 255))
ECGS = EcgSpec(leads=("I", "II"), file_leads=("I", "II"), file_sampling_rate=100, unit="mV", duration_s=2)


def picture(path: Path) -> None:
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(path)


def ecg_table(path: Path) -> None:
    pd.DataFrame(WAVE.T, columns=["I", "II"]).to_csv(path, index=False)


VALID: dict[str, Callable[[Path], object]] = {
    "a.png": picture, "a.jpg": picture, "a.npy": lambda path: np.save(path, np.ones((9, 9), np.uint8)),
    "a.tif": lambda path: tifffile.imwrite(path, np.ones((9, 9), np.uint16)),
    "z.tif": lambda path: tifffile.imwrite(path, np.ones((9, 9), np.uint8), compression="zlib"),
    "e.csv": ecg_table, "e.npy": lambda path: np.save(path, WAVE),
    "r.hea": lambda path: write_wfdb(path, WAVE, 100, ("I", "II")),
}  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, put in, or the end missing; mostly where headers are."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 20])):
        place = rng.randrange(min(len(found), rng.choice([64, 300, 100_000])) or 1)
        kind = rng.random()
        if kind < 0.7:
            found[place : place + 1] = bytes([rng.choice([0, 127, 255, rng.randrange(256)])])
        elif kind < 0.8:
            del found[place : place + rng.randrange(20)]
        elif kind < 0.95:
            found[place:place] = rng.randbytes(4)
        else:
            del found[place:]
    return bytes(found)


@pytest.mark.parametrize("name", VALID)
def test_damaged_files_are_read_or_listed(name: str, tmp_path: Path) -> None:
    VALID[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(name)
    names = []
    for number in range(40):
        names.append(f"{number}{Path(name).suffix}")
        (tmp_path / names[-1]).write_bytes(damaged(whole, rng))
    VALID[name](tmp_path / name)
    sources = [locate(tmp_path, one) for one in [*names, name]]
    options = DecodeOptions(cache_dir=str(tmp_path / "cache"), workers=1, on_error="skip")
    if name[0] in "er":
        decoded = decode_ecgs(sources, ECGS, options)
    else:
        decoded = decode_images(sources, IMAGES, options)
    assert decoded.kept[-1]
    assert not decoded.kept.all()
    assert np.isfinite(decoded.features).all()
    reasons = next((tmp_path / "cache").rglob("skipped.tsv")).read_text().splitlines()[1:]
    assert len(reasons) == (~decoded.kept).sum()
    assert all(line.split("\t", 1)[1].strip() for line in reasons)


def test_reasons_that_only_the_decoder_understands_say_what_they_mean() -> None:
    assert describe(IndexError("list index out of range")).startswith("it is damaged or of an unknown kind (IndexError")
    assert describe(ValueError("it has 3 frames")) == "it has 3 frames"
    assert describe(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")) == "it is not UTF-8 text"


def test_a_header_that_claims_an_enormous_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((9, 9), np.uint8))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            place = file.pages[0].tags[tag].valueoffset
            data[place : place + 2] = b"\xff\xff"
    (tmp_path / "a.tif").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES:,} values are not read"):
        read_pixels(locate(tmp_path, "a.tif"))


def test_memory_that_is_not_there_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes() + b"x")

    def greedy(source: object, *rest: object, **more: object) -> object:
        if str(source).count("b.png"):
            raise MemoryError
        return read_pixels(source, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("dptrain.cohorts.image_decode.read_pixels", greedy)
    options = DecodeOptions(cache_dir=str(tmp_path / "cache"), workers=1)
    with pytest.raises(DataError, match=r"b\.png: it needs more memory than there is"):
        decode_images([locate(tmp_path, "a.png"), locate(tmp_path, "b.png")], IMAGES, options)


@pytest.mark.parametrize("header, reason", [
    ("r 2 0.001 250", "its header says 0.001 samples per second"), ("r 2 100 250", "has no lead I, II"),
])  # fmt: skip
def test_headers_that_cannot_be_true(header: str, reason: str, tmp_path: Path) -> None:
    write_wfdb(tmp_path / "r", WAVE, 100, ("V1", "V2"))
    lines = (tmp_path / "r.hea").read_text().splitlines()
    (tmp_path / "r.hea").write_text("\n".join([header, *lines[1:]]) + "\n")
    options = DecodeOptions(cache_dir=str(tmp_path / "cache"), workers=1)
    with pytest.raises(DataError, match=reason):
        decode_ecgs([locate(tmp_path, "r")], ECGS, options)


def test_an_ecg_without_samples_is_no_flat_line(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("I,II\n")
    options = DecodeOptions(cache_dir=str(tmp_path / "cache"), workers=1)
    with pytest.raises(DataError, match=r"e\.csv: it has no samples"):
        decode_ecgs([locate(tmp_path, "e.csv")], ECGS, options)


CELLS = st.sampled_from(["", "0", "1", "1.0", "yes", "NA", "-1e400", "a,b", '"', "'", "\t", "ü", "0x10", "a.png",
                         "../a.png", "2024-01-01", " 1 ", "nan", "\x00", "a.png\n", "1e309", "true"])  # fmt: skip
NAMES = st.sampled_from(["file", "who", "sick", "age", "set", "", " file", "Unnamed: 0", "who", "a,b"])
OPTIONS = st.fixed_dictionaries({}, optional={
    "classes": st.sampled_from([["0", "1"], ["a", "b", "c"]]), "positive": st.sampled_from(["1", "yes"]),
    "group_columns": st.sampled_from([["age"], ["age", "set"], ["none"]]),
    "group_bands": st.sampled_from([{"age": [1]}, {"age": []}, {"age": "x"}]),
    "keep": st.sampled_from([{"set": ["1"]}, {"set": 1}, {"no": []}]),
    "split_column": st.sampled_from(["set", "who"]), "delimiter": st.sampled_from([",", ";", "\t", "", ",,"]),
    "join": st.sampled_from([[{"file": "list.csv", "on": "who"}], [{"file": "x.csv"}], [{"file": "list.csv", "on": []}],
                             [{"file": ".", "on": "who"}]]),
})  # fmt: skip


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    header=st.lists(NAMES, min_size=0, max_size=6), rows=st.lists(st.lists(CELLS, min_size=0, max_size=7), max_size=6),
    delimiter=st.sampled_from(",;\t|"), options=OPTIONS, usual=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)  # fmt: skip
def test_tables_of_anything(
    tmp_path: Path, header: list[str], rows: list[list[str]], delimiter: str, options: dict[str, object],
    encoding: str, usual: bool,
) -> None:  # fmt: skip
    """Settings and cells at random, with the columns that are asked for in half of the cases."""
    picture(tmp_path / "a.png")
    header = ["file", "who", "sick", "age", "set"] if usual else header
    text = "\n".join([delimiter.join(header), *(delimiter.join(row) for row in rows)])
    (tmp_path / "list.csv").write_bytes(text.encode(encoding, errors="replace"))
    common = {"patient_column": "who", "label_columns": ["sick"], **options}
    own = {"images": {"path_column": "file", "size": 4, "workers": 1, "cache_dir": str(tmp_path / "cache")},
           "table": {"numeric": {"age": {"center": 0, "scale": 1}}}}  # fmt: skip
    for name, more in own.items():
        try:
            cohort = load_cohort(DataConfig(name, 4, path=str(tmp_path / "list.csv"), options={**common, **more}), 0)
        except (ConfigError, DataError):
            continue
        assert np.isfinite(cohort.features).all()


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    places=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), CELLS), min_size=1, max_size=4), options=OPTIONS,
)  # fmt: skip
def test_good_tables_with_some_odd_cells(
    tmp_path: Path, places: list[tuple[int, int, str]], options: dict[str, object]
) -> None:
    """31 lines that are fine, header included, and a few cells that are not: loaded, or refused with advice."""
    picture(tmp_path / "a.png")
    lines = [["file", "who", "sick", "age", "set"]]
    lines += [["a.png", f"P{row % 26:02d}", str(row % 2), str(20 + row), "train"] for row in range(30)]
    for row, column, cell in places:
        lines[row][column] = cell
    (tmp_path / "list.csv").write_text("\n".join(",".join(line) for line in lines))
    common = {"patient_column": "who", "label_columns": ["sick"], **options}
    own = {"images": {"path_column": "file", "size": 4, "workers": 1, "cache_dir": str(tmp_path / "cache"),
                      "on_error": "skip"},
           "table": {"numeric": {"age": {"center": 0, "scale": 50}}}}  # fmt: skip
    for name, more in own.items():
        try:
            cohort = load_cohort(DataConfig(name, 4, path=str(tmp_path / "list.csv"), options={**common, **more}), 0)
        except (ConfigError, DataError):
            continue
        assert np.isfinite(cohort.features).all()
        assert (cohort.patient_ids != "").all()
        assert cohort.num_records <= 31
