"""Signals as ECG files store them, in millivolts: WFDB (.hea with .dat or .mat), .npy and .csv."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.extras import library
from dptrain.cohorts.sources import Source, read_bytes

MILLIVOLTS = {"v": 1000.0, "mv": 1.0, "uv": 0.001, "µv": 0.001, "μv": 0.001, "nv": 1e-6}
"""Millivolts in one unit; names in lower case."""
UNITS = ("V", "mV", "uV")
PLAIN_SUFFIXES = (".npy", ".csv", ".tsv", ".txt")
WFDB_SUFFIXES = (".hea", ".dat", ".mat")
MIN_RATE, MAX_RATE = 1.0, 100_000.0
"""Samples per second that a header may say; others are damage, and would resample to any length."""


@dataclass(frozen=True)
class Signals:
    """One record as stored."""

    values: NDArray[np.float64]
    """(leads, samples) millivolts, NaN where the file marks a sample as missing."""
    leads: tuple[str, ...]
    """Names as in the file."""
    sampling_rate: float
    """Samples per second."""


def canonical_lead(name: str) -> str:
    """What makes two spellings the same lead: `aVR`, `AVR`, `Lead aVR`, `ECG aVR`. A minus sign is another lead."""
    text = "".join(name.upper().split()).replace("_", "")
    for prefix in ("LEAD", "ECG"):
        text = text.removeprefix(prefix) or text
    return {"1": "I", "2": "II", "3": "III", "D1": "I", "D2": "II", "D3": "III", "DI": "I", "DII": "II",
            "DIII": "III"}.get(text, text)  # fmt: skip


def is_wfdb(source: Source) -> bool:
    """Whether the name is that of a WFDB record (with or without .hea) rather than of a .npy or text file."""
    return source.suffix not in PLAIN_SUFFIXES


def read_signals(
    source: Source, sampling_rate: float | None, leads: Sequence[str] | None, unit: str | None
) -> Signals:
    """Decode one record; `sampling_rate`, `leads` and `unit` are for files that do not say them.

    Raises ValueError with advice where we know better than the decoder, else what that raises.
    """
    if is_wfdb(source):
        return _wfdb(source, unit)
    assert sampling_rate is not None
    assert unit is not None
    if source.suffix == ".npy":
        assert leads is not None
        values, names = _npy(read_bytes(source), tuple(leads))
    else:
        values, names = _text(read_bytes(source))
    return Signals(values * MILLIVOLTS[unit.lower()], names, sampling_rate)


def signal_files(source: Source) -> list[Source]:
    """Every file that a record consists of: the header and the signals that it names."""
    if not is_wfdb(source):
        return [source]
    header = _header(source)
    files = [header]
    lines = [line.split() for line in read_bytes(header).decode("latin-1").splitlines()]
    lines = [words for words in lines if words and not words[0].startswith("#")]
    for words in lines[1:]:
        if len(words) < 2:
            continue
        file = header.beside(words[0])
        if "/" in lines[0][0]:  # a multi-segment record: its lines name records
            files += signal_files(Source(file.path, file.member)) if words[0] != "~" else []
        elif file not in files:
            files.append(file)
    return files


def _header(source: Source) -> Source:
    name = Path(source.member or source.path).name
    stem = name[: -len(source.suffix)] if source.suffix in WFDB_SUFFIXES else name
    return source.beside(f"{stem}.hea")


def _wfdb(source: Source, unit: str | None) -> Signals:
    header = _header(source)
    if header.member is None:
        if not header.path.is_file():
            raise FileNotFoundError(f"there is no header {header.path.name}")
        record = _record(header.path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for file in signal_files(source):
                assert file.member is not None
                (Path(folder) / Path(file.member).name).write_bytes(read_bytes(file))
            record = _record(Path(folder) / Path(header.member).name)
    if record.p_signal is None or not MIN_RATE <= float(record.fs) <= MAX_RATE:
        raise ValueError(f"its header says {record.fs} samples per second and {record.n_sig} leads")
    values = np.asarray(record.p_signal, dtype=np.float64).T
    factors = [_factor(str(name), unit, lead) for name, lead in zip(record.units, record.sig_name, strict=True)]
    return Signals(values * np.array(factors)[:, None], tuple(record.sig_name), float(record.fs))


def _record(header: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb uses what pandas is about to give up, and says so for every record
        return library("wfdb", "ecg", "WFDB records").rdrecord(str(header.with_suffix("")))


def _factor(name: str, unit: str | None, lead: str) -> float:
    factor = MILLIVOLTS.get(name.lower())
    if factor is None and unit is not None:
        factor = MILLIVOLTS[unit.lower()]
    if factor is None:
        raise ValueError(f"lead {lead} has the unit {name!r}, expected V, mV or uV; data.unit=... says it")
    return factor


def _npy(data: bytes, leads: tuple[str, ...]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    if values.ndim != 2 or values.dtype.kind not in "uif" or (len(leads) not in values.shape):
        raise ValueError(
            f"it has shape {values.shape} and type {values.dtype}, expected numbers ({len(leads)}, samples): "
            f"data.file_leads names {len(leads)} leads"
        )
    if values.shape[0] == values.shape[1]:
        raise ValueError(f"it has shape {values.shape}: which axis are the leads?")
    return (values if values.shape[0] == len(leads) else values.T).astype(np.float64), leads


def _text(data: bytes) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """A column per lead, named in the first line; a column of times or sample numbers does no harm."""
    import pandas as pd

    text = data.decode("utf-8-sig")
    first = text.partition("\n")[0]
    table = pd.read_csv(io.StringIO(text), sep=max(",;\t|", key=first.count), skipinitialspace=True)
    numbers = table.apply(pd.to_numeric, errors="coerce")
    bad = [str(name) for name in table if (numbers[name].isna() & table[name].notna()).any()]
    if bad:
        raise ValueError(f"column {bad[0]!r} has values that are not numbers")
    return numbers.to_numpy(dtype=np.float64).T, tuple(str(name) for name in table.columns)
