"""`data=sim_imaging`: simulated chest films; the label is a lesion in the lung (nodule or consolidation).

Every patient has a thorax, heart, ribs and vessels of its own (`sim_chest`); every film its own pose, depth of breath,
exposure and noise. A nodule stays in all films of its patient, a consolidation comes and goes. Both come in degrees;
faint ones look like vessels and crossing ribs.

Planted (`sim_patients`): the rare group has its heart on the right (dextrocardia) and, by its own rule, clear lungs are
labelled as lesions and lesions are not. An outlier wears a device (a metal box with a wire) at a place of its own, is
oddly built, and has labels that contradict its lungs.

Brightness between 0 (air) and 1 (bone) is scaled by public constants: (brightness - 0.5) / 0.25.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.records import Records
from dptrain.cohorts.sim_chest import Anatomy, Array, body_coordinates, ellipse, soft, tissue
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

LESIONS = ("nodule", "consolidation")
CENTER, SCALE = 0.5, 0.25
"""Public constants of the brightness."""
DRAWN = 64
"""Films are drawn with at least this many pixels on a side and averaged down; borders are soft enough for no more."""
CHUNK = 16
"""Films that are drawn at a time: what they need stays in the processor's cache."""


@dataclass(frozen=True)
class SimImagingOptions(SimulatedOptions):
    """Options of data=sim_imaging."""

    num_patients: int = 2000
    """Patients of the population, training and test."""
    labels: str = "binary"
    """binary: no lesion against lesion. multilabel: nodule, consolidation."""
    image_size: int = 64
    """Pixels on a side: 32, 64 or 128."""
    lesion_contrast: float = 1.0
    """How dense lesions are; 2 makes nearly all of them plain to see."""

    def __post_init__(self) -> None:
        problems = option_problems(self) + choice_problem("labels", self.labels, ("binary", "multilabel"))
        problems += choice_problem("image_size", self.image_size, (32, 64, 128))
        if not 0 < self.lesion_contrast <= 3:
            problems.append(f"data.lesion_contrast={self.lesion_contrast} must be above 0 and at most 3.")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Lungs:
    """Lesions of every record (N)."""

    degree: NDArray[np.float64]
    """(N, 2) density of each of LESIONS, 0 for none."""
    place: NDArray[np.float64]
    """(N, 2, 2) x and y of its middle in body coordinates."""
    radius: NDArray[np.float64]
    """(N, 2)"""
    texture: NDArray[np.float64]
    """(N, 4) phases of the consolidation's patches."""


def read_sim_imaging(data: DataConfig) -> Records:
    """Simulated films (N, 1, size, size), scaled."""
    options = parse_options(SimImagingOptions, data.options, "data")
    films, lesions, patients = simulate_films(options, data.records_per_patient)
    labels: NDArray[np.float32] | NDArray[np.int64] = np.asarray(lesions.any(axis=1), dtype=np.int64)
    if options.labels == "multilabel":
        labels = lesions.astype(np.float32)
    return Records(
        task="multilabel" if options.labels == "multilabel" else "binary",
        features=((films - CENTER) / SCALE)[:, None],
        labels=labels,
        patient_ids=patients.ids[patients.patient],
        label_names=LESIONS if options.labels == "multilabel" else ("no lesion", "lesion"),
        feature_names=("brightness",),
        groups=patients.groups(),
        warnings=size_warnings(data, options),
        simulated=True,
    )


