"""Question: which recipe suits this data set and network at epsilon 8 and 1, without looking at test patients?

    python experiments/tune_recipe.py MODELS ARMS SETTINGS -- CANDIDATE -- CANDIDATE ...
    python experiments/tune_recipe.py 4 none,8,1 data=medmnist model=small_cnn -- training.private.learning_rate=4

SETTINGS and CANDIDATEs are settings of the form name=value as `dptrain` takes them; a candidate comes on top of
SETTINGS. ARMS are none, matched, clip or epsilons. For each, MODELS models are trained on random halves of the TRAINING
patients; a model's performance is taken on the training patients that it has not seen. What models say about test
patients is never looked at. Printed for each arm: mean AUROC on unseen training patients, standard deviation between
models, seconds per model.

A choice made so looks at these patients, and is therefore outside epsilon.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np
import torch

from dptrain.cli import compose
from dptrain.cohorts.membership import draw_membership
from dptrain.config import Config
from dptrain.study.runner import nominal_units
from dptrain.training.allocator import keep_freed_memory
from dptrain.training.arms import Arm, build_mechanism
from dptrain.training.fleet import FleetData, train_fleet_model
from dptrain.training.prepare import prepared_cohort
from dptrain.training.utility import auroc


def main(num_models: int, arms: list[str], settings: list[str], candidates: list[list[str]]) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    config = compose(settings)
    data = FleetData.build(prepared_cohort(config), config.privacy.unit)
    patients, records = len(data.cohort.train_patients), len(data.cohort.patient) - len(data.test_rows)
    print(f"{' '.join(settings)}\n{patients} training patients, {records} records", flush=True)
    for candidate in candidates or [[]]:
        tried = compose([*settings, *candidate])
        # Curves would cost a forward pass over all test records each.
        tried = dataclasses.replace(tried, training=dataclasses.replace(tried.training, num_evaluations=1))
        print(" ".join(candidate) or "(as it is)", flush=True)
        for name in arms:
            print(f"    {_unseen(tried, data, name, num_models)}", flush=True)


def _unseen(config: Config, data: FleetData, name: str, num_models: int) -> str:
    """One arm: its mean AUROC on training patients that a model has not seen."""
    start = time.monotonic()
    cohort = data.cohort
    rows = np.flatnonzero(~cohort.is_test[cohort.patient])
    column = np.searchsorted(cohort.train_patients, cohort.patient[rows])
    labels = np.asarray(cohort.labels)[rows]
    membership = draw_membership(config.seed, num_models, len(cohort.train_patients))
    arm = Arm(name) if name in ("none", "matched", "clip") else Arm("private", float(name))  # type: ignore[arg-type]
    mechanism, _ = build_mechanism(config, arm, nominal_units(config))
    values = []
    for index in range(num_models):
        logits = train_fleet_model(config, data, arm, mechanism, index, membership[index]).logits[rows]
        unseen = ~membership[index][column]
        values.append(auroc(logits[unseen], labels[unseen], cohort.task))
    noise = "" if mechanism is None else f"  noise {mechanism.noise_multiplier:.3g}"
    seconds = (time.monotonic() - start) / num_models
    return f"{arm.label:8} {np.mean(values):.4f} ({np.std(values, ddof=1):.4f})  {seconds:.1f} s per model{noise}"


def _parse(arguments: list[str]) -> tuple[int, list[str], list[str], list[list[str]]]:
    parts: list[list[str]] = [[]]
    for argument in arguments[2:]:
        if argument == "--":
            parts.append([])
        else:
            parts[-1].append(argument)
    return int(arguments[0]), arguments[1].split(","), parts[0], parts[1:]


if __name__ == "__main__":
    main(*_parse(sys.argv[1:]))
