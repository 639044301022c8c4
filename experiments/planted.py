"""Question: how many planted patients does the list of exposed patients find, without DP and at epsilon 8 and 1?

    python experiments/planted.py                2 cohorts, 64 models per arm: some minutes on one core
    python experiments/planted.py 1 16           1 cohort, 16 models per arm

Simulated patients with three visits each (data=sim_ehr). About 3% are planted as outliers: far from all others, with
the opposite label. An attacker who sees the model's answer on them recognises them best; the list (Benjamini-Hochberg
at a false discovery rate of 5%, `audit/risk.py`) knows nothing of the planting. Beside them: members of a planted rare
group with a label rule of its own, and everybody else. An ordinary patient who is listed is not a false alarm: models
without DP remember ordinary patients too. What the list shows where nothing leaks is in `interval_coverage.md`.

Outcome: `planted.md` beside this file.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dptrain.attacks.signals import compute_signals
from dptrain.audit.risk import FALSE_DISCOVERY_RATE, PatientRisk, patient_risk
from dptrain.cli import compose
from dptrain.study.runner import run_study

EPSILONS = ("inf", "8", "1")
SETTINGS = (
    "data=sim_ehr",
    "data.num_patients=1200",
    "data.nominal_patients=840",
    "data.records_distribution=fixed",
    "data.records_per_patient=3",
    "data.outlier_share=0.03",
    "data.outlier_strength=3",
    "data.outlier_labels=contradict",
    "data.rare_label_rule=own",
    "model.width=16",
    "model.depth=1",
    "fleet.workers=1",
    "training.num_steps=300",
    "training.batch_size=128",
    "training.num_evaluations=1",
)
KINDS = ("outlier", "rare_group", "none")


def risks(seed: int, num_models: int, folder: Path) -> dict[str, tuple[PatientRisk, np.ndarray]]:
    """Risk of every patient and what was planted, by arm."""
    found = {}
    for epsilon in EPSILONS:
        study = run_study(
            compose([*SETTINGS, f"seed={seed}", f"fleet.num_models={num_models}", f"privacy.epsilon={epsilon}",
                     f"study.dir={folder}"])
        )  # fmt: skip
    cohort = study.cohort()
    trained = cohort.train_patients
    place = np.full(cohort.num_patients, -1)
    place[trained] = np.arange(trained.size)
    rows = np.flatnonzero(place[cohort.patient] >= 0)
    planted = np.asarray(cohort.groups["planted"])[trained]
    for label in study.arm_labels():
        if label == "none" or label.startswith("eps="):
            signals = compute_signals(study.logits(label)[:, rows], np.asarray(cohort.labels)[rows], cohort.task)
            rng = np.random.default_rng(seed)
            found[label] = patient_risk(signals, study.membership(), place[cohort.patient[rows]], rng), planted
    return found


def main() -> None:
    """Print one row per arm and kind of patient."""
    num_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    num_models = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    start = time.monotonic()
    counts: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(num_seeds):
        with tempfile.TemporaryDirectory() as folder:
            for label, (risk, planted) in risks(seed, num_models, Path(folder) / "study").items():
                listed = risk.p_adjusted <= FALSE_DISCOVERY_RATE
                for kind in KINDS:
                    inside = planted == kind
                    row = np.array([inside.sum(), listed[inside].sum(), risk.patient_auc[inside].sum()])
                    counts.setdefault((label, kind), []).append(row)
    print(
        f"{num_seeds} cohorts, {num_models} models per arm, list at a false discovery rate of {FALSE_DISCOVERY_RATE}\n"
    )
    print("| arm | kind | patients | listed | share listed | mean patient AUC |\n|---|---|---|---|---|---|")
    for (label, kind), rows in counts.items():
        size, num_listed, total = np.sum(rows, axis=0)
        print(f"| {label} | {kind} | {size:.0f} | {num_listed:.0f} | {num_listed / size:.1%} | {total / size:.3f} |")
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