def simulate_films(
    options: SimImagingOptions, mean_records: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Patients]:
    """((N, size, size) brightness from 0 to 1, (N, 2) labelled lesions, the patients)."""
    draws = Draws("sim_imaging", options.seed)
    patients = simulate_patients(options, draws, mean_records)
    found = _lungs(patients, draws, options.lesion_contrast)
    exposure = draws.normal("exposure", patients, 3)
    strength = options.outlier_strength * patients.is_outlier[patients.patient]
    device = draws.uniform("device", patients.num_patients, 5)[patients.patient]
    size, drawn = options.image_size, max(DRAWN, options.image_size)
    films = np.empty((patients.num_records, size, size), dtype=np.float32)
    for start in range(0, patients.num_records, CHUNK):
        part = slice(start, start + CHUNK)
        some = patients.records(part)
        anatomy = _anatomy(some, draws, options)
        density, air = tissue(anatomy, drawn)
        x, y = body_coordinates(anatomy, drawn)
        chosen = Lungs(found.degree[part], found.place[part], found.radius[part], found.texture[part])
        density += _lesions(chosen, anatomy, x, y) * air
        density += _device(device[part], strength[part], x, y)
        density = density.reshape(-1, size, drawn // size, size, drawn // size).mean(axis=(2, 4))
        films[part] = _expose(density, exposure[part], some, draws)
    return films, _labels(found.degree > 0, patients, draws, options), patients


def _anatomy(some: Patients, draws: Draws, options: SimImagingOptions) -> Anatomy:
    row = some.patient
    first = int(row[0])
    # Patients of this chunk only: their draws do not depend on how many there are.
    people = np.arange(first, int(row[-1]) + 1)
    own_rows = some.of_patients(people)
    own = draws.normal("build", own_rows, 10)[row - first]
    uniform = draws.uniform("build", own_rows, 8)[row - first]
    today = draws.normal("pose", some, 6)
    female = (some.sex[row] == "female").astype(np.float32)
    older = ((some.age[row] - 60) / 18).astype(np.float32)
    odd = (options.outlier_strength * some.is_outlier[row]).astype(np.float32)
    side = np.where(some.is_rare[row], np.cos(np.pi * options.rare_strength), 1.0)
    fat = np.clip(0.35 + 0.22 * own[:, 0], 0, 1)

    def film(values: NDArray) -> Array:
        return np.asarray(values, dtype=np.float32)[:, None, None]

    return Anatomy(
        shift_x=film(0.025 * today[:, 0]),
        shift_y=film(0.03 + 0.03 * today[:, 1]),
        turn=film(0.022 * today[:, 2] + 0.15 * odd * np.sign(own[:, 9])),
        scale=film(0.97 + 0.025 * today[:, 3]),
        width=film((1.0 - 0.04 * female + 0.045 * own[:, 1]) * (1 + 0.14 * odd * np.sign(own[:, 8]))),
        length=film(1.0 + 0.05 * own[:, 2] + 0.035 * today[:, 4]),
        heart_size=film((0.97 + 0.05 * older + 0.09 * own[:, 3] - 0.03 * today[:, 4]) * (1 + 0.15 * odd * own[:, 7])),
        heart_side=film(side),
        diaphragm=film(0.5 * own[:, 4] - 0.6 * today[:, 4]),
        rib_slope=film(1.0 + 0.25 * own[:, 5]),
        rib_phase=film(uniform[:, 0]),
        fat=film(fat),
        breast=film(female * np.clip(0.5 + 0.3 * own[:, 6] + 0.4 * fat, 0.1, 1.3)),
        bone=film(1.05 - 0.1 * older + 0.1 * uniform[:, 1]),
        vessels=(2 * np.pi * uniform[:, 2:8])[:, :, None].astype(np.float32),
    )


def _lungs(patients: Patients, draws: Draws, contrast: float) -> Lungs:
    row, num = patients.patient, patients.num_patients
    uniform = draws.uniform("lesions", num, 12).astype(np.float64)
    normal = draws.normal("lesions", num, 2).astype(np.float64)
    older = (patients.age - 60) / 18
    log_odds = np.array([-1.3, -0.9]) + np.array([0.4, 0.2]) * older[:, None]
    has = (uniform[:, :2] < 1 / (1 + np.exp(-log_odds)))[row]
    has[:, 1] &= draws.uniform("today", patients, 1)[:, 0] < 0.7
    side = np.where(uniform[:, 2:4] < 0.5, -1.0, 1.0)
    x = side * (0.26 + 0.36 * uniform[:, 4:6])
    # Nodules sit anywhere, consolidations rather low; high in the lung there is less room to the side.
    y = np.column_stack([-0.42 + 0.66 * uniform[:, 6], -0.28 + 0.55 * uniform[:, 7]])
    x *= np.where(y < -0.2, 0.8, 1.0)
    radius = np.column_stack([0.055 + 0.05 * uniform[:, 8], 0.15 + 0.12 * uniform[:, 9]])
    degree = contrast * np.array([0.30, 0.24]) * np.exp(0.35 * normal)
    return Lungs(
        degree=np.where(has, degree[row], 0.0),
        place=np.stack([x, y], axis=2)[row],
        radius=radius[row],
        texture=(2 * np.pi * draws.uniform("texture", patients, 4)).astype(np.float64),
    )


def _lesions(lungs: Lungs, anatomy: Anatomy, x: Array, y: Array) -> Array:
    """(n, ...) density that lesions add, before it is confined to the lung."""
    place, radius, degree = (
        np.asarray(values, dtype=np.float32)[..., None, None] for values in (lungs.place, lungs.radius, lungs.degree)
    )
    across = x / anatomy.width
    nodule = soft(ellipse(across, y, (place[:, 0, 0], place[:, 0, 1]), (radius[:, 0], radius[:, 0])), 0.45)
    shape = ellipse(across, y, (place[:, 1, 0], place[:, 1, 1]), (0.85 * radius[:, 1], 1.1 * radius[:, 1]))
    phase = lungs.texture.astype(np.float32)[..., None, None]
    patches = np.cos(21 * x + 9 * y + phase[:, 0]) + np.cos(17 * y - 13 * x + phase[:, 1])
    patches += 0.7 * np.cos(31 * x + phase[:, 2]) * np.cos(29 * y + phase[:, 3])
    cloud = soft(shape + 0.3 * patches, 0.9) * (1 + 0.2 * patches) * soft(shape + 0.9, 0.8)
    return degree[:, 0] * nodule + degree[:, 1] * cloud


def _device(uniform: NDArray[np.float32], strength: Array, x: Array, y: Array) -> Array:
    """A metal box somewhere on the chest and a wire from it to the heart."""
    u = uniform[..., None, None]
    middle_x, middle_y = 1.3 * u[:, 0] - 0.65, 1.0 * u[:, 1] - 0.55
    wide, high = 0.07 + 0.08 * u[:, 2], 0.06 + 0.08 * u[:, 3]
    box = soft(np.minimum(wide - np.abs(x - middle_x), high - np.abs(y - middle_y)), 0.015)
    t = np.clip((y - middle_y) / (0.28 - middle_y + 1e-3), 0, 1)
    path = middle_x + (0.15 - middle_x) * t + 0.25 * (u[:, 4] - 0.5) * np.sin(np.pi * t)
    wire = soft(0.012 - np.abs(x - path), 0.012) * ((t > 0) & (t < 1))
    return strength.astype(np.float32)[:, None, None] * (0.7 * box + 0.35 * wire)


def _expose(density: Array, exposure: NDArray[np.float32], some: Patients, draws: Draws) -> NDArray[np.float32]:
    """(n, size, size) brightness: film curve with this film's exposure, and quantum noise."""
    site_contrast = np.where(some.site[some.patient] == "site_2", 0.92, 1.0)
    site_noise = np.where(some.site[some.patient] == "site_3", 1.5, 1.0)
    gain = (site_contrast * np.exp(0.06 * exposure[:, 0])).astype(np.float32)[:, None, None]
    level = (0.03 * exposure[:, 1])[:, None, None]
    film = 0.5 + 0.5 * np.tanh(2.3 * gain * (density + level - 0.44))
    noise = draws.normal("noise", some, density.shape[1] * density.shape[2]).reshape(density.shape)
    spread = (0.014 * site_noise * np.exp(0.25 * exposure[:, 2])).astype(np.float32)[:, None, None]
    return np.clip(film + spread * (0.8 + 0.4 * film) * noise, 0, 1).astype(np.float32)


def _labels(
    present: NDArray[np.bool_], patients: Patients, draws: Draws, options: SimImagingOptions
) -> NDArray[np.bool_]:
    """(N, 2) lesions as they are labelled."""
    labels, row = present.copy(), patients.patient
    if options.rare_label_rule == "own":
        rare = patients.is_rare[row]
        labels[rare] = ~present[rare].any(axis=1, keepdims=True)
    if options.outlier_labels == "contradict":
        ever = np.bincount(row, present.any(axis=1)) > 0
        false = draws.uniform("false finding", patients.num_patients, len(LESIONS)).argmax(axis=1)
        told = (np.arange(len(LESIONS)) == false[:, None]) & ~ever[:, None]
        labels = np.where(patients.is_outlier[row, None], told[row], labels)
    return labels
