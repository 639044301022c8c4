"""Random studies with small groups and recognisable patients, for whoever attacks a release."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dptrain.cohorts.cohort import Cohort
from tests.report.fake_study import EPS_3, NONE, FakeStudy


@dataclass(frozen=True)
class RandomStudy(FakeStudy):
    """A fake study whose groups are drawn: one attribute or more, most of them with a few very small groups."""

    shares: tuple[tuple[float, ...], ...] = field(default=())
    """Per attribute, the probability of each of its groups."""

    def cohort(self) -> Cohort:
        cohort = super().cohort()
        rng = np.random.default_rng([self.seed, 1])
        groups = {}
        for place, shares in enumerate(self.shares):
            names = np.array([f"group {chr(97 + index)}" for index in range(len(shares))])
            groups[f"attribute {place}"] = rng.choice(names, cohort.num_patients, p=shares)
        ids = np.array([identifier(self.seed, index) for index in range(cohort.num_patients)])
        warning = f"{identifier(self.seed, 3)} and 2 others have records that disagree."
        return replace(cohort, groups=groups, patient_ids=ids, warnings=(warning,))


def identifier(seed: int, patient: int) -> str:
    """Found nowhere else by chance."""
    return f"MRN{(seed * 100_003 + patient * 7919) % 10**9:09d}X"


def random_study(seed: int) -> RandomStudy:
    """40 to 400 training patients, of whom up to 40 are recognised; 1 to 3 attributes of 2 to 6 groups."""
    rng = np.random.default_rng([seed, 0])
    num_train = int(rng.integers(40, 400))
    shares = []
    for _ in range(int(rng.integers(1, 4))):
        raw = rng.dirichlet(np.full(int(rng.integers(2, 7)), rng.choice([0.2, 0.5, 1.0])))
        shares.append(tuple(raw / raw.sum()))
    leak = float(rng.choice([2.0, 4.0, 8.0]))
    most = min(num_train // 2, 40)
    none = replace(NONE, num_exposed=int(rng.integers(0, most)), leak=leak)
    private = replace(EPS_3, num_exposed=int(rng.integers(0, most // 4)), leak=1.0)
    return RandomStudy(
        fake_arms=(none, private),
        num_models=int(rng.choice([8, 12, 16])),
        num_train=num_train,
        num_test=int(rng.integers(30, 120)),
        records_per_patient=1,
        seed=seed,
        permutations=20,
        num_baselines=0,
        shares=tuple(shares),
    )
