"""ECG files in every format, and leads, units, rate, length and normalisation against what was written into them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.ecg_decode import STANDARD_LEADS, EcgSpec, decode_ecg, decode_ecgs, to_array
from dptrain.cohorts.ecg_files import Signals, canonical_lead, signal_files
from dptrain.cohorts.sources import Source, locate
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_options

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::Warning:wfdb.*")

MIXED = ("V6", "V1", "aVF", "I", "V3", "II", "AVL", "avr", "V2", "V5", "III", "V4")
"""The twelve leads in another order and spelling."""


def waves(num_leads: int, rate: float, seconds: float) -> NDArray[np.float64]:
    """(leads, samples) millivolts: lead k is a sine of k + 1 Hz and amplitude (k + 1) / 10."""
    time = np.arange(round(rate * seconds)) / rate
    return np.array([(k + 1) / 10 * np.sin(2 * np.pi * (k + 1) * time) for k in range(num_leads)])


def write_wfdb(folder: Path, name: str, values: NDArray[Any], leads: tuple[str, ...], rate: float, unit: str) -> Source:
    import wfdb  # importing it warns about pandas

    folder.mkdir(exist_ok=True)
    wfdb.wrsamp(name, fs=rate, units=[unit] * len(leads), sig_name=list(leads), p_signal=values.T.astype(np.float64),
                fmt=["16"] * len(leads), write_dir=str(folder))  # fmt: skip
    return locate(folder, name)


def test_500_hz_in_another_order_and_unit(tmp_path: Path) -> None:
    values = waves(12, 500, 12)
    source = write_wfdb(tmp_path, "a", values * 1000, MIXED, 500, "uV")
    found = decode_ecg(source, EcgSpec(sampling_rate=500))
    names = [lead.upper() for lead in MIXED]
    expected = np.stack([values[names.index(lead.upper())] for lead in STANDARD_LEADS])[:, :5000]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found.dtype == np.float32


def test_resampling_keeps_the_wave(tmp_path: Path) -> None:
    source = write_wfdb(tmp_path, "a", waves(3, 500, 10), ("I", "II", "III"), 500, "mV")
    for rate in (100, 250, 1000):
        found = decode_ecg(source, EcgSpec(leads=("I", "II", "III"), sampling_rate=rate))
        inside = slice(rate // 2, -rate // 2)
        np.testing.assert_allclose(found[:, inside], waves(3, rate, 10)[:, inside], atol=5e-3)


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_record_by_any_of_its_names(tmp_path: Path, suffix: str) -> None:
    source = write_wfdb(tmp_path, "rec_1", waves(2, 100, 1), ("I", "II"), 100, "mV")
    named = Source(source.path.with_name(f"rec_1{suffix}"))
    found = decode_ecg(named, EcgSpec(leads=("II",), duration_s=1))
    np.testing.assert_allclose(found, waves(2, 100, 1)[1:], atol=1e-3)
    assert {file.path.name for file in signal_files(named)} == {"rec_1.hea", "rec_1.dat"}


def test_mat_files_of_the_challenges(tmp_path: Path) -> None:
    """PhysioNet's challenges: a header beside a MATLAB v4 file, 24 bytes before the numbers."""
    values = (waves(2, 100, 1) * 1000).round().astype("<i2")
    lines = ["J1 2 100 100", *(f"J1.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II")), "#Age: 50"]
    (tmp_path / "J1.hea").write_text("\n".join(lines) + "\n")
    (tmp_path / "J1.mat").write_bytes(b"\0" * 24 + values.T.tobytes())
    found = decode_ecg(Source(tmp_path / "J1.mat"), EcgSpec(leads=("I", "II"), duration_s=1))
    np.testing.assert_allclose(found, values / 1000, atol=1e-6)
    assert [file.path.name for file in signal_files(Source(tmp_path / "J1"))] == ["J1.hea", "J1.mat"]


def test_records_inside_a_zip(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "ecgs", "a", waves(2, 100, 1), ("I", "II"), 100, "mV")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in (tmp_path / "ecgs").iterdir():
            archive.write(file, f"set/{file.name}")
    spec = EcgSpec(leads=("I", "II"), duration_s=1)
    packed = decode_ecgs([locate(tmp_path, "all.zip/set/a")], spec, DecodeOptions())
    np.testing.assert_array_equal(packed.features[0], decode_ecg(locate(tmp_path / "ecgs", "a"), spec))


