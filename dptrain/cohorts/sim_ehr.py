"""`data=sim_ehr`: simulated hospital visits; the outcome is death or intensive care within 30 days.

A patient has a latent health state (chronic illness, age), a visit adds acute illness that follows the last visit's.
Six factors (acute severity, inflammation, kidney, heart, lung, metabolism) drive vitals and laboratory values around
textbook reference values: skewed where real ones are, correlated through the factors, rounded as laboratories do, and
measured more often in patients who look ill. The outcome depends on factors that no column shows exactly, so a logistic
regression reaches an AUROC of about 0.8.

Planted (`sim_patients`): the rare group has shifted values (low sodium and platelets, high potassium, bilirubin and
white cells) and, by its own rule, does worse where others do better. An outlier has a combination of six extreme values
that nobody else has, and in all of its visits the outcome that its findings make less likely.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.encoding import Constants, encode, parse_constants
from dptrain.cohorts.records import Records
from dptrain.cohorts.sim_patients import Draws, Patients, SimulatedOptions, simulate_patients, size_warnings
from dptrain.config import DataConfig
from dptrain.options import parse_options

FACTORS = ("acute", "inflammation", "kidney", "heart", "lung", "metabolism")
CONDITIONS: dict[str, tuple[float, dict[str, float]]] = {
    "diabetes": (-1.4, {"metabolism": 1.3, "kidney": 0.2}),
    "heart_failure": (-2.2, {"heart": 1.3, "kidney": 0.3}),
    "copd": (-2.2, {"lung": 1.3}),
    "chronic_kidney_disease": (-2.2, {"kidney": 1.4}),
    "cancer": (-2.3, {"inflammation": 0.6, "acute": 0.4}),
}
"""Chronic condition: log odds in an average patient, and what it adds to the factors."""


@dataclass(frozen=True)
class Measurement:
    """One vital sign or laboratory value; all numbers are textbook knowledge."""

    center: float
    """Typical value in adult inpatients (median), in the unit of the column's name."""
    spread: float
    """Standard deviation between patients; a factor if `log`."""
    low: float
    """Smallest value that is recorded."""
    high: float
    """Largest."""
    missing: float
    """Share of visits of average severity in which it is not measured."""
    loads: dict[str, float] = field(default_factory=dict)
    """How it follows the factors; the squares sum to less than 1."""
    log: bool = False
    """Skewed: the logarithm is normal."""
    decimals: int = 0
    """Digits after the point."""
    rare_shift: float = 0.0
    """Shift of the rare group at rare_strength=1, in standard deviations."""


