"""Question: which single private recipe serves epsilon 8, 3 and 1 on breast_cancer, without looking at test patients?

    python experiments/tune_breast_cancer.py

For each candidate, a fleet is trained on random halves of the TRAINING patients; a model's performance is taken on the
training patients that it has not seen. Test patients are never read. Printed: AUROC on unseen training patients and the
number of patients with a patient AUC of at least 0.9, for `matched` and epsilon 8, 3 and 1.

Because the choice looks at these patients, it is outside epsilon; `conf/training/default.yaml` and the README say so.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np
import torch

from dptrain.attacks.signals import compute_signals
from dptrain.audit.patients import patient_auc, patient_evidence
from dptrain.cli import compose
from dptrain.cohorts.membership import draw_membership
from dptrain.cohorts.registry import load_cohort, nominal_train_patients
from dptrain.config import PrivateRecipe
from dptrain.training.arms import Arm, build_mechanism
from dptrain.training.fleet import FleetData, train_fleet_block
from dptrain.training.utility import auroc

CANDIDATES = [
    PrivateRecipe(learning_rate=1.0, num_steps=40, sampling_rate=1.0),
    PrivateRecipe(learning_rate=2.0, num_steps=30, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=2.0, num_steps=25, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=2.0, num_steps=20, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=1.5, num_steps=30, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=1.0, num_steps=30, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=1.25, num_steps=40, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=1.0, num_steps=40, sampling_rate=1.0, schedule="cosine"),
    PrivateRecipe(learning_rate=2.0, num_steps=30, sampling_rate=1.0, averaging=0.9),
    PrivateRecipe(learning_rate=4.0, num_steps=15, sampling_rate=1.0),
    PrivateRecipe(learning_rate=1.0, num_steps=60, sampling_rate=0.5, averaging=0.9),
]


def main(num_models: int = 64) -> None:
    torch.set_num_threads(1)
    config = compose([])
    cohort = load_cohort(config.data, config.seed)
    data = FleetData.build(cohort, "patient")
    train = cohort.train_patients
    labels, patient = np.asarray(cohort.labels), cohort.patient
    rows = np.flatnonzero(~cohort.is_test[patient])
    column = np.searchsorted(train, patient[rows])
    membership = draw_membership(config.seed, num_models, len(train))
    for recipe in CANDIDATES:
        start = time.monotonic()
        tried = dataclasses.replace(config, training=dataclasses.replace(config.training, private=recipe))
        cells = []
        for arm in (Arm("matched"), *(Arm("private", epsilon) for epsilon in (8.0, 3.0, 1.0))):
            mechanism, _ = build_mechanism(tried, arm, nominal_train_patients(config.data) / 2)
            results = train_fleet_block(tried, data, arm, mechanism, range(num_models), membership)
            logits = np.stack([result.logits[rows] for result in results])
            if not np.isfinite(logits).all():
                cells.append(f"{arm.label}: diverged")
                continue
            unseen = [
                auroc(logits[m][~membership[m][column]], labels[rows][~membership[m][column]], cohort.task)
                for m in range(num_models)
            ]
            evidence = patient_evidence(compute_signals(logits, labels[rows], cohort.task), column, len(train))
            exposed = int((patient_auc(evidence, membership) >= 0.9).sum())
            cells.append(f"{arm.label}: {np.mean(unseen):.4f} ({exposed})")
        print(f"{recipe}\n    {'   '.join(cells)}   {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