def test_npy_and_csv(tmp_path: Path) -> None:
    values = waves(2, 200, 3)
    spec = EcgSpec(leads=("aVR", "I"), sampling_rate=200, duration_s=3, unit="uV", file_sampling_rate=200,
                   file_leads=("I", "AVR"))  # fmt: skip
    np.save(tmp_path / "rows.npy", values * 1000)
    np.save(tmp_path / "columns.npy", values.T * 1000)
    table = pd.DataFrame({"time": np.arange(600), " I": values[0] * 1000, "Lead aVR": values[1] * 1000})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "b.csv", index=False, sep=";", encoding="utf-8-sig")
    for name in ("rows.npy", "columns.npy", "a.csv", "b.csv"):
        np.testing.assert_allclose(decode_ecg(Source(tmp_path / name), spec), values[::-1], atol=1e-6)


def test_what_files_do_not_say_must_be_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_ecgs([Source(tmp_path / "a.npy"), Source(tmp_path / "b.csv")], EcgSpec(), DecodeOptions())
    problems = caught.value.problems
    assert problems[0].startswith("data.file_sampling_rate=null must say the samples per second of .csv, .npy")
    assert problems[1].startswith("data.unit=null must say the unit")
    assert problems[2].startswith("data.file_leads=null must name the leads")


def test_lead_spellings() -> None:
    assert {canonical_lead(name) for name in ("aVR", "AVR", " avr", "Lead aVR", "ECG_aVR", "lead avr")} == {"AVR"}
    assert {canonical_lead(name) for name in ("I", "Lead I", "DI", "D1", "i")} == {"I"}
    assert canonical_lead("-aVR") != canonical_lead("aVR"), "the inverted lead is another one"
    assert canonical_lead("V1") != canonical_lead("V10")


def test_missing_and_repeated_leads() -> None:
    signals = Signals(np.zeros((3, 1000)), ("I", "II", "MLII"), 100)
    with pytest.raises(ValueError, match=r"it has no lead aVR, V1; its leads are I, II, MLII"):
        to_array(signals, EcgSpec(leads=("II", "aVR", "V1")))
    with pytest.raises(ValueError, match="it has lead I more than once"):
        to_array(Signals(np.zeros((2, 1000)), ("I", "Lead I"), 100), EcgSpec(leads=("I",)))


def test_length() -> None:
    ramp = Signals(np.arange(1.0, 1201)[None], ("I",), 100)
    start = to_array(ramp, EcgSpec(leads=("I",)))[0]
    centre = to_array(ramp, EcgSpec(leads=("I",), crop="center"))[0]
    assert (start[0], start[-1], centre[0], centre[-1]) == (1, 1000, 101, 1100)
    short = to_array(ramp, EcgSpec(leads=("I",), duration_s=15))[0]
    np.testing.assert_array_equal(short, [*range(1, 1201), *[0] * 300])
    with pytest.raises(ValueError, match=r"it lasts 12 s, shorter than data.duration_s=15"):
        to_array(ramp, EcgSpec(leads=("I",), duration_s=15, short="error"))