MEASUREMENTS: dict[str, Measurement] = {
    "heart_rate_per_min": Measurement(83, 14, 30, 220, 0.01, {"acute": 0.5, "inflammation": 0.3, "heart": 0.2}),
    "systolic_mmhg": Measurement(129, 21, 50, 250, 0.01, {"acute": -0.5, "metabolism": 0.2}),
    "diastolic_mmhg": Measurement(74, 11, 25, 140, 0.01, {"heart": -0.2}),
    "respiratory_rate_per_min": Measurement(17, 1.22, 6, 60, 0.03, {"acute": 0.5, "lung": 0.4}, log=True),
    "temperature_celsius": Measurement(36.9, 0.6, 33, 42, 0.02, {"inflammation": 0.7}, decimals=1),
    "oxygen_saturation_percent": Measurement(96, 2.6, 60, 100, 0.01, {"lung": -0.6, "acute": -0.3, "heart": -0.2}),
    "body_mass_index": Measurement(27, 1.22, 13, 70, 0.15, {"metabolism": 0.4}, log=True, decimals=1),
    "sodium_mmol_l": Measurement(138.5, 3.8, 105, 175, 0.05, {"heart": -0.3, "acute": -0.2}, rare_shift=-1.8),
    "potassium_mmol_l": Measurement(4.15, 0.5, 2, 8, 0.05, {"kidney": 0.5}, decimals=1, rare_shift=1.5),
    "bicarbonate_mmol_l": Measurement(25, 3.4, 5, 45, 0.07, {"kidney": -0.3, "acute": -0.5, "lung": 0.3}),
    "creatinine_mg_dl": Measurement(0.95, 1.55, 0.2, 18, 0.05, {"kidney": 0.85}, log=True, decimals=2),
    "urea_nitrogen_mg_dl": Measurement(17, 1.6, 2, 200, 0.06, {"kidney": 0.75, "heart": 0.25}, log=True),
    "glucose_mg_dl": Measurement(115, 1.29, 25, 1000, 0.05, {"metabolism": 0.75, "acute": 0.2}, log=True),
    "hba1c_percent": Measurement(5.9, 1.19, 4, 16, 0.6, {"metabolism": 0.85}, log=True, decimals=1),
    "white_cells_g_l": Measurement(8.4, 1.45, 0.2, 100, 0.06, {"inflammation": 0.6}, True, 1, rare_shift=1.4),
    "haemoglobin_g_dl": Measurement(12.6, 2.0, 4, 20, 0.05, {"kidney": -0.4, "inflammation": -0.3}, decimals=1),
    "platelets_g_l": Measurement(228, 1.42, 5, 1200, 0.06, {"inflammation": 0.2}, log=True, rare_shift=-1.8),
    "crp_mg_l": Measurement(18, 3.8, 0.3, 500, 0.3, {"inflammation": 0.85, "acute": 0.2}, log=True, decimals=1),
    "albumin_g_dl": Measurement(3.7, 0.55, 1, 5.5, 0.3, {"inflammation": -0.5, "acute": -0.4}, decimals=1),
    "bilirubin_mg_dl": Measurement(0.6, 1.8, 0.1, 40, 0.35, {"acute": 0.3}, log=True, decimals=1, rare_shift=1.8),
    "inr": Measurement(1.12, 1.2, 0.8, 10, 0.3, {"acute": 0.4, "heart": 0.3}, log=True, decimals=1),
    "lactate_mmol_l": Measurement(1.5, 1.55, 0.3, 25, 0.6, {"acute": 0.75, "inflammation": 0.2}, log=True, decimals=1),
    "troponin_ng_l": Measurement(14, 2.8, 3, 20000, 0.65, {"heart": 0.6, "acute": 0.4, "kidney": 0.2}, log=True),
    "nt_probnp_ng_l": Measurement(450, 3.4, 10, 70000, 0.7, {"heart": 0.75, "kidney": 0.35}, log=True),
}  # fmt: skip
LEVELS: dict[str, tuple[str, ...]] = {
    "admission": ("elective", "urgent", "emergency"),
    "arrival": ("walk_in", "ambulance", "transfer"),
    "service": ("medicine", "surgery", "cardiology", "pulmonology", "nephrology"),
    "oxygen": ("none", "nasal", "mask", "high_flow"),
    "consciousness": ("alert", "voice", "pain", "unresponsive"),
    "smoking": ("never", "former", "current"),
}
"""Categorical columns; the first level is the baseline, a missing value is empty."""
OUTCOME = ("no death or intensive care within 30 days", "death or intensive care within 30 days")
BASE_LOGIT = -2.15
"""Log odds of the outcome at age 60 with all factors 0."""
OUTLIER_VALUES = 6
"""Measurements of an outlier that are extreme."""
OUTLIER_SHIFT = 3.5
"""Standard deviations by which they are off at outlier_strength=1, on average."""


@dataclass(frozen=True)
class SimEhrOptions(SimulatedOptions):
    """Options of data=sim_ehr."""

    num_patients: int = 4000
    """Patients of the population, training and test."""


def read_sim_ehr(data: DataConfig) -> Records:
    """Simulated visits, those of one patient in the order of time."""
    options = parse_options(SimEhrOptions, data.options, "data")
    table, labels, patients = simulate_visits(options, data.records_per_patient)
    features, names = encode(table, constants(), f"data.name={data.name}")
    missing = table[list(MEASUREMENTS)].isna().to_numpy(dtype=np.float32)
    return Records(
        task="binary",
        features=np.concatenate([features, missing], axis=1),
        labels=labels,
        patient_ids=patients.ids[patients.patient],
        label_names=OUTCOME,
        feature_names=(*names, *(f"{name} missing" for name in MEASUREMENTS)),
        groups=patients.groups(),
        warnings=size_warnings(data, options),
        simulated=True,
    )


def constants() -> Constants:
    """How columns become features: the reference values above, nothing fitted."""
    numeric: dict[str, dict[str, float]] = {"age_years": {"center": 60, "scale": 18}}
    numeric["earlier_visits"] = {"center": 0.7, "scale": 0.6, "log_offset": 1.0}
    for name, one in MEASUREMENTS.items():
        numeric[name] = {"center": one.center, "scale": one.spread, "fill": one.center}
        if one.log:
            numeric[name] |= {"center": np.log(one.center), "scale": np.log(one.spread), "log_offset": 0.0}
    numeric |= {name: {"center": 0, "scale": 1} for name in CONDITIONS}
    vocabulary = {"sex": ("female", "male"), **LEVELS}
    categorical = {name: {"levels": levels, "baseline": levels[0]} for name, levels in vocabulary.items()}
    return parse_constants("public, reference values of the simulation", numeric, categorical, "sim_ehr")


