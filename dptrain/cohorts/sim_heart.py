"""Hearts of simulated patients: waves of an average adult, how people differ, and what three findings change.

The findings are those of textbooks, in degrees; mild ones overlap with normal variants (early repolarisation, late
activity on the right, slender or heavy build). Conventions and geometry: `sim_dipole`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.sim_dipole import Beats, rotate
from dptrain.cohorts.sim_patients import Draws, Patients

FINDINGS = ("st_elevation", "bundle_branch_block", "hypertrophy")
WAVES = ("p_right", "p_left", "septum", "apex", "left", "base", "late", "st", "t_rise", "t_fall", "odd")
ODD = 10
"""The last wave has no height; planted outliers get one."""
_P, _SEPTUM, _APEX, _LEFT, _BASE, _LATE, _ST, _T = slice(0, 2), 2, 3, 4, 5, 6, 7, slice(8, 10)
_QRS = slice(2, 7)
CENTER_S = np.array([-0.165, -0.130, -0.024, -0.010, 0.004, 0.026, 0.050, 0.115, 0.255, 0.300, 0.0])
WIDTH_S = np.array([0.021, 0.023, 0.008, 0.009, 0.011, 0.010, 0.014, 0.050, 0.055, 0.036, 0.02])
VECTOR_MV = np.array(
    [
        (0.040, 0.065, -0.045),
        (0.055, 0.050, 0.040),
        (-0.12, -0.02, -0.22),
        (0.22, 0.28, -0.30),
        (0.95, 0.55, 0.32),
        (-0.15, -0.12, 0.36),
        (0.0, 0.0, 0.0),
        (0.020, 0.010, -0.030),
        (0.13, 0.10, -0.09),
        (0.15, 0.11, -0.08),
        (0.0, 0.0, 0.0),
    ]
)
"""Waves of an average adult (`sim_dipole.Beats`): atria, septum, apex, left ventricle, base, ST segment, T."""
INJURY = np.array([(0.10, 0.0, -0.95), (0.10, 0.95, 0.10), (0.95, -0.40, 0.10)])
"""Direction of the injury current: anterior, inferior and lateral infarction."""
LEFT_BLOCK = {_SEPTUM: (0.30, 0.05, 0.12), _APEX: (0.25, 0.15, 0.20), _LEFT: (0.50, 0.25, 0.50),
              _BASE: (0.35, 0.10, 0.40), _LATE: (0.62, 0.15, 0.45)}  # fmt: skip
RIGHT_BLOCK = {_LATE: (-0.50, -0.05, -0.55)}


@dataclass(frozen=True)
class Heart:
    """What a record's dipole is drawn from; every array has one entry per record (N)."""

    finding: NDArray[np.float64]
    """(N, 3) degree of each of FINDINGS, 0 for none."""
    infarct: NDArray[np.int64]
    """0 anterior, 1 inferior, 2 lateral."""
    is_left_block: NDArray[np.bool_]
    """Left bundle branch block (else right)."""
    rate_per_min: NDArray[np.float64]
    """Mean heart rate."""


def draw_hearts(patients: Patients, draws: Draws) -> Heart:
    """Who has which finding, in which record, how much, and the heart rate."""
    row = patients.patient
    uniform = draws.uniform("findings", patients.num_patients, 8).astype(np.float64)
    older = (patients.age - 60) / 18
    log_odds = np.array([-1.2, -1.6, -1.4]) + np.array([0.3, 0.5, 0.4]) * older[:, None]
    has = uniform[:, :3] < 1 / (1 + np.exp(-log_odds))
    # An infarct is acute in some records; block and hypertrophy stay.
    acute = draws.uniform("acute", patients, 1)[:, 0] < 0.75
    present = has[row]
    present[:, 0] &= acute
    # Voltage says little in a block, so nobody reads hypertrophy there.
    present[:, 2] &= ~present[:, 1]
    degree = np.exp(0.5 * draws.normal("degree", patients.num_patients, 3)[row])
    rate = 72 + 10 * draws.normal("rate", patients.num_patients, 1)[row, 0] + 6 * present[:, 0]
    rate = rate + 5 * draws.normal("rate today", patients, 1)[:, 0]
    return Heart(
        finding=np.where(present, np.clip(0.9 * degree, 0.25, 2.0), 0.0),
        infarct=np.minimum((uniform[:, 3] * 3).astype(np.int64), 2)[row],
        is_left_block=(uniform[:, 4] < 0.5)[row],
        rate_per_min=np.clip(rate, 44, 118).astype(np.float64),
    )


