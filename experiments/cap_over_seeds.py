"""Question: does any attack interval ever lie above the cap, over 20 seeds of small studies at epsilon 1, 4 and 16?

    python experiments/cap_over_seeds.py            20 seeds, 64 models per fleet: 5 to 10 minutes on one core
    python experiments/cap_over_seeds.py 3 16       3 seeds, 16 models per fleet: half a minute

Real training on breast_cancer, each seed with its own split, halves, weights, noise. Three recipes:

* default: the recipe of every study, all patients. Attacks stay far below the cap: full-batch training on 200 patients
  hides each among the others, which the cap does not count on.
* near the cap: 28 patients, one step, a linear model, every gradient clipped. All that keeps an attack on the finished
  model from the cap is the other patients' gradients, and having to learn from references.
* near the cap, a tenth of the noise: trained with less than what is accounted. At epsilon 1 the attack must then be
  above the cap; without this row the others might not be able to fail.

Outcome: `cap_over_seeds.md` beside this file.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dptrain.attacks.patient import expand_membership, sum_over_records
from dptrain.attacks.protocol import default_attack
from dptrain.attacks.signals import compute_signals
from dptrain.audit.targets import TargetSummary, summarise_attack
from dptrain.cli import compose
from dptrain.cohorts.membership import draw_membership
from dptrain.cohorts.registry import load_cohort, nominal_train_patients
from dptrain.privacy.tradeoff import tradeoff
from dptrain.training.arms import Arm, build_mechanism
from dptrain.training.fleet import FleetData, train_fleet_model

FPR = 0.01
NEAR_THE_CAP = (
    "model=linear",
    "data.max_patients=40",
    "data.nominal_patients=28",
    "training.private.num_steps=1",
    "training.private.learning_rate=1",
    "training.private.schedule=constant",
)
RECIPES: dict[str, tuple[tuple[str, ...], float]] = {
    "default": ((), 1.0),
    "near the cap": (NEAR_THE_CAP, 1.0),
    "near the cap, a tenth of the noise": (NEAR_THE_CAP, 0.1),
}
"""Settings, and what the accounted noise is multiplied with."""
EPSILONS = (1.0, 4.0, 16.0)


@dataclass(frozen=True)
class Observation:
    """One fleet: what an attack reaches, and what the accounted mechanism allows."""

    auc: TargetSummary
    auc_cap: float
    tpr: TargetSummary
    """At FPR; not estimable where a model has fewer than 1/FPR non-members."""
    tpr_cap: float


def observe(settings: Sequence[str], epsilon: float, seed: int, num_models: int, noise: float = 1.0) -> Observation:
    """Train a fleet, with `noise` times the noise that is accounted, and attack it as a study does."""
    config = compose([*settings, f"seed={seed}", "training.num_evaluations=1"])
    cohort = load_cohort(config.data, seed)
    data = FleetData.build(cohort, "patient")
    train = cohort.train_patients
    rows = np.flatnonzero(~cohort.is_test[cohort.patient])
    patient = np.searchsorted(train, cohort.patient[rows])
    membership = draw_membership(seed, num_models, len(train))
    arm = Arm("private", epsilon)
    mechanism, _ = build_mechanism(config, arm, nominal_train_patients(config.data) / 2)
    assert mechanism is not None
    trained = dataclasses.replace(mechanism, noise_multiplier=noise * mechanism.noise_multiplier)
    logits = [
        train_fleet_model(config, data, arm, trained, index, membership[index]).logits[rows]
        for index in range(num_models)
    ]
    signals = compute_signals(np.stack(logits), np.asarray(cohort.labels)[rows], cohort.task)
    scores = default_attack(num_models).function(signals, expand_membership(membership, patient))
    found = summarise_attack(sum_over_records(scores, patient, len(train)), membership, (FPR,))
    cap = tradeoff(mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.num_steps)
    return Observation(found.auc, cap.auc_cap(), found.tpr_at_fpr[FPR], cap.max_tpr(FPR))


def cells(observed: Sequence[TargetSummary], cap: float) -> list[str]:
    """Cap, mean over seeds, the seed with the highest low end, number of intervals above the cap."""
    if not all(one.estimable for one in observed):
        return [f"{cap:.4f}", "-", "-", "-"]
    highest = max(observed, key=lambda one: one.low)
    return [
        f"{cap:.4f}",
        f"{np.mean([one.mean for one in observed]):.4f}",
        f"{highest.mean:.4f} ({highest.low:.4f} to {highest.high:.4f})",
        f"{sum(one.low > cap for one in observed)} of {len(observed)}",
    ]


def main(num_seeds: int = 20, num_models: int = 64) -> None:
    """Print the table in Markdown."""
    torch.set_num_threads(1)
    start = time.monotonic()
    four = ["cap", "mean over seeds", "highest interval", "intervals above the cap"]
    header = ["recipe", "epsilon", *(f"{name}: {one}" for name in ("AUC", f"TPR at FPR {FPR}") for one in four)]
    print(f"{num_seeds} seeds, {num_models} models per fleet.\n")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for recipe, (settings, noise) in RECIPES.items():
        for epsilon in EPSILONS:
            seen = [observe(settings, epsilon, seed, num_models, noise) for seed in range(num_seeds)]
            row = [recipe, f"{epsilon:g}"]
            row += cells([one.auc for one in seen], seen[0].auc_cap)
            row += cells([one.tpr for one in seen], seen[0].tpr_cap)
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s on one core.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