def simulate_visits(
    options: SimulatedOptions, mean_records: float
) -> tuple[pd.DataFrame, NDArray[np.int64], Patients]:
    """(visits in natural units, with NaN and '' where missing; (N,) outcome; the patients)."""
    draws = Draws("sim_ehr", options.seed)
    patients = simulate_patients(options, draws, mean_records)
    row = patients.patient
    chronic, conditions = _chronic(patients, draws)
    factors = chronic[row] + 0.9 * _acute_course(patients, draws.normal("course", patients, len(FACTORS)))
    logit = _logit(patients, factors, draws, options)
    labels = (draws.uniform("outcome", patients, 1)[:, 0] < 1 / (1 + np.exp(-logit))).astype(np.int64)
    if options.outlier_labels == "contradict":
        less_likely = (np.bincount(row, logit) / np.bincount(row) < 0)[row]
        labels = np.where(patients.is_outlier[row], less_likely, labels).astype(np.int64)
    earlier = np.floor(-1.2 * np.log1p(-draws.uniform("earlier visits", patients.num_patients, 1)[:, 0]))[row]
    columns: dict[str, NDArray] = {
        "age_years": np.floor(patients.age[row] + 0.4 * patients.visit),
        "earlier_visits": earlier + patients.visit,
        **_measured(patients, factors, draws, options),
        **{name: conditions[row, index].astype(np.float64) for index, name in enumerate(CONDITIONS)},
        "sex": patients.sex[row],
        **_categories(patients, factors, conditions, draws),
    }
    return pd.DataFrame(columns), labels, patients


def _chronic(patients: Patients, draws: Draws) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """((P, 6) lasting part of the factors, (P, 5) chronic conditions)."""
    normal = draws.normal("health", patients.num_patients, 1 + len(FACTORS)).astype(np.float64)
    health = 0.8 * normal[:, 0] + 0.6 * (patients.age - 60) / 18
    odds = np.array([log_odds for log_odds, _ in CONDITIONS.values()]) + 0.9 * health[:, None]
    uniform = draws.uniform("conditions", patients.num_patients, len(CONDITIONS))
    conditions = uniform < 1 / (1 + np.exp(-odds))
    adds = np.array([[adds.get(factor, 0.0) for factor in FACTORS] for _, adds in CONDITIONS.values()])
    factors = 0.35 * health[:, None] + 0.5 * normal[:, 1:] + conditions @ adds - 0.25
    return factors, conditions


