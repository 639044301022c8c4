"""Decoded once: found again by content, never half believed, broken files all at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dptrain.cohorts import cached_array, content_key, decode_pool, image_decode
from dptrain.cohorts.decode_cache import DecodeOptions, Decoder, decode_files, undecoded
from dptrain.cohorts.extras import library
from dptrain.cohorts.sources import Source, locate, read_bytes
from dptrain.errors import ConfigError, DataError

NUM_FILES = 100


def decode_number(source: Source) -> NDArray[np.float32]:
    """A file holds one number; `stop` kills the process, `slow` takes a while."""
    text = read_bytes(source).decode()
    if text == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "slow":
        time.sleep(120)
    return np.full((2, 3), float(text), dtype=np.float32)


def decoder(version: int = 1, **settings: object) -> Decoder:
    return Decoder("files", version, settings, (2, 3), decode_number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files 0..99 that hold their number."""
    (tmp_path / "data").mkdir()
    for index in range(NUM_FILES):
        (tmp_path / "data" / f"p{index}.txt").write_text(str(index))
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def options(cache: Path) -> DecodeOptions:
    return DecodeOptions(cache_dir=str(cache), workers=2)


@pytest.fixture
def decoded_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many files were decoded since the last question, in whatever process."""
    count = multiprocessing.Value("i", 0)
    original = decode_pool.Worker.decode

    def decode(self: decode_pool.Worker, rows: list[int]) -> dict[int, str]:
        with count.get_lock():
            count.value += len(rows)
        return original(self, rows)

    def since() -> int:
        found, count.value = count.value, 0
        return found

    monkeypatch.setattr(decode_pool.Worker, "decode", decode)
    return since


def sources(folder: Path) -> list[Source]:
    return [locate(folder, f"p{index}.txt") for index in range(NUM_FILES)]


def entries(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob("decoded/*/entry.json"))


def test_values_in_order_and_second_read_decodes_nothing(
    folder: Path, options: DecodeOptions, decoded_here: Callable[[], int]
) -> None:
    first = decode_files(sources(folder), decoder(), options)
    assert decoded_here() == NUM_FILES
    np.testing.assert_array_equal(first.features[:, 1, 2], np.arange(NUM_FILES))
    assert first.kept.all()
    assert first.warnings == ()
    assert isinstance(first.features, np.memmap)
    second = decode_files(sources(folder), decoder(), options)
    assert decoded_here() == 0
    np.testing.assert_array_equal(first.features, second.features)


def test_one_process_gives_the_same_as_two(folder: Path, cache: Path) -> None:
    found = [
        decode_files(sources(folder), decoder(), DecodeOptions(cache_dir=str(cache / str(n)), workers=n)).features
        for n in (1, 2)
    ]
    np.testing.assert_array_equal(*found)


def test_of_two_processes_one_decodes_and_the_other_waits(
    folder: Path, options: DecodeOptions, decoded_here: Callable[[], int]
) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=decode_files, args=(sources(folder), decoder(), options)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert decoded_here() == NUM_FILES


def test_the_key_is_the_content_not_name_or_time(
    folder: Path, tmp_path: Path, options: DecodeOptions, decoded_here: Callable[[], int]
) -> None:
    decode_files(sources(folder), decoder(), options)
    decoded_here()
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    for index in range(NUM_FILES):
        os.utime(moved / f"p{index}.txt", (index, index))
    decode_files(sources(moved), decoder(), options)
    assert decoded_here() == 0
    (moved / "p3.txt").write_text("-3")
    changed = decode_files(sources(moved), decoder(), options)
    assert decoded_here() == NUM_FILES
    assert changed.features[3, 0, 0] == -3


def test_other_settings_version_or_order_are_other_entries(
    folder: Path, options: DecodeOptions, cache: Path, decoded_here: Callable[[], int]
) -> None:
    files = sources(folder)
    decode_files(files, decoder(), options)
    for change in (decoder(version=2), decoder(size=3)):
        decoded_here()
        decode_files(files, change, options)
        assert decoded_here() == NUM_FILES
    mixed = decode_files(files[::-1], decoder(), options)
    assert decoded_here() == NUM_FILES
    np.testing.assert_array_equal(mixed.features[:, 0, 0], np.arange(NUM_FILES)[::-1])
    assert len(entries(cache)) == 4


def test_a_file_changed_within_the_same_second_and_size_is_seen(folder: Path, options: DecodeOptions) -> None:
    assert decode_files(sources(folder), decoder(), options).features[10, 0, 0] == 10
    status = (folder / "p10.txt").stat()
    (folder / "p10.txt").write_text("77")
    os.utime(folder / "p10.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert decode_files(sources(folder), decoder(), options).features[10, 0, 0] == 77


def test_contents_are_not_read_again_while_nothing_changed(
    folder: Path, options: DecodeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_key, "SETTLED_S", 0.0)
    read = []
    original = content_key.content_digest
    monkeypatch.setattr(content_key, "content_digest", lambda file: read.append(file) or original(file))
    decode_files(sources(folder), decoder(), options)
    assert len(read) == NUM_FILES
    decode_files(sources(folder), decoder(), options)
    assert len(read) == NUM_FILES
    (folder / "p5.txt").write_text("6")
    assert decode_files(sources(folder), decoder(), options).features[5, 0, 0] == 6
    assert len(read) == 2 * NUM_FILES


def test_all_broken_files_are_listed_with_path_and_reason(folder: Path, options: DecodeOptions) -> None:
    (folder / "p4.txt").write_text("four")
    (folder / "p50.txt").unlink()
    (folder / "p99.txt").write_text("nan")
    with pytest.raises(DataError) as caught:
        decode_files(sources(folder), decoder(), options)
    first, *listed = caught.value.problems
    assert first.startswith("3 of 100 files cannot be decoded.")
    assert "data.on_error=skip" in first
    assert listed == [
        f"  {folder}/p4.txt: could not convert string to float: 'four'",
        f"  {folder}/p50.txt: there is no such file",
        f"  {folder}/p99.txt: it has values that are NaN or infinite",
    ]


def test_skip_leaves_them_out_and_says_so(folder: Path, cache: Path, decoded_here: Callable[[], int]) -> None:
    for index in (0, 4, 98):
        (folder / f"p{index}.txt").write_text("x")
    stop, skip = (DecodeOptions(on_error=how, cache_dir=str(cache), workers=2) for how in ("stop", "skip"))
    with pytest.raises(DataError):
        decode_files(sources(folder), decoder(), stop)
    decoded_here()
    found = decode_files(sources(folder), decoder(), skip)
    assert decoded_here() == 0, "the others need not be decoded again"
    np.testing.assert_array_equal(np.flatnonzero(~found.kept), [0, 4, 98])
    np.testing.assert_array_equal(found.features[:, 0, 0], np.delete(np.arange(NUM_FILES), [0, 4, 98]))
    (warning,) = found.warnings
    assert warning.startswith("data.on_error=skip: 3 of 100 files could not be decoded")
    assert str(folder) not in warning
    (entry,) = entries(cache)
    lines = (entry / "skipped.tsv").read_text().splitlines()
    assert lines[1] == f"{folder}/p0.txt\tcould not convert string to float: 'x'"
    assert len(lines) == 4


def test_a_file_that_works_now_is_tried_again(folder: Path, options: DecodeOptions) -> None:
    """Same content, but a library was installed or a disk came back: the failure is not remembered for ever."""
    (folder / "p4.txt").write_text("crashed once")
    with pytest.raises(DataError):
        decode_files(sources(folder), decoder(), options)
    patched = Decoder("files", 1, {}, (2, 3), decode_words)
    np.testing.assert_array_equal(decode_files(sources(folder), patched, options).features[4], 4)


def decode_words(source: Source) -> NDArray[np.float32]:
    """Like `decode_number`, but it knows what to do with words."""
    text = read_bytes(source).decode()
    return np.full((2, 3), 4 if " " in text else float(text), dtype=np.float32)


def test_no_file_exists(tmp_path: Path, options: DecodeOptions) -> None:
    with pytest.raises(DataError, match="None of the 100 files exists, for example") as caught:
        decode_files(sources(tmp_path), decoder(), options)
    assert len(caught.value.problems) == 1


def test_all_files_broken_is_no_empty_cohort(folder: Path, cache: Path) -> None:
    for index in range(NUM_FILES):
        (folder / f"p{index}.txt").write_text("x")
    with pytest.raises(DataError, match="100 of 100 files cannot be decoded"):
        decode_files(sources(folder), decoder(), DecodeOptions(on_error="skip", cache_dir=str(cache)))


def test_a_decoder_that_crashes_costs_one_file(folder: Path, cache: Path) -> None:
    (folder / "p37.txt").write_text("crash")
    (folder / "p38.txt").write_text("x")
    found = decode_files(sources(folder), decoder(), DecodeOptions(on_error="skip", cache_dir=str(cache), workers=2))
    np.testing.assert_array_equal(np.flatnonzero(~found.kept), [37, 38])
    np.testing.assert_array_equal(found.features[:, 0, 0], np.delete(np.arange(NUM_FILES), [37, 38]))
    reasons = json.loads((entries(cache)[0] / "entry.json").read_text())["reasons"]
    assert reasons["37"] == "the decoder crashed on this file (or ran out of memory)"


def test_a_killed_decode_leaves_nothing_that_is_believed(folder: Path, cache: Path, options: DecodeOptions) -> None:
    (folder / "p99.txt").write_text("slow")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_decode_cache as t; from pathlib import Path;"
        "from dptrain.cohorts.decode_cache import DecodeOptions, decode_files;"
        "decode_files(t.sources(Path(sys.argv[2])), t.decoder(), DecodeOptions(cache_dir=sys.argv[3], workers=2))"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(cache)]
    process = subprocess.Popen(arguments, start_new_session=True)
    deadline = time.monotonic() + 900
    while not decoded_rows(cache) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert decoded_rows(cache), "it was killed in the middle"
    process.kill()
    process.wait()
    assert entries(cache) == []
    (folder / "p99.txt").write_text("99")
    again = decode_files(sources(folder), decoder(), options)
    np.testing.assert_array_equal(again.features[:, 0, 0], np.arange(NUM_FILES))
    deadline = time.monotonic() + 120
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(process.pid), "workers end with their parent"


def decoded_rows(cache: Path) -> bool:
    """Whether a decode in progress has written something."""
    for path in cache.glob("decoded/*.building/features.npy"):
        try:
            return bool(np.load(path, mmap_mode="r").any())
        except (OSError, ValueError):
            return False
    return False


def alive(group: int) -> bool:
    """Whether a process of this group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_leftovers_and_damaged_entries_are_replaced(folder: Path, cache: Path, options: DecodeOptions) -> None:
    decode_files(sources(folder), decoder(), options)
    (entry,) = entries(cache)
    (entry / "features.npy").write_bytes(b"half")
    (cache / "decoded" / f"{entry.name}.building").mkdir()
    (cache / "decoded" / f"{entry.name}.building" / "features.npy").write_bytes(b"more")
    found = decode_files(sources(folder), decoder(), options)
    np.testing.assert_array_equal(found.features[:, 0, 0], np.arange(NUM_FILES))
    assert [path.suffix for path in (cache / "decoded").iterdir() if path.is_dir()] == [""]


