"""Question: what does privacy cost at epsilon 0.5, 1, 3 and 8, beside logistic regression with the same privacy?

    python experiments/utility.py breast_cancer
    python experiments/utility.py diabetes130 data.path=FOLDER

Five seeds; each seed is a study of its own, with its own split, halves, initial weights and noise. Printed: AUROC on
test patients, mean over seeds and standard deviation between seeds (the models of a seed are averaged first). The
models are trained on halves of the training patients, like those of every study.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import numpy as np

from dptrain.cli import compose
from dptrain.report.analysis import analyse
from dptrain.study.runner import run_study

EPSILONS = (0.5, 1, 3, 8)
NUM_SEEDS = 5
NUM_MODELS = 4


def main(data: str, *overrides: str) -> None:
    logging.disable(logging.INFO)
    network: dict[str, list[float]] = {}
    baseline: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(NUM_SEEDS):
            path = Path(folder) / str(seed)
            common = [
                f"data={data}", *overrides, f"seed={seed}", f"study.dir={path}", f"fleet.num_models={NUM_MODELS}",
                f"baseline.num_models={NUM_MODELS}", "privacy.controls=false", "attack.num_permutations=20",
                "attack.num_bootstrap=20",
            ]  # fmt: skip
            for epsilon in EPSILONS:
                study = run_study(compose([*common, f"privacy.epsilon={epsilon}"]))
            for arm in analyse(study).arms:
                assert arm.baseline is not None
                network.setdefault(arm.label, []).append(arm.utility.mean.value)
                baseline.setdefault(arm.label, []).append(arm.baseline.utility.mean.value)
            print(f"seed {seed} done", file=sys.stderr, flush=True)
    model = compose([f"data={data}", *overrides]).model.name
    print(f"| {data} | {model} | logistic regression |\n|---|---|---|")
    for label, values in network.items():
        print(f"| {label} | {_cell(values)} | {_cell(baseline[label])} |")


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ({np.std(values, ddof=1):.4f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
