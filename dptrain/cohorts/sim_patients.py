"""The patients behind the simulated cohorts: who they are, how many records they have, and who was planted.

Guarantees
- Patient i and record r of patient i are drawn from their own streams (Philox, keyed by `data.seed` and the purpose,
  counting on i and r). They depend on the settings, i and r alone: a larger population begins with the smaller one, and
  planting more patients changes no other patient.
- Planted patients are known: the group attribute `planted` says `rare_group`, `outlier` or `none`. Among any first n
  patients their number is within 2 of n times their share (multiples of the golden ratio are spread evenly).

What a planted patient looks like is up to each cohort; who is one is decided here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.records import UNKNOWN
from dptrain.config import DataConfig
from dptrain.errors import ConfigError
from dptrain.seeding import stream_seed

NONE, RARE_GROUP, OUTLIER = "none", "rare_group", "outlier"
"""Values of the group attribute `planted`."""
DISTRIBUTIONS = ("geometric", "poisson", "fixed")
RARE_RULES = ("own", "same")
OUTLIER_LABELS = ("contradict", "same")
ETHNICITIES = (("A", 0.62), ("B", 0.19), ("C", 0.11), ("D", 0.05), (UNKNOWN, 0.03))
"""Letters on purpose: simulated patients say nothing about real groups."""
SITES = (("site_1", 0.5), ("site_2", 0.3), ("site_3", 0.2))
AGE_BANDS = ((40, "18-39"), (60, "40-59"), (80, "60-79"), (200, "80+"))
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class SimulatedOptions:
    """What all simulated cohorts have. The mean number of records is `data.records_per_patient`."""

    seed: int = 0
    """Root of the simulated population; the study's own `seed` only decides split and training."""
    num_patients: int = 2000
    """Patients of the population, training and test."""
    records_distribution: str = "geometric"
    """Records per patient: geometric (few patients with many), poisson (one plus a Poisson number) or fixed."""
    max_records: int = 8
    """No patient has more records than this."""
    rare_share: float = 0.02
    """Share of patients that belong to the planted rare group."""
    rare_strength: float = 1.0
    """How far the rare group's records differ from the others': 0 not at all, 1 as described in docs/data.md."""
    rare_label_rule: str = "own"
    """own: in the rare group labels follow another rule. same: the rule of all others."""
    outlier_share: float = 0.01
    """Share of patients that are planted outliers, each atypical in a way of its own."""
    outlier_strength: float = 1.0
    """How atypical outliers are: 0 not at all."""
    outlier_labels: str = "contradict"
    """contradict: all records of an outlier have the label that its findings make unlikely. same: the usual rule."""

    def __post_init__(self) -> None:
        problems = option_problems(self)
        if problems:
            raise ConfigError(problems)


def option_problems(options: SimulatedOptions) -> list[str]:
    """What is wrong with the settings that all simulated cohorts share."""
    problems = []
    for name, least in (("seed", 0), ("num_patients", 20), ("max_records", 1)):
        if getattr(options, name) < least:
            problems.append(f"data.{name}={getattr(options, name)} must be >= {least}.")
    for name in ("rare_share", "outlier_share", "rare_strength", "outlier_strength"):
        value = getattr(options, name)
        most = 1.0 if name in ("rare_share", "outlier_share", "rare_strength") else 3.0
        if not 0 <= value <= most:
            problems.append(f"data.{name}={value} must be between 0 and {most:g}.")
    if options.rare_share + options.outlier_share > 1:
        problems.append(
            f"data.rare_share={options.rare_share} and data.outlier_share={options.outlier_share} add up to more "
            "than 1."
        )
    for name, known in (
        ("records_distribution", DISTRIBUTIONS), ("rare_label_rule", RARE_RULES), ("outlier_labels", OUTLIER_LABELS),
    ):
        problems += choice_problem(name, getattr(options, name), known)
    return problems


def choice_problem(name: str, value: str | int, known: tuple[str | int, ...]) -> list[str]:
    """A problem if `data.name` is none of its known values."""
    return [] if value in known else [f"data.{name}={value!r} must be one of {', '.join(map(str, known))}."]


@dataclass(frozen=True)
class Patients:
    """P simulated patients, in ascending order of their number, and which patient each of the N records is of."""

    ids: NDArray[np.str_]
    """(P,) S000000, S000001, ..."""
    age: NDArray[np.float64]
    """(P,) years."""
    sex: NDArray[np.str_]
    """(P,) female or male."""
    ethnicity: NDArray[np.str_]
    """(P,) A, B, C, D or unknown."""
    site: NDArray[np.str_]
    """(P,) site_1, site_2 or site_3: where all records of the patient were taken."""
    planted: NDArray[np.str_]
    """(P,) none, rare_group or outlier."""
    patient: NDArray[np.int64]
    """(N,) number of the record's patient, ascending."""
    visit: NDArray[np.int64]
    """(N,) number of the record within its patient: 0, 1, ..."""

    @property
    def num_patients(self) -> int:
        """P."""
        return len(self.ids)

    @property
    def num_records(self) -> int:
        """N."""
        return len(self.patient)

    @property
    def is_rare(self) -> NDArray[np.bool_]:
        """(P,) the planted rare group."""
        return self.planted == RARE_GROUP

    @property
    def is_outlier(self) -> NDArray[np.bool_]:
        """(P,) the planted outliers."""
        return self.planted == OUTLIER

    def records(self, part: slice) -> Patients:
        """The same patients with a part of the records, for work in pieces."""
        return dataclasses.replace(self, patient=self.patient[part], visit=self.visit[part])

    def of_patients(self, numbers: NDArray[np.int64]) -> Patients:
        """One row for each of these patients, to draw what belongs to the patient and not to a record."""
        return dataclasses.replace(self, patient=numbers, visit=np.zeros_like(numbers))

    def groups(self) -> dict[str, NDArray[np.str_]]:
        """Group attributes, each (N,) per record as `Records` has them."""
        band = np.array([name for _, name in AGE_BANDS])[np.digitize(self.age, [age for age, _ in AGE_BANDS])]
        found = {
            "sex": self.sex, "age": band, "ethnicity": self.ethnicity, "site": self.site, "planted": self.planted,
        }  # fmt: skip
        return {name: values[self.patient] for name, values in found.items()}