def test_only_the_owner_may_look(folder: Path, cache: Path, options: DecodeOptions) -> None:
    (folder / "p4.txt").write_text("x")
    cache.mkdir(mode=0o755)
    with pytest.raises(DataError):
        decode_files(sources(folder), decoder(), options)
    assert stat.S_IMODE((cache / "decoded").stat().st_mode) == 0o700
    for path in (cache / "decoded").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name
    assert {path.name for path in entries(cache)[0].iterdir()} == {"features.npy", "entry.json", "skipped.tsv"}


def test_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cached_array.cache_root(None) == tmp_path / "xdg" / "dptrain" / "decoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cached_array.cache_root(None) == tmp_path / "home" / ".cache" / "dptrain" / "decoded"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data.cache_dir=.*/file: .* cannot be created"):
        cached_array.cache_root(str(tmp_path / "file"))


def test_a_full_disk_is_seen_before_decoding(
    folder: Path, cache: Path, options: DecodeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for the decoded files: they need 0.00 GB .*Set data.cache_dir"):
        decode_files(sources(folder), decoder(), options)
    assert [path for path in (cache / "decoded").iterdir() if path.is_dir()] == []


def test_undecoded_records_are_picked_without_decoding(
    folder: Path, options: DecodeOptions, decoded_here: Callable[[], int]
) -> None:
    pending = undecoded(sources(folder), decoder(), options)
    mask = np.zeros(NUM_FILES, dtype=bool)
    mask[[7, 20, 90]] = True
    picked = pending[mask][[2, 0]]
    assert (len(pending), len(picked)) == (NUM_FILES, 2)
    assert decoded_here() == 0
    np.testing.assert_array_equal(picked.decode().features[:, 0, 0], [90, 7])
    assert decoded_here() == 2


def test_progress_is_shown(folder: Path, options: DecodeOptions, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    decode_files(sources(folder), decoder(), options)
    assert "100/100 files decoded done" in caplog.text
    assert "p3.txt" not in caplog.text


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        DecodeOptions(on_error="ignore", workers=-1)
    assert [problem.split(" must")[0] for problem in caught.value.problems] == [
        "data.on_error='ignore'", "data.workers=-1"
    ]  # fmt: skip


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigError, match=r"Images need the Python package PIL.*pip install 'dptrain\[imaging\]'"):
        image_decode.undecoded_images([locate(tmp_path, "a.png")], image_decode.ImageSpec(), DecodeOptions())
    with pytest.raises(ConfigError, match=r"WFDB records need the Python package nowhere"):
        library("nowhere.to.be.found", "ecg", "WFDB records")


def test_nothing_of_the_extras_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, dptrain, dptrain.cohorts.registry;"
        "found = {'PIL', 'pydicom', 'tifffile', 'wfdb'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_library_inside_a_worker_stops_the_run(folder: Path, options: DecodeOptions) -> None:
    broken = Decoder("files", 1, {}, (2, 3), decode_with_nowhere)
    with pytest.raises(ConfigError, match="DICOM files need the Python package nowhere"):
        decode_files(sources(folder), broken, options)


def decode_with_nowhere(source: Source) -> NDArray[np.float32]:
    """A decoder whose library is not there."""
    library("nowhere", "imaging", "DICOM files")
    return np.zeros((2, 3), dtype=np.float32)


def test_sources_of_zips(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.txt", "1")
    assert locate(tmp_path, "a.zip/x/1.txt") == locate(tmp_path / "a.zip", "x\\1.txt") == Source(
        tmp_path / "a.zip", "x/1.txt"
    )  # fmt: skip
    assert read_bytes(locate(tmp_path, "a.zip/x/1.txt")) == b"1"
    assert locate(tmp_path, str(tmp_path / "b.png")) == Source(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match="the zip has no such member"):
        read_bytes(locate(tmp_path, "a.zip/x/2.txt"))
    with pytest.raises(FileNotFoundError, match="there is no such zip"):
        read_bytes(locate(tmp_path, "b.zip/x/2.txt"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.txt", "another")
    assert read_bytes(locate(tmp_path, "a.zip/x/1.txt")) == b"another", "no handle that is older than the file"
    assert locate(tmp_path, "a.zip/x/1.txt").beside("2.dat").member == "x/2.dat"