def draw_beats(patients: Patients, heart: Heart, draws: Draws) -> Beats:
    """The waves of every record, before anything is planted."""
    row, num = patients.patient, patients.num_records
    own = draws.normal("heart", patients.num_patients, 10)[row].astype(np.float64)
    today = draws.normal("electrodes", patients, 4).astype(np.float64)
    male = patients.sex[row] == "male"
    older = (patients.age[row] - 60) / 18
    center, width = np.tile(CENTER_S, (num, 1)), np.tile(WIDTH_S, (num, 1))
    vector = np.tile(VECTOR_MV, (num, 1, 1))
    # Early repolarisation, a little late activity on the right: what healthy people have in small degrees.
    vector[:, _ST] *= 1 + np.abs(own[:, [8]]) * (1 + male[:, None])
    vector[:, _LATE] += 0.4 * np.clip(own[:, [9]] - 0.6, 0, 1.5) * np.array(RIGHT_BLOCK[_LATE])
    qrs_width = np.exp(0.12 * own[:, 0])
    _infarct(vector, heart)
    qrs_width *= _block(center, width, vector, heart)
    _hypertrophy(vector, heart)
    center[:, _QRS] *= qrs_width[:, None]
    width[:, _QRS] *= qrs_width[:, None]
    center[:, _P] -= (0.016 * own[:, 1] + 0.006 * older)[:, None]
    # QT follows the heart rate (Bazett) and is a little longer in women.
    qt = np.sqrt(60 / heart.rate_per_min / 0.83) * np.exp(0.035 * own[:, 2]) * np.where(male, 0.99, 1.02)
    center[:, _ST : _T.stop] = center[:, _ST : _T.stop] * qt[:, None] + 0.35 * (qrs_width[:, None] - 1) * 0.1
    width[:, _ST : _T.stop] *= qt[:, None]
    size = np.exp(0.25 * own[:, 3] + 0.04 * today[:, 0]) * np.where(male, 1.05, 0.92)
    vector[:, _QRS] *= size[:, None, None]
    vector[:, _P] *= np.exp(0.2 * own[:, 4])[:, None, None]
    vector[:, _T] *= (np.exp(0.35 * own[:, 5]) * np.where(male, 1.1, 0.9))[:, None, None]
    vector = rotate(vector, (0, 1), np.radians(15 * own[:, 6] - 8 * older + 3 * today[:, 1]))
    vector = rotate(vector, (0, 2), np.radians(11 * own[:, 7] + 4 * today[:, 2]))
    return Beats(center, width, vector)


def _infarct(vector: NDArray[np.float64], heart: Heart) -> None:
    """ST elevation towards the infarct, with a tall T and a lost R; depression opposite."""
    injury = INJURY[heart.infarct] * heart.finding[:, [0]]
    vector[:, _ST] += 0.20 * injury
    vector[:, _T] += 0.09 * injury[:, None]
    vector[:, _APEX] -= 0.18 * injury
    vector[:, _LEFT] -= 0.14 * injury


def _block(
    center: NDArray[np.float64], width: NDArray[np.float64], vector: NDArray[np.float64], heart: Heart
) -> NDArray[np.float64]:
    """Late, slow activation of one ventricle and a T opposite to it; returns how much wider (N,) the QRS is."""
    degree = np.clip(0.2 + 0.5 * heart.finding[:, 1], 0, 1) * (heart.finding[:, 1] > 0)
    for is_left, changes in ((True, LEFT_BLOCK), (False, RIGHT_BLOCK)):
        some = np.where(heart.is_left_block == is_left, degree, 0.0)[:, None]
        for wave, target in changes.items():
            vector[:, wave] = (1 - some) * vector[:, wave] + some * np.array(target)
    left = np.where(heart.is_left_block, degree, 0.0)
    right = degree - left
    vector[:, _ST] += left[:, None] * np.array([-0.07, -0.02, -0.10]) + right[:, None] * np.array([0.02, 0.0, 0.05])
    vector[:, _T] += left[:, None, None] * np.array([-0.32, -0.14, -0.18])
    vector[:, _T] += right[:, None, None] * np.array([0.04, 0.0, 0.16])
    center[:, _LEFT] += 0.008 * left
    center[:, _BASE] += 0.006 * left
    center[:, _LATE] += 0.010 * right - 0.004 * left
    return 1 + 0.45 * left + 0.18 * right


def _hypertrophy(vector: NDArray[np.float64], heart: Heart) -> None:
    """More voltage to the left and back; ST and T turn away from it (strain)."""
    degree = np.clip(heart.finding[:, 2], 0, 1.6)[:, None]
    vector[:, _LEFT] *= 1 + 0.6 * degree
    vector[:, _LEFT] += degree * np.array([0.0, 0.0, 0.25])
    vector[:, _ST] -= 0.05 * degree * np.array([0.95, 0.35, 0.1])
    vector[:, _T] -= 0.14 * degree[..., None] * np.array([0.95, 0.5, 0.2])