def test_normalisation_is_per_record_and_padding_stays_zero() -> None:
    values = waves(2, 100, 5) + np.array([[3.0], [-1.0]])
    signals = Signals(values, ("I", "II"), 100)
    per_lead = to_array(signals, EcgSpec(leads=("I", "II"), normalise="zscore_lead"))
    np.testing.assert_allclose(per_lead[:, :500].mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(per_lead[:, :500].std(axis=1), 1, atol=1e-6)
    assert (per_lead[:, 500:] == 0).all()
    whole = to_array(signals, EcgSpec(leads=("I", "II"), normalise="zscore"))[:, :500]
    np.testing.assert_allclose(whole, (values - values.mean()) / values.std(), atol=1e-5)
    scaled = to_array(signals, EcgSpec(leads=("I", "II"), scale=0.5))[:, :500]
    np.testing.assert_allclose(scaled, values * 2, atol=1e-5)
    flat = to_array(Signals(np.full((1, 1000), 0.7), ("I",), 100), EcgSpec(leads=("I",), normalise="zscore_lead"))
    assert (flat == 0).all()


def test_missing_samples(tmp_path: Path) -> None:
    values = np.tile(np.arange(10.0), (1, 1))
    values[0, [0, 4, 5, 9]] = np.nan
    source = write_wfdb(tmp_path, "a", values, ("I",), 10, "mV")
    spec: dict[str, Any] = {"leads": ("I",), "sampling_rate": 10, "duration_s": 1}
    with pytest.raises(ValueError, match=r"4 of 10 samples are missing \(NaN\)"):
        decode_ecg(source, EcgSpec(**spec))
    zero = decode_ecg(source, EcgSpec(**spec, missing="zero"))[0]
    np.testing.assert_allclose(zero, [0, 1, 2, 3, 0, 0, 6, 7, 8, 0], atol=1e-3)
    filled = decode_ecg(source, EcgSpec(**spec, missing="interpolate"))[0]
    np.testing.assert_allclose(filled, [1, 1, 2, 3, 4, 5, 6, 7, 8, 8], atol=1e-3)
    with pytest.raises(ValueError, match="lead I has no samples at all"):
        to_array(Signals(np.full((1, 10), np.nan), ("I",), 10), EcgSpec(**spec, missing="interpolate"))


def test_units(tmp_path: Path) -> None:
    source = write_wfdb(tmp_path, "a", waves(1, 100, 10), ("I",), 100, "NU")
    with pytest.raises(ValueError, match=r"lead I has the unit 'NU', expected V, mV or uV; data.unit=... says it"):
        decode_ecg(source, EcgSpec(leads=("I",)))
    found = decode_ecg(source, EcgSpec(leads=("I",), unit="V"))
    np.testing.assert_allclose(found, waves(1, 100, 10) * 1000, atol=1)


def test_broken_records_are_all_listed(tmp_path: Path) -> None:
    good = write_wfdb(tmp_path, "good", waves(1, 100, 10), ("I",), 100, "mV")
    short = write_wfdb(tmp_path, "short", waves(1, 100, 10), ("I",), 100, "mV")
    (tmp_path / "short.dat").write_bytes((tmp_path / "short.dat").read_bytes()[:100])
    (tmp_path / "text.hea").write_text("this is no header")
    lost = write_wfdb(tmp_path, "lost", waves(1, 100, 10), ("I",), 100, "mV")
    (tmp_path / "lost.dat").unlink()
    np.save(tmp_path / "three.npy", np.zeros((3, 50)))
    (tmp_path / "words.csv").write_text("I\nhigh\n")
    files = [good, short, locate(tmp_path, "text"), lost, locate(tmp_path, "none"), locate(tmp_path, "three.npy"),
             locate(tmp_path, "words.csv")]  # fmt: skip
    spec = EcgSpec(leads=("I",), unit="mV", file_sampling_rate=100, file_leads=("I", "II"))
    with pytest.raises(DataError) as caught:
        decode_ecgs(files, spec, DecodeOptions())
    first, *listed = caught.value.problems
    assert first.startswith("6 of 7 ECGs cannot be decoded.")
    assert [line.strip().partition(": ")[0] for line in listed] == [str(file) for file in files[1:]]
    text = "\n".join(listed)
    assert "there is no header none.hea" in text
    assert "it has shape (3, 50) and type float64, expected numbers (2, samples)" in text
    assert "column 'I' has values that are not numbers" in text


def test_a_changed_signal_file_is_seen_through_its_header(tmp_path: Path) -> None:
    spec = EcgSpec(leads=("I",))
    source = write_wfdb(tmp_path, "a", waves(1, 100, 10), ("I",), 100, "mV")
    before = np.array(decode_ecgs([source], spec, DecodeOptions()).features)
    data = bytearray((tmp_path / "a.dat").read_bytes())
    data[0] ^= 0xFF
    (tmp_path / "a.dat").write_bytes(bytes(data))
    after = decode_ecgs([source], spec, DecodeOptions()).features
    assert (before != after).any()


def test_settings_are_all_checked_at_once() -> None:
    options = {"leads": ["I", "Lead I"], "sampling_rate": 0, "duration_s": -1, "scale": 0, "crop": "end", "short": "x",
               "missing": "x", "normalise": "x", "unit": "kV", "file_sampling_rate": 0}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        parse_options(EcgSpec, options, "data")
    for name in options:
        assert any(problem.startswith(f"data.{name}=") for problem in caught.value.problems), name
