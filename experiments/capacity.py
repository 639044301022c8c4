"""Question: does a larger network expose more patients?

    dptrain -m experiment=capacity data=sim_imaging data.image_size=32 model=small_cnn_8,small_cnn,small_cnn_32
    python experiments/capacity.py capacity.png studies/sim_imaging-capacity-*

Takes studies of one data set that differ in the network, in any order. Prints one row per arm and network, smallest
network first, and draws exposed patients and performance against the number of parameters. What chance
alone shows with as many models stands beside every count. Result: experiments/capacity.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = (
    "arm", "parameters", "AUROC on test patients", "patients >= 0.8 (by chance)", "patients >= 0.9 (by chance)",
    "patient AUC, 99th percentile (by chance)", "attack AUC",
)  # fmt: skip
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#5d5d5d")


def main(figure: str, *studies: str) -> None:
    outcomes = [json.loads((Path(study) / "tradeoff.json").read_text()) for study in studies]
    first = outcomes[0]
    for outcome, study in zip(outcomes, studies, strict=True):
        for key in ("cohort", "unit", "num_models", "num_patients", "num_records"):
            if outcome[key] != first[key]:
                raise SystemExit(f"{study}: {key}={outcome[key]}, but {studies[0]} has {first[key]}. Compare equals.")
    arms = sorted(
        ((arm, outcome["model"]) for outcome in outcomes for arm in outcome["arms"]),
        key=lambda pair: (pair[0]["label"] != "none", pair[0]["label"], pair[0]["num_parameters"]),
    )
    data = f"{first['cohort']}{' (SIMULATED)' if first['simulated'] else ''}"
    print(f"{data}, {first['num_patients']} training patients, {first['num_models']} models per network.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for arm, model in arms:
        print(f"| {' | '.join(_row(arm, model))} |")
    _draw([arm for arm, _ in arms], data, first["num_patients"], figure)


def _row(arm: dict[str, Any], model: str) -> list[str]:
    utility, risk = arm["utility"], arm["risk"]
    return [
        arm["label"],
        f"{arm['num_parameters']:,} ({model})",
        f"{utility['mean']:.3f} ({utility['mean_low']:.3f} to {utility['mean_high']:.3f})",
        *(_count(risk["at_least"][threshold]) for threshold in ("0.8", "0.9")),
        f"{risk['patient_auc_p99']:.3f} ({risk['patient_auc_p99_null']:.3f})",
        f"{arm['attack']['auc']:.3f}",
    ]


def _count(found: dict[str, Any]) -> str:
    return f"{found['count']} ({found['null_expected']:.1f}, at most {found['null_high']:.0f})"


def _draw(arms: list[dict[str, Any]], data: str, num_patients: int, figure: str) -> None:
    """Left: patients with a patient AUC of at least 0.8 and 0.9. Right: AUROC. Parameters from left to right."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for label, colour in zip(dict.fromkeys(arm["label"] for arm in arms), COLOURS, strict=False):
        own = [arm for arm in arms if arm["label"] == label]
        parameters = [arm["num_parameters"] for arm in own]
        name = "no privacy" if label == "none" else label
        for threshold, style in (("0.8", "--"), ("0.9", "-")):
            found = [arm["risk"]["at_least"][threshold] for arm in own]
            counts = [f["count"] for f in found]
            low, high = ([f[key] for f in found] for key in ("low", "high"))
            left.plot(parameters, counts, style, color=colour, marker="o", label=f"{name}, at least {threshold}")
            left.vlines(parameters, low, high, color=colour, alpha=0.5)
            chance = [f["null_high"] for f in found]
            left.plot(parameters, chance, style, color="0.6", linewidth=1)
        utility = [arm["utility"] for arm in own]
        right.plot(parameters, [u["mean"] for u in utility], color=colour, marker="o", label=name)
        right.vlines(parameters, [u["mean_low"] for u in utility], [u["mean_high"] for u in utility], color=colour)
    left.plot([], [], color="0.6", linewidth=1, label="at most by chance (97.5%)")
    top = max(arm["risk"]["at_least"]["0.8"]["high"] for arm in arms)
    left.set(ylabel=f"Patients recognised (of {num_patients})", ylim=(0, 1.35 * top + 1), title="Exposed patients")
    bottom, best = (pick(arm["utility"][key] for arm in arms) for pick, key in ((min, "mean_low"), (max, "mean_high")))
    right.set(ylabel="AUROC on test patients", ylim=(bottom - 0.02, best + 0.2 * (best - bottom) + 0.02))
    right.set_title("Diagnostic performance")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="Parameters of the network")
        sizes = sorted({arm["num_parameters"] for arm in arms})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    fig.suptitle(data)
    fig.savefig(figure, dpi=120)
    plt.close(fig)


if __name__ == "__main__":
    main(*sys.argv[1:])
