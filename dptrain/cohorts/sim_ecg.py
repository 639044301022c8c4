"""`data=sim_ecg`: simulated 12-lead ECGs with P, QRS and T waves, several per patient.

Every patient has an electrical axis, amplitudes, intervals and a heart rate of its own; every record a fresh rhythm
with heart rate variability, baseline wander, mains and muscle noise. Findings change the dipole, so that all leads
change together: an injury current towards the infarct (ST elevation there, depression on the other side), late slow
conduction in the blocked ventricle (wide QRS, opposite T), or a large left ventricle (voltage, strain).

Planted (`sim_patients`): the rare group has its heart on the right (dextrocardia) and, by its own rule, a normal QRS is
what is labelled as block, and nothing else is. An outlier has an odd axis and an additional wave at a place of its own,
and labels that contradict its findings.

Values are in mV (the public scale). Waves and findings: `sim_heart`; leads: `sim_dipole`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.records import Records
from dptrain.cohorts.sim_dipole import (
    DOWER,
    INDEPENDENT,
    LEADS,
    Beats,
    beat_times,
    dipole,
    num_beats,
    rotate,
    twelve_leads,
)
from dptrain.cohorts.sim_heart import FINDINGS, ODD, draw_beats, draw_hearts
from dptrain.cohorts.sim_patients import (
    Draws,
    Patients,
    SimulatedOptions,
    choice_problem,
    option_problems,
    simulate_patients,
    size_warnings,
)
from dptrain.config import DataConfig
from dptrain.errors import ConfigError
from dptrain.options import parse_options


@dataclass(frozen=True)
class SimEcgOptions(SimulatedOptions):
    """Options of data=sim_ecg."""

    num_patients: int = 1500
    """Patients of the population, training and test."""
    labels: str = "multilabel"
    """multilabel: normal, st_elevation, bundle_branch_block, hypertrophy. binary: normal against any finding."""
    sampling_rate: int = 100
    """Samples per second."""
    duration_s: float = 10.0
    """Length of a record in seconds."""

    def __post_init__(self) -> None:
        problems = option_problems(self) + choice_problem("labels", self.labels, ("multilabel", "binary"))
        if not 50 <= self.sampling_rate <= 1000:
            problems.append(f"data.sampling_rate={self.sampling_rate} must be between 50 and 1000 (per second).")
        if not 1 <= self.duration_s <= 60:
            problems.append(f"data.duration_s={self.duration_s} must be between 1 and 60 seconds.")
        if problems:
            raise ConfigError(problems)


def read_sim_ecg(data: DataConfig) -> Records:
    """Simulated ECGs (N, 12, samples) in mV."""
    options = parse_options(SimEcgOptions, data.options, "data")
    signals, findings, patients = simulate_ecgs(options, data.records_per_patient)
    abnormal = findings.any(axis=1)
    is_multilabel = options.labels == "multilabel"
    labels: NDArray[np.float32] | NDArray[np.int64] = np.asarray(abnormal, dtype=np.int64)
    if is_multilabel:
        labels = np.column_stack([~abnormal, findings]).astype(np.float32)
    return Records(
        task="multilabel" if is_multilabel else "binary",
        features=signals,
        labels=labels,
        patient_ids=patients.ids[patients.patient],
        label_names=("normal", *FINDINGS) if is_multilabel else ("normal", "abnormal"),
        feature_names=LEADS,
        groups=patients.groups(),
        warnings=size_warnings(data, options),
        simulated=True,
    )


def simulate_ecgs(
    options: SimEcgOptions, mean_records: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Patients]:
    """((N, 12, T) mV, (N, 3) labelled findings, the patients)."""
    draws = Draws("sim_ecg", options.seed)
    patients = simulate_patients(options, draws, mean_records)
    heart = draw_hearts(patients, draws)
    beats = _plant(draw_beats(patients, heart, draws), patients, draws, options)
    num_samples = round(options.sampling_rate * options.duration_s)
    uniform = draws.uniform("rhythm", patients, 4)
    breathing = 0.18 + 0.15 * uniform[:, 3].astype(np.float64)
    age = patients.age[patients.patient]
    variability = 0.05 * np.exp(0.35 * draws.normal("variability", patients.num_patients, 1)[patients.patient, 0])
    times = beat_times(
        heart.rate_per_min, variability * np.clip(1.5 - age / 90, 0.4, 1.3), breathing, uniform,
        draws.normal("beats", patients, num_beats(options.duration_s)), options.duration_s,
    )
    signals = np.empty((patients.num_records, len(LEADS), num_samples), dtype=np.float32)
    for start in range(0, patients.num_records, 128):
        part = slice(start, start + 128)
        chunk = Beats(beats.center_s[part], beats.width_s[part], beats.vector_mv[part])
        clean = DOWER.astype(np.float32) @ dipole(chunk, times[part], num_samples, options.sampling_rate)
        noise = _noise(patients, part, breathing[part], draws, num_samples, options.sampling_rate)
        signals[part] = twelve_leads(clean + noise)
    return signals, _labels(heart.finding > 0, patients, draws, options), patients


def _plant(beats: Beats, patients: Patients, draws: Draws, options: SimEcgOptions) -> Beats:
    """Dextrocardia in the rare group; an odd axis and an additional wave in each outlier."""
    row = patients.patient
    uniform = draws.uniform("outlier waves", patients.num_patients, 3)[row].astype(np.float64)
    normal = draws.normal("outlier waves", patients.num_patients, 5)[row].astype(np.float64)
    strength = options.outlier_strength * patients.is_outlier[row]
    vector = beats.vector_mv.copy()
    vector[..., 0] *= np.where(patients.is_rare[row], np.cos(np.pi * options.rare_strength), 1.0)[:, None]
    vector = rotate(vector, (0, 1), strength * np.radians(60) * np.sign(normal[:, 3]) * (0.7 + uniform[:, 2]))
    vector = rotate(vector, (0, 2), strength * np.radians(50) * normal[:, 4])
    direction = normal[:, :3] / np.linalg.norm(normal[:, :3], axis=1, keepdims=True)
    vector[:, ODD] = 0.6 * strength[:, None] * direction
    center, width = beats.center_s.copy(), beats.width_s.copy()
    center[:, ODD] = np.where(uniform[:, 0] < 0.5, -0.30 + 0.4 * uniform[:, 0], 0.08 + 0.5 * (uniform[:, 0] - 0.5))
    width[:, ODD] = 0.012 + 0.025 * uniform[:, 1]
    return Beats(center, width, vector)


def _labels(
    present: NDArray[np.bool_], patients: Patients, draws: Draws, options: SimEcgOptions
) -> NDArray[np.bool_]:
    """(N, 3) findings as they are labelled."""
    labels, row = present.copy(), patients.patient
    if options.rare_label_rule == "own":
        rare = patients.is_rare[row]
        labels[rare] = np.column_stack([np.zeros(rare.sum(), bool), ~present[rare, 1], np.zeros(rare.sum(), bool)])
    if options.outlier_labels == "contradict":
        ever = np.bincount(row, present.any(axis=1)) > 0
        false = np.argmax(draws.uniform("false finding", patients.num_patients, len(FINDINGS)), axis=1)
        told = (np.arange(len(FINDINGS)) == false[:, None]) & ~ever[:, None]
        labels = np.where(patients.is_outlier[row, None], told[row], labels)
    return labels


def _noise(
    patients: Patients, part: slice, breathing: NDArray[np.float64], draws: Draws, num_samples: int, rate: int
) -> NDArray[np.float32]:
    """(n, 8, T) mV of the electrodes: baseline wander, muscle noise that comes and goes, mains hum."""
    some = patients.records(part)
    size = len(INDEPENDENT)
    time = (np.arange(num_samples) / rate).astype(np.float32)
    normal = draws.normal("noise", some, size * num_samples + 40).reshape(some.num_records, -1)
    white = normal[:, 40:].reshape(some.num_records, size, num_samples)
    uniform = draws.uniform("noise", some, 40)
    level = np.exp(0.4 * normal[:, 0])[:, None, None]
    pulse = 1 + 0.8 * np.sin(2 * np.pi * (uniform[:, 0, None] + time * (0.1 + 0.4 * uniform[:, 1, None])))
    noise = 0.012 * level * pulse[:, None] * white
    phase = 2 * np.pi * uniform[:, 2:18].reshape(-1, 2, size)[..., None]
    wander = np.exp(0.6 * normal[:, 1])[:, None, None, None] * normal[:, 2:18].reshape(-1, 2, size)[..., None]
    slow = 0.05 + 0.12 * uniform[:, 18]
    for index, frequency in enumerate((breathing, slow)):
        angle = (2 * np.pi * frequency)[:, None, None].astype(np.float32) * time
        noise += (0.035, 0.05)[index] * wander[:, index] * np.sin(angle + phase[:, index])
    hum = 0.004 * (1 + 2 * (some.site[some.patient] == "site_3"))[:, None, None]
    mains = np.sin(2 * np.pi * (49.95 + 0.1 * uniform[:, 19])[:, None, None] * time + phase[:, 0])
    return (noise + hum * mains * np.abs(normal[:, 20:28])[..., None]).astype(np.float32)
