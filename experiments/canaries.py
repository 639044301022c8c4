"""Question: how much of the accounted epsilon do planted canaries prove on real trainings, and what do they cost?

    python experiments/canaries.py FOLDER           32 models per arm: about 10 minutes on two cores

breast_cancer with the usual network (30 features: canaries are not orthogonal), and simulated ECGs with a linear model
(12,000 features: each canary has a direction of its own). Outcome: `canaries.md` beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dptrain.cli import compose
from dptrain.report.write import write_report
from dptrain.study.runner import run_study

DATA = {
    "breast_cancer, mlp": ("data=breast_cancer",),
    "sim_ecg, linear": (
        "data=sim_ecg",
        "data.max_patients=200",
        "model=linear",
        "training.num_steps=50",
        "training.private.num_steps=10",
    ),
}
EPSILONS = ("8", "3", "1")
CANARIES = (0, 16, 64)


def main(folder: Path, num_models: int) -> None:
    print("| data, network | canaries | arm | epsilon | performance | lower bound | largest possible | right guesses |")
    print("|---|---|---|---|---|---|---|---|")
    for name, data in DATA.items():
        for num in CANARIES:
            study = folder / f"{name.split(',')[0]}-{num}"
            for epsilon in EPSILONS:
                settings = [
                    *data,
                    f"privacy.epsilon={epsilon}",
                    "privacy.controls=false",
                    "baseline.num_models=0",
                    f"fleet.num_models={num_models}",
                    f"audit.canaries={num}",
                    "attack.num_permutations=20",
                    "attack.num_bootstrap=20",
                    f"study.dir={study}",
                ]
                run_study(compose(settings))
            write_report(study, tensorboard_runs=False)
            for arm in json.loads((study / "tradeoff.json").read_text())["arms"]:
                bound = arm["lower_bound"]
                epsilon = "none" if arm["epsilon"] is None else f"{arm['epsilon']:.2f}"
                cells = ["-"] * 3 if bound is None else [
                    f"{bound['epsilon_lower_bound']:.2f}",
                    f"{bound['largest_possible']:.2f}",
                    f"{bound['num_correct']} of {bound['num_guesses']}",
                ]  # fmt: skip
                utility = arm["utility"]
                shown = f"{utility['mean']:.3f} ({utility['mean_low']:.3f} to {utility['mean_high']:.3f})"
                print("|", " | ".join([name, str(num), arm["label"], epsilon, shown, *cells]), "|", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32)
