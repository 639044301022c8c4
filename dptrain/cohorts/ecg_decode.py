"""ECG files to float32 (leads, samples): leads by name, one sampling rate, one length, millivolts or z-scores.

Per record and in this order: leads picked by name -> millivolts -> missing samples -> sampling rate -> length ->
`normalise` or division by the public constant `scale`. Nothing is fitted on more than one record, so nothing of this
touches epsilon.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.decode_cache import Decoded, DecodeOptions, Decoder, Undecoded, decode_files, undecoded
from dptrain.cohorts.ecg_files import UNITS, Signals, canonical_lead, is_wfdb, read_signals, signal_files
from dptrain.cohorts.extras import library
from dptrain.cohorts.sources import Source
from dptrain.errors import ConfigError

VERSION = 1
"""Raise it whenever the same file and settings give other values: the cache then decodes anew."""
STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
FLAT_MV = 1e-6
"""A lead with a smaller standard deviation is flat: its z-score is 0."""


@dataclass(frozen=True)
class EcgSpec:
    """Options of every data set whose records are ECGs. All numbers are public constants."""

    leads: tuple[str, ...] = STANDARD_LEADS
    """Leads that the model sees, in this order, found by name (upper and lower case are the same)."""
    sampling_rate: float = 100.0
    """Samples per second after resampling (polyphase filter, scipy.signal.resample_poly)."""
    duration_s: float = 10.0
    """Length in seconds. Longer records are cut (see `crop`), shorter ones get zeros at the end (see `short`)."""
    crop: str = "start"
    """Which part of a longer record: start or center."""
    short: str = "pad"
    """A shorter record: `pad` with zeros at its end, or `error`."""
    missing: str = "error"
    """Samples that the file marks as missing: `error`, `zero`, or `interpolate` in time (ends: the nearest sample)."""
    normalise: str = "none"
    """`none`: millivolts / `scale`; `zscore_lead`, `zscore`: mean 0 and standard deviation 1 of each lead, of the whole
    record. Per record, so nothing is fitted on others."""
    scale: float = 1.0
    """With normalise=none: this many millivolts are 1. Public."""
    unit: str | None = None
    """Unit of .npy and .csv files, and of WFDB records that name none: V, mV or uV."""
    file_sampling_rate: float | None = None
    """Samples per second in .npy and .csv files. WFDB records say it themselves."""
    file_leads: tuple[str, ...] | None = None
    """Leads of .npy files in their order. WFDB and CSV files name theirs."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        canonical = [canonical_lead(lead) for lead in self.leads]
        if not canonical or len(set(canonical)) < len(canonical):
            problems.append(f"data.leads={list(self.leads)} must name at least one lead, and none twice.")
        for name in ("sampling_rate", "duration_s", "scale"):
            if not getattr(self, name) > 0:
                problems.append(f"data.{name}={getattr(self, name)} must be > 0.")
        if self.file_sampling_rate is not None and not self.file_sampling_rate > 0:
            problems.append(f"data.file_sampling_rate={self.file_sampling_rate} must be > 0 or null.")
        for name, allowed in (("crop", ("start", "center")), ("short", ("pad", "error")),
                              ("missing", ("error", "zero", "interpolate")),
                              ("normalise", ("none", "zscore_lead", "zscore")), ("unit", (None, *UNITS))):  # fmt: skip
            if getattr(self, name) not in allowed:
                problems.append(f"data.{name}={getattr(self, name)!r} must be one of {', '.join(map(str, allowed))}.")
        if problems:
            raise ConfigError(problems)

    @property
    def shape(self) -> tuple[int, int]:
        """(leads, samples) of a decoded record."""
        return len(self.leads), max(1, round(self.duration_s * self.sampling_rate))


def undecoded_ecgs(sources: Sequence[Source], spec: EcgSpec, options: DecodeOptions) -> Undecoded:
    """Features (N, leads, samples) for `Records.features`: decoded by `assemble`, only for patients that are wanted.

    A WFDB source is its header, with or without `.hea`. `Records.feature_names` are `spec.leads`.
    """
    return undecoded(sources, _decoder(sources, spec), options)


def decode_ecgs(sources: Sequence[Source], spec: EcgSpec, options: DecodeOptions) -> Decoded:
    """(K, leads, samples) now. Raises DataError that lists every broken file unless `options.on_error=skip`."""
    return decode_files(sources, _decoder(sources, spec), options)


