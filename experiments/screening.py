"""Question: how far do ranks from one training agree with the risk that a fleet of models measures?

    python experiments/screening.py FOLDER          64 models each: about 10 minutes on two cores

For breast_cancer (real) and sim_ehr (simulated, with planted outliers): a study of the arm `none`, then three screens
with other seeds, so that what one training more would say is seen too. Outcome: `screening.md` beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dptrain.cli import compose
from dptrain.screen.command import screen
from dptrain.study.runner import run_study

DATA = {
    "breast_cancer": ("data=breast_cancer",),
    "sim_ehr": ("data=sim_ehr", "data.max_patients=1500", "data.nominal_patients=1000"),
}
SEEDS = (0, 1, 2)


def main(folder: Path, num_models: int) -> None:
    print("| data | seed of the screen | score | Spearman | at most | top 1% | top 5% | AUC for patient AUC >= 0.8 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, data in DATA.items():
        study = folder / f"study-{name}"
        settings = [*data, "privacy.epsilon=inf", "baseline.num_models=0", f"fleet.num_models={num_models}"]
        run_study(compose([*settings, f"study.dir={study}"]))
        for seed in SEEDS:
            place = folder / f"screen-{name}-{seed}"
            config = compose([*settings, f"screen.study={study}", f"screen.dir={place}", f"screen.seed={seed}"])
            screen(config)
            found = json.loads((place / "screen.json").read_text())["agreement"]
            for score, one in found["scores"].items():
                cells = [shown(one, "spearman"), f"{found['largest_spearman']:.2f}"]
                for top in ("top_0.01", "top_0.05"):
                    block = one[top]
                    cells.append(f"{block['num_shared']} of {block['num_patients']}: {shown(block, 'precision')}")
                cells.append(f"{shown(one, 'exposed_auc')}, {one['num_exposed']} patients")
                print("|", " | ".join([name, str(seed), score, *cells]), "|", flush=True)


def shown(block: dict, name: str) -> str:
    if block[name] is None:
        return "not estimable"
    return f"{block[name]:.2f} ({block[f'{name}_low']:.2f} to {block[f'{name}_high']:.2f})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 64)