def _acute_course(patients: Patients, fresh: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 6) acute illness: an autoregressive course over the visits of each patient, of variance 1."""
    course = fresh.astype(np.float64)
    for visit in range(1, int(patients.visit.max()) + 1):
        rows = np.flatnonzero(patients.visit == visit)
        course[rows] = 0.5 * course[rows - 1] + 0.75**0.5 * course[rows]
    course[:, 1:] = 0.8 * course[:, 1:] + 0.6 * course[:, :1]
    return course


def _logit(
    patients: Patients, factors: NDArray[np.float64], draws: Draws, options: SimulatedOptions
) -> NDArray[np.float64]:
    """(N,) log odds of the outcome."""
    row = patients.patient
    acute, inflammation, kidney, heart, lung, metabolism = factors.T
    age = (patients.age[row] - 60) / 18
    unseen = 0.6 * draws.normal("unseen", patients.num_patients, 1)[row, 0]
    usual = 0.65 * acute + 0.25 * inflammation + 0.25 * kidney + 0.2 * heart + 0.2 * lung + 0.35 * age
    usual += 0.2 * acute * kidney
    if options.rare_label_rule == "own":
        usual = np.where(patients.is_rare[row], 1.0 * metabolism - 1.3 * acute + 1.0, usual)
    return BASE_LOGIT + usual + unseen


def _measured(
    patients: Patients, factors: NDArray[np.float64], draws: Draws, options: SimulatedOptions
) -> dict[str, NDArray[np.float64]]:
    """Every measurement (N,) in its unit, NaN where it was not taken."""
    row, size = patients.patient, len(MEASUREMENTS)
    own = draws.normal("own level", patients.num_patients, size)[row]
    noise = draws.normal("measurement", patients, size)
    taken = draws.uniform("measured", patients, size)
    shift = options.outlier_strength * _outlier_shifts(patients, draws)[row]
    severity = factors[:, 0]
    columns = {}
    for index, (name, one) in enumerate(MEASUREMENTS.items()):
        loads = np.array([one.loads.get(factor, 0.0) for factor in FACTORS])
        rest = np.sqrt(1 - np.square(loads).sum())
        z = factors @ loads + rest * (0.6 * own[:, index] + 0.8 * noise[:, index]) + shift[:, index]
        z += options.rare_strength * one.rare_shift * patients.is_rare[row]
        if name == "haemoglobin_g_dl":
            z += np.where(patients.sex[row] == "male", 0.35, -0.35)
        if name == "systolic_mmhg":
            systolic = z
        if name == "diastolic_mmhg":
            z = 0.6 * systolic + 0.8 * z
        value = one.center * one.spread**z if one.log else one.center + one.spread * z
        value = np.round(np.clip(value, one.low, one.high), one.decimals)
        odds = np.log(one.missing / (1 - one.missing)) - 0.6 * severity
        columns[name] = np.where(taken[:, index] < 1 / (1 + np.exp(-odds)), np.nan, value)
    columns["diastolic_mmhg"] = np.minimum(columns["diastolic_mmhg"], columns["systolic_mmhg"] - 15)
    return columns


def _outlier_shifts(patients: Patients, draws: Draws) -> NDArray[np.float64]:
    """(P, measurements) shift in standard deviations: a few large ones in each outlier, 0 in everybody else."""
    uniform = draws.uniform("outlier places", patients.num_patients, len(MEASUREMENTS))
    normal = draws.normal("outlier shifts", patients.num_patients, len(MEASUREMENTS))
    chosen = uniform.argsort(axis=1).argsort(axis=1) < OUTLIER_VALUES
    size = np.sign(normal) * (OUTLIER_SHIFT + 0.5 * np.abs(normal))
    return np.where(chosen & patients.is_outlier[:, None], size, 0.0)


def _categories(
    patients: Patients, factors: NDArray[np.float64], conditions: NDArray[np.bool_], draws: Draws
) -> dict[str, NDArray[np.object_]]:
    """Every categorical column (N,), '' where not known."""
    uniform = draws.uniform("categories", patients, len(LEVELS)).astype(np.float64)
    row = patients.patient
    acute, lung = factors[:, 0], factors[:, 4]
    has = dict(zip(CONDITIONS, conditions[row].T, strict=True))
    zero = np.zeros(patients.num_records)
    smoker = draws.uniform("smoking", patients.num_patients, 1)[row, 0].astype(np.float64)
    log_odds = {
        "admission": [zero, zero - 0.3 + 0.5 * acute, zero + 0.6 + 1.0 * acute],
        "arrival": [zero, zero - 0.9 + 1.0 * acute, zero - 1.6 + 0.4 * acute],
        "service": [
            zero, zero - 0.5 - 0.3 * acute, -2.0 + 2.5 * has["heart_failure"], -2.4 + 2.5 * has["copd"],
            -2.6 + 2.2 * has["chronic_kidney_disease"],
        ],
        "oxygen": [zero, -1.6 + 0.8 * acute + 0.7 * lung, -3.4 + 1.1 * acute + 0.9 * lung, -5 + 1.4 * acute + lung],
        "consciousness": [zero, -3.2 + 1.0 * acute, -4.6 + 1.2 * acute, -5.6 + 1.3 * acute],
        "smoking": [zero, zero - 0.4, -1.1 + 1.2 * has["copd"]],
    }  # fmt: skip
    columns = {}
    for index, (name, levels) in enumerate(LEVELS.items()):
        weights = np.exp(np.stack(log_odds[name], axis=1))
        edges = np.cumsum(weights, axis=1)[:, :-1] / weights.sum(axis=1, keepdims=True)
        draw = smoker if name == "smoking" else uniform[:, index]
        chosen = (draw[:, None] >= edges).sum(axis=1)
        columns[name] = np.array(levels, dtype=object)[chosen]
    unknown = draws.uniform("smoking unknown", patients, 1)[:, 0] < 0.15
    columns["smoking"] = np.where(unknown, "", columns["smoking"])
    return columns