def decode_ecg(source: Source, spec: EcgSpec) -> NDArray[np.float32]:
    """(leads, samples) of one record; raises whatever its decoder raises."""
    return to_array(read_signals(source, spec.file_sampling_rate, spec.file_leads, spec.unit), spec)


def to_array(signals: Signals, spec: EcgSpec) -> NDArray[np.float32]:
    """(leads, samples) from signals in millivolts: leads, missing samples, rate, length, normalisation."""
    values = signals.values[_rows(signals.leads, spec.leads)]
    if not values.shape[1]:
        raise ValueError("it has no samples")
    values = _fill(values, spec)
    values = _resample(values, signals.sampling_rate, spec.sampling_rate)
    length = spec.shape[1]
    num_known = values.shape[1]
    if num_known < length and spec.short == "error":
        lasts = num_known / spec.sampling_rate
        raise ValueError(f"it lasts {lasts:g} s, shorter than data.duration_s={spec.duration_s:g}")
    start = (num_known - length) // 2 if spec.crop == "center" and num_known > length else 0
    values = _normalise(values[:, start : start + length], spec)
    padded = np.zeros(spec.shape, dtype=np.float32)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        padded[:, : values.shape[1]] = values
    return padded


def _decoder(sources: Sequence[Source], spec: EcgSpec) -> Decoder:
    problems = []
    plain = {source.suffix for source in sources if not is_wfdb(source)}
    if plain and spec.file_sampling_rate is None:
        problems.append(f"data.file_sampling_rate=null must say the samples per second of {', '.join(sorted(plain))}.")
    if plain and spec.unit is None:
        problems.append(f"data.unit=null must say the unit of {', '.join(sorted(plain))} files: V, mV or uV.")
    if ".npy" in plain and spec.file_leads is None:
        problems.append("data.file_leads=null must name the leads of .npy files in their order.")
    if problems:
        raise ConfigError(problems)
    if any(is_wfdb(source) for source in sources):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library("wfdb", "ecg", "WFDB records")
    return Decoder(
        "ECGs", VERSION, dataclasses.asdict(spec), spec.shape, functools.partial(decode_ecg, spec=spec), signal_files
    )


def _rows(found: Sequence[str], wanted: Sequence[str]) -> list[int]:
    places = [canonical_lead(lead) for lead in found]
    missing = [lead for lead in wanted if canonical_lead(lead) not in places]
    if missing:
        raise ValueError(f"it has no lead {', '.join(missing)}; its leads are {', '.join(found)}")
    twice = [lead for lead in wanted if places.count(canonical_lead(lead)) > 1]
    if twice:
        raise ValueError(f"it has lead {', '.join(twice)} more than once")
    return [places.index(canonical_lead(lead)) for lead in wanted]


def _fill(values: NDArray[np.float64], spec: EcgSpec) -> NDArray[np.float64]:
    known = np.isfinite(values)
    if known.all():
        return values
    if spec.missing == "error":
        raise ValueError(
            f"{int((~known).sum())} of {known.size} samples are missing (NaN); set data.missing=zero or interpolate"
        )
    filled = np.where(known, values, 0.0)
    if spec.missing == "interpolate":
        time = np.arange(values.shape[1])
        for row in np.flatnonzero(~known.all(axis=1)):
            if not known[row].any():
                raise ValueError(f"lead {spec.leads[row]} has no samples at all")
            filled[row] = np.interp(time, time[known[row]], values[row, known[row]])
    return filled


def _resample(values: NDArray[np.float64], rate: float, wanted: float) -> NDArray[np.float64]:
    if rate == wanted:
        return values
    from scipy.signal import resample_poly

    ratio = Fraction(wanted).limit_denominator(1000) / Fraction(rate).limit_denominator(1000)
    resampled: NDArray[np.float64] = resample_poly(values, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    return resampled


def _normalise(values: NDArray[np.float64], spec: EcgSpec) -> NDArray[np.float64]:
    if spec.normalise == "none":
        return values / spec.scale
    axis = 1 if spec.normalise == "zscore_lead" else None
    mean, std = values.mean(axis=axis, keepdims=True), values.std(axis=axis, keepdims=True)
    return np.where(std < FLAT_MV, 0.0, (values - mean) / np.maximum(std, FLAT_MV))
