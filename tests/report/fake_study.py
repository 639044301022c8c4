"""A study folder that was never trained: logits simulated with a leak of known size, everything else as on disk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.membership import draw_membership
from dptrain.report.build import document_of
from dptrain.report.document import Document
from dptrain.report.results import StudyResult


@dataclass(frozen=True)
class FakeArm:
    """The fields of an ArmRecord that a report reads, and how much the simulated models leak."""

    label: str
    target_epsilon: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    sampling_rate: float | None = None
    num_steps: int = 60
    clipping_norm: float | None = None
    unit: str = "patient"
    num_parameters: int = 497
    patient_level: dict[str, Any] | None = None
    accounting: dict[str, Any] | None = None
    num_exposed: int = 0
    """Patients whose signal rises by `leak` when they are members."""
    leak: float = 6.0
    skill: float = 2.0


NONE = FakeArm("none", num_exposed=6, num_steps=400)
MATCHED = FakeArm("matched", num_exposed=5, sampling_rate=0.5)
CLIP = FakeArm("clip", num_exposed=5, sampling_rate=0.5, noise_multiplier=0.0, clipping_norm=1.0)
EPS_3 = FakeArm("eps=3", 3.0, 2.999, 1e-3, 6.0, 0.5, clipping_norm=1.0, skill=1.6)


@dataclass(frozen=True)
class FakeStudy:
    """What `dptrain.report.analyse` asks of a StudyFolder."""

    fake_arms: tuple[FakeArm, ...] = (NONE, MATCHED, CLIP, EPS_3)
    num_models: int = 16
    num_train: int = 120
    num_test: int = 60
    task: str = "binary"
    records_per_patient: int = 1
    seed: int = 7
    permutations: int = 40
    num_baselines: int = 4
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = {
            "seed": self.seed,
            "model": {"name": "mlp"},
            "attack": {"name": "auto", "num_permutations": self.permutations, "num_bootstrap": 20},
        }
        object.__setattr__(self, "settings", settings)

    def cohort(self) -> Cohort:
        rng = np.random.default_rng(self.seed)
        num_patients = self.num_train + self.num_test
        patient = np.repeat(np.arange(num_patients), self.records_per_patient)
        is_test = np.zeros(num_patients, dtype=bool)
        is_test[rng.permutation(num_patients)[: self.num_test]] = True
        labels: NDArray[Any] = rng.integers(0, 3 if self.task == "multiclass" else 2, len(patient))
        names: tuple[str, ...] = ("benign", "malignant", "unclear")[: 3 if self.task == "multiclass" else 2]
        if self.task == "multilabel":
            labels = rng.integers(0, 2, (len(patient), 3)).astype(np.float32)
            labels[::5, 1] = np.nan
            names = ("oedema", "effusion", "fracture")
        return Cohort(
            name="fake",
            task=self.task,  # type: ignore[arg-type]
            features=np.zeros((len(patient), 1), dtype=np.float32),
            labels=labels,
            patient=patient,
            patient_ids=np.array([f"SECRET-{index:04d}" for index in range(num_patients)]),
            is_test=is_test,
            label_names=names,
            groups={"sex": np.where(np.arange(num_patients) % 2 == 0, "female", "male")},
            simulated=True,
        )

    def membership(self) -> NDArray[np.bool_]:
        return draw_membership(self.seed, self.num_models, self.num_train)

    def arms(self) -> list[FakeArm]:
        return list(self.fake_arms)

    def baseline(self, label: str) -> FakeArm | None:
        """Beside `none` and the private arms; its logits are those of the arm with noise on them."""
        arm = self._arm(label)
        if label in ("matched", "clip") or not self.num_baselines:
            return None
        return replace(arm, label=f"baseline/{label}")

    def logits(self, label: str) -> NDArray[np.float32]:
        if label.startswith("baseline/"):
            logits = self.logits(label.removeprefix("baseline/"))[: self.num_baselines]
            return logits + np.random.default_rng(self.seed).normal(0, 3, logits.shape).astype(np.float32)
        arm, cohort = self._arm(label), self.cohort()
        rng = np.random.default_rng([self.seed, len(label), arm.num_exposed])
        sign = _signs(cohort)
        shape = (self.num_models, *sign.shape)
        difficulty = rng.normal(arm.skill, 1.5, sign.shape)
        exposed = np.zeros((self.num_models, cohort.num_patients))
        exposed[:, cohort.train_patients[: arm.num_exposed]] = self.membership()[:, : arm.num_exposed] * arm.leak
        signal = difficulty + rng.normal(0, 1, shape) + exposed[:, cohort.patient, None]
        return (sign * signal).astype(np.float32)

    def growth(self) -> None:
        """The number of models was given."""

    def canaries(self, label: str) -> None:
        """None were planted."""

    def curves(self, label: str) -> dict[str, NDArray[Any]]:
        arm = self._arm(label)
        step = np.arange(1, 6) * arm.num_steps // 5
        fall = np.exp(-np.arange(5) / 2) + np.linspace(0, 0.1, self.num_models)[:, None]
        curves = {"step": step, "train_loss": fall, "utility": 1 - fall / 3}
        curves["train_loss"][0, 0] = np.nan
        if arm.epsilon is not None:
            curves["epsilon"] = np.linspace(0.2, 1, 5) * arm.epsilon
        return curves

    def with_arm(self, old: FakeArm, **changes: Any) -> FakeStudy:
        """The same study with one arm changed."""
        arms = tuple(replace(arm, **changes) if arm is old else arm for arm in self.fake_arms)
        return replace(self, fake_arms=arms)

    def _arm(self, label: str) -> FakeArm:
        return next(arm for arm in self.fake_arms if arm.label == label)


def _signs(cohort: Cohort) -> NDArray[np.float64]:
    labels = np.asarray(cohort.labels)
    if cohort.task == "multiclass":
        return np.where(np.arange(3) == labels[:, None], 1.0, -1.0)
    if cohort.task == "multilabel":
        return 2.0 * np.nan_to_num(labels.astype(float), nan=0.5) - 1.0
    return (2.0 * labels - 1.0)[:, None]


def document_for(result: StudyResult) -> Document:
    """The report document of a fake study that was analysed with details."""
    info = {
        "name": "fake",
        "dptrain": "0.1.0",
        "fingerprint": "f" * 64,
        "settings": {"seed": 7, "data": {"name": "fake", "path": "/secret/place"}, "model": {"name": "mlp"}},
        "cohort": {"label_names": ["benign", "malignant"], "outside_dp": []},
    }
    return document_of(result, info, {})