@dataclass(frozen=True)
class Draws:
    """The random numbers of one simulated cohort, each (rows, size) array on its own named streams."""

    cohort: str
    """Name of the cohort, so that two cohorts with the same seed are unrelated."""
    seed: int
    """data.seed."""

    def normal(self, purpose: str, rows: Patients | int, size: int) -> NDArray[np.float32]:
        """Standard normal numbers: (P, size) for a number of patients, (N, size) for the records of `Patients`."""
        return self._fill(purpose, rows, size, lambda rng, out: rng.standard_normal(out=out, dtype=np.float32))

    def uniform(self, purpose: str, rows: Patients | int, size: int) -> NDArray[np.float32]:
        """The same, uniform on [0, 1)."""
        return self._fill(purpose, rows, size, lambda rng, out: rng.random(out=out, dtype=np.float32))

    def _fill(
        self, purpose: str, rows: Patients | int, size: int, fill: Callable[[np.random.Generator, NDArray], object]
    ) -> NDArray[np.float32]:
        key = stream_seed(self.seed, "population", self.cohort, purpose)
        if isinstance(rows, int):
            patient, visit = np.arange(rows), np.zeros(rows, dtype=np.int64)
        else:
            patient, visit = rows.patient, rows.visit
        values = np.empty((len(patient), size), dtype=np.float32)
        for row, (i, r) in enumerate(zip(patient.tolist(), visit.tolist(), strict=True)):
            fill(np.random.Generator(np.random.Philox(key=key, counter=[0, 0, r, i])), values[row])
        return values


def simulate_patients(options: SimulatedOptions, draws: Draws, mean_records: float) -> Patients:
    """The population; raises ConfigError where the mean number of records is impossible."""
    if not 1 <= mean_records <= options.max_records:
        raise ConfigError(
            f"data.records_per_patient={mean_records:g} must be between 1 and data.max_records={options.max_records}."
        )
    num = options.num_patients
    uniform = draws.uniform("patients", num, 8).astype(np.float64)
    normal = draws.normal("patient ages", num, 1)[:, 0].astype(np.float64)
    counts = np.minimum(_num_records(uniform[:, 0], options.records_distribution, mean_records), options.max_records)
    patient = np.repeat(np.arange(num), counts)
    return Patients(
        ids=np.array([f"S{index:06d}" for index in range(num)]),
        age=np.clip(62 + 17 * normal - 2.5 * normal**2, 18, 97),
        sex=np.where(uniform[:, 1] < 0.5, "female", "male"),
        ethnicity=_choose(uniform[:, 2], ETHNICITIES),
        site=_choose(uniform[:, 3], SITES),
        planted=_planted(options, draws),
        patient=patient,
        visit=np.arange(len(patient)) - np.repeat(np.cumsum(counts) - counts, counts),
    )


def size_warnings(data: DataConfig, options: SimulatedOptions) -> tuple[str, ...]:
    """What a simulated cohort's user must know: that it is one, and whether the public size fits it."""
    warnings = ["These patients are SIMULATED: figures say nothing about real patients."]
    if data.max_patients is None or data.max_patients >= options.num_patients:
        num_train = options.num_patients - max(1, int(options.num_patients * data.test_fraction))
        assert data.nominal_patients is not None
        if not 0.8 <= data.nominal_patients / num_train <= 1.25:
            warnings.append(
                f"data.nominal_patients={data.nominal_patients} does not fit data.num_patients={options.num_patients}, "
                f"of which {num_train} are for training: private steps would be scaled wrongly. Set "
                f"data.nominal_patients={num_train}."
            )
    return tuple(warnings)


def _num_records(uniform: NDArray[np.float64], distribution: str, mean: float) -> NDArray[np.int64]:
    """By inversion, so that a larger mean only ever adds records to a patient."""
    if distribution == "fixed":
        return np.full(len(uniform), round(mean), dtype=np.int64)
    if mean == 1:
        return np.ones(len(uniform), dtype=np.int64)
    if distribution == "geometric":
        return (1 + np.floor(np.log1p(-uniform) / math.log1p(-1 / mean))).astype(np.int64)
    rate = mean - 1
    most = math.ceil(rate + 12 * rate**0.5) + 8
    mass = np.exp([-rate + k * math.log(rate) - math.lgamma(k + 1) for k in range(most)])
    return 1 + np.searchsorted(np.cumsum(mass), uniform).astype(np.int64)


def _choose(uniform: NDArray[np.float64], shares: tuple[tuple[str, float], ...]) -> NDArray[np.str_]:
    edges = np.cumsum([share for _, share in shares])[:-1]
    return np.array([name for name, _ in shares])[np.searchsorted(edges, uniform, side="right")]


def _planted(options: SimulatedOptions, draws: Draws) -> NDArray[np.str_]:
    start = float(draws.uniform("planted", 1, 1)[0, 0])
    place = np.mod(start + _GOLDEN * np.arange(options.num_patients), 1.0)
    is_outlier = place < options.outlier_share
    is_rare = place >= 1 - options.rare_share
    return np.where(is_outlier, OUTLIER, np.where(is_rare, RARE_GROUP, NONE))
