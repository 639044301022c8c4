"""From a beating dipole to twelve leads: what `sim_ecg` draws its ECGs with.

The heart is one dipole (x to the patient's left, y to the feet, z to the back; mV). In each beat it is a sum of
Gaussians in time, each with a direction of its own (McSharry et al. 2003, doi 10.1109/TBME.2003.808805, in the
three-dimensional form of Sameni et al. 2007, doi 10.1155/2007/43407). Dower's matrix (Dower et al. 1980,
doi 10.1016/S0022-0736(80)80047-5) turns it into I, II and V1 to V6.

Guarantee: III, aVR, aVL and aVF are computed from I and II after all noise, on a grid of 2^-10 mV (finer than any
recorder's), so that I + III = II, aVR = -(I + II) / 2, aVL = I - II / 2 and aVF = II - I / 2 hold without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""Leads that electrodes measure; the other four follow from I and II."""
DOWER = np.array(
    [
        (0.632, -0.235, 0.059),
        (0.235, 1.066, -0.132),
        (-0.515, 0.157, -0.917),
        (0.044, 0.164, -1.387),
        (0.882, 0.098, -1.277),
        (1.213, 0.127, -0.601),
        (1.125, 0.127, -0.086),
        (0.831, 0.076, 0.230),
    ]
)
"""(8, 3) dipole to independent leads."""
GRID = 2.0**-10
"""mV; sums and halves of multiples are exact in float32."""


@dataclass(frozen=True)
class Beats:
    """The waves of N records: K Gaussians in time around each R peak."""

    center_s: NDArray[np.float64]
    """(N, K) seconds after the R peak (negative: before)."""
    width_s: NDArray[np.float64]
    """(N, K) standard deviation in seconds."""
    vector_mv: NDArray[np.float64]
    """(N, K, 3) dipole at the wave's top."""


def beat_times(
    rate_per_min: NDArray[np.float64],
    variability: NDArray[np.float64],
    breathing_hz: NDArray[np.float64],
    uniform: NDArray[np.float32],
    normal: NDArray[np.float32],
    duration_s: float,
) -> NDArray[np.float64]:
    """(N, B) times of R peaks in seconds, from before the start to after the end.

    Intervals breathe (respiratory sinus arrhythmia), swing slowly (0.1 Hz) and jitter; `variability` (N,) is their
    relative standard deviation. `uniform` (N, >= 3), `normal` (N, >= B).
    """
    mean_s = 60.0 / rate_per_min
    phase = 2 * np.pi * uniform[:, 1:3]
    now = -mean_s * (1 + uniform[:, 0])
    times = [now]
    for beat in range(num_beats(duration_s) - 1):
        swing = np.sin(2 * np.pi * breathing_hz * now + phase[:, 0])
        swing += 0.7 * np.sin(2 * np.pi * 0.1 * now + phase[:, 1]) + 0.5 * normal[:, beat]
        now = now + mean_s * np.clip(1 + variability * swing, 0.7, 1.4)
        times.append(now)
    return np.stack(times, axis=1)


def num_beats(duration_s: float) -> int:
    """B: enough beats for 125 per minute and one on either side."""
    return int(np.ceil(duration_s * 125 / 60 / 0.8)) + 4


def dipole(beats: Beats, times_s: NDArray[np.float64], num_samples: int, sampling_rate: float) -> NDArray[np.float32]:
    """(N, 3, T) dipole in mV; each sample sees the beats before and after it."""
    time = np.arange(num_samples) / sampling_rate
    last = (times_s[:, :, None] <= time).sum(axis=1) - 1
    # A recorder's filter: no wave is narrower than its sampling allows.
    width = np.sqrt(beats.width_s**2 + (0.35 / sampling_rate) ** 2).astype(np.float32)
    height = (beats.vector_mv * (beats.width_s / width)[..., None]).astype(np.float32)
    signal = np.zeros((len(times_s), 3, num_samples), dtype=np.float32)
    for beat in (last, last + 1):
        since = (time - np.take_along_axis(times_s, beat, axis=1)).astype(np.float32)
        for wave in range(width.shape[1]):
            scaled = (since - beats.center_s[:, wave, None].astype(np.float32)) / width[:, wave, None]
            signal += height[:, wave, :, None] * np.exp(-0.5 * scaled * scaled)[:, None, :]
    return signal


def twelve_leads(independent: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 12, T) in the order of LEADS from (N, 8, T) in the order of INDEPENDENT, rounded to the grid."""
    rounded = (np.round(independent / GRID) * GRID).astype(np.float32)
    one, two = rounded[:, 0], rounded[:, 1]
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
    return np.concatenate([limb, rounded[:, 2:]], axis=1)


def rotate(vector: NDArray[np.float64], plane: tuple[int, int], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K, 3) vectors turned by `angle` (N,) radians in the plane of two axes, from the first to the second."""
    first, second = plane
    turned = vector.copy()
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned[..., first] = cos * vector[..., first] - sin * vector[..., second]
    turned[..., second] = sin * vector[..., first] + cos * vector[..., second]
    return turned
