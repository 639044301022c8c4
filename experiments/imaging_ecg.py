"""Question: what do epsilon 1 and 8 cost, and what do they protect, on ECGs, films and MRI slices?

    dptrain -m data=medmnist ... study.name=pneumoniamnist privacy.epsilon=1,8,inf
    python experiments/imaging_ecg.py studies/pneumoniamnist

Prints one row per arm of each study: performance, risk beside what chance alone shows with as many models, and the wall
time of the arm with its baselines on the machine that trained it (by the times of its files, so only of studies that
ran in one go). Commands and results: experiments/imaging_ecg.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    "arm", "AUROC on test patients", "logistic regression", "attack AUC", "limit of attack AUC",
    "patient AUC, 99th percentile (by chance)", "patients >= 0.8 (by chance)", "wall time",
)  # fmt: skip


def main(*studies: str) -> None:
    for study in map(Path, studies):
        outcome = json.loads((study / "tradeoff.json").read_text())
        print(f"{outcome['cohort']}, {outcome['model']}, unit {outcome['unit']}: {outcome['num_patients']} training "
              f"and {outcome['num_test_patients']} test patients, {outcome['num_models']} models.\n")  # fmt: skip
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        times = wall_times(study, [arm["label"] for arm in outcome["arms"]])
        for arm in outcome["arms"]:
            print(f"| {' | '.join(_row(arm, times[arm['label']]))} |")
        for arm in outcome["arms"]:
            if "per_label" in arm["utility"]:
                each = ", ".join(f"{name} {one['mean']:.3f}" for name, one in arm["utility"]["per_label"].items())
                print(f"\nAUROC, {arm['label']}: {each}")
            if "patient_level" in arm:
                records, epsilon = (arm["patient_level"][name] for name in ("records", "epsilon"))
                each = ", ".join(f"{epsilon[key]:.4g} with {records[key]} records" for key in ("p50", "p90", "max"))
                print(f"\nEpsilon of a patient, {arm['label']} (median, 90th percentile, most records): {each}")
        print()


def wall_times(study: Path, labels: list[str]) -> dict[str, float]:
    """Seconds by arm: from the last file of the arm before it, or its own record if that is later, to its own last."""
    last = {label: [file.stat().st_mtime for file in _blocks(study, label)] for label in labels}
    order = sorted(labels, key=lambda label: max(last[label]))
    start = 0.0
    found = {}
    for label in order:
        found[label] = max(last[label]) - max(start, (study / "arms" / label / "arm.json").stat().st_mtime)
        start = max(last[label])
    return found


def _blocks(study: Path, label: str) -> list[Path]:
    places = (study / "restricted" / "blocks" / label, study / "restricted" / "blocks" / "baseline" / label)
    return [file for place in places for file in place.rglob("block-*.npz")]


def _row(arm: dict[str, Any], seconds: float) -> list[str]:
    utility, risk, cap = arm["utility"], arm["risk"], arm["cap"]
    found = risk["at_least"]["0.8"]
    return [
        arm["label"],
        f"{utility['mean']:.3f} ({utility['mean_low']:.3f} to {utility['mean_high']:.3f})",
        "" if arm["baseline"] is None else f"{arm['baseline']['utility']['mean']:.3f}",
        f"{arm['attack']['auc']:.3f}",
        "" if cap is None else f"{cap['auc']:.3f}",
        f"{risk['patient_auc_p99']:.3f} ({risk['patient_auc_p99_null']:.3f})",
        f"{found['count']} ({found['null_expected']:.1f}, at most {found['null_high']:.0f})",
        f"{seconds:.0f} s",
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
