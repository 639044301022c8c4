"""Question: does each 95% interval of the audit cover 93 to 97%, and is nothing found where nothing leaks?

    python experiments/interval_coverage.py               1,000 simulated studies per line: about 15 minutes on one core
    python experiments/interval_coverage.py 200           200 per line
    python experiments/interval_coverage.py 1000 TPR      the lines whose name contains TPR

Each line simulates studies from a design whose truth is known (or is the mean over all simulations, where the figure is
about the study's own expectation), makes the interval and counts how often it holds the truth. The standard error of a
coverage from 1,000 studies is 0.7%. Outcome: `interval_coverage.md` beside this file; `tests/audit/test_coverage.py`
runs the same lines with fewer studies.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dptrain.attacks.protocol import attack_named
from dptrain.audit import (
    benjamini_hochberg,
    exposed_counts,
    null_patient_auc,
    paired_difference,
    patient_attack_auc,
    patient_auc,
    patient_auc_interval,
    remeasure,
    subgroup_differences,
    subgroup_risk,
    summarise_attack,
)
from dptrain.audit.common import common_parts, mean_auc_interval
from dptrain.audit.quantile import quantile_interval
from dptrain.audit.roc import RankedScores

Rng = np.random.Generator
Ends = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One interval in one design."""

    name: str
    design: str
    study: Callable[[Rng], list[tuple[float, Ends]]]
    """One simulated study: (estimate, interval) of one or more figures of the same truth."""
    truth: float | Callable[[], float] | None
    """None: the mean of the estimates over all studies."""
    slower: int = 1
    """Only every so many of the studies are simulated."""

    def coverage(self, num_studies: int, seed: int = 0) -> float:
        """Fraction of intervals that hold the truth."""
        rng = np.random.default_rng(seed)
        found = [one for _ in range(max(20, num_studies // self.slower)) for one in self.study(rng)]
        truth = self.truth() if callable(self.truth) else self.truth
        if truth is None:
            truth = float(np.mean([estimate for estimate, _ in found]))
        return float(np.mean([low <= truth <= high for _, (low, high) in found]))


def twins(num_models: int, num_patients: int, rng: Rng) -> np.ndarray:
    """Memberships in complementary halves."""
    half = rng.random((num_models // 2, num_patients)) < 0.5
    return np.stack([half, ~half], axis=1).reshape(num_models, num_patients)


def leaky(
    num_models: int, num_patients: int, rng: Rng, share: float = 0.1, leak: float = 2.0
) -> tuple[np.ndarray, ...]:
    """Evidence and membership; a share of the patients leaks, by a gamma-distributed amount."""
    membership = twins(num_models, num_patients, rng)
    amount = np.where(rng.random(num_patients) < share, rng.gamma(2.0, leak / 2.0, num_patients), 0.0)
    return rng.normal(size=membership.shape) + amount * membership, membership


def one_patient(num_models: int, area: float) -> Line:
    """The AUC of single patients."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        membership = twins(num_models, 20, rng)
        shift = np.sqrt(2.0) * stats.norm.ppf(area)
        found = patient_auc(rng.normal(size=membership.shape) + shift * membership, membership)
        num_in = membership.sum(axis=0)
        low, high = patient_auc_interval(found, num_in, num_models - num_in)
        return [(a, (b, c)) for a, b, c in zip(found, low, high, strict=True)]

    return Line("AUC of a patient", f"{num_models} models, AUC {area:g}", study, area)


def one_target(num_patients: int, area: float) -> Line:
    """The attack AUC on one model."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        shift = np.sqrt(2.0) * stats.norm.ppf(area)
        ranked = RankedScores(np.sort(rng.normal(size=num_patients) + shift), np.sort(rng.normal(size=num_patients)))
        found = ranked.auc_interval()
        return [(found.value, (found.low, found.high))]

    return Line("attack AUC of one model", f"{num_patients} IN and OUT, AUC {area:g}", study, area)


def tpr(num_patients: int, fpr: float, shift: float) -> Line:
    """TPR at a low FPR on one model."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        ranked = RankedScores(np.sort(rng.normal(size=num_patients) + shift), np.sort(rng.normal(size=num_patients)))
        found = ranked.tpr_at_fpr(fpr)
        return [(found.tpr, (found.low, found.high))]

    truth = float(stats.norm.sf(stats.norm.isf(fpr) - shift))
    design = f"FPR {fpr:g}, {num_patients * fpr:g} false positives expected, TPR {truth:.3f}"
    return Line("TPR at FPR of one model", design, study, truth)


def targets(num_models: int, leak: float) -> Line:
    """The mean AUC over targets that are each other's references."""
    attack = attack_named("lira_online_shrunk").function

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        membership = twins(num_models, 60, rng)
        scores = attack(rng.normal(size=membership.shape) + leak * membership, membership)
        found = summarise_attack(scores, membership, (0.1,)).auc
        return [(found.mean, (found.low, found.high))]

    truth = 0.5 if leak == 0.0 else None
    return Line("mean attack AUC over models", f"{num_models} models, leak {leak:g}", study, truth, slower=4)


def quantile(num_models: int, probability: float, share: float) -> Line:
    """A quantile of the patients' measured AUCs."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        found = quantile_interval(patient_auc(*leaky(num_models, 800, rng, share)), probability)
        return [(found.value, (found.low, found.high))]

    def truth() -> float:
        many = [patient_auc(*leaky(num_models, 20_000, np.random.default_rng(seed), share)) for seed in range(10)]
        return float(np.quantile(np.concatenate(many), probability))

    return Line(f"{probability:.0%} quantile of patients", f"{num_models} models, {share:.0%} leak", study, truth)


def mean(num_models: int, share: float, uneven: float) -> Line:
    """The mean of the patients' AUCs; `uneven` models leak by factors of exp(normal * uneven)."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        membership = twins(num_models, 400, rng)
        strength = np.exp(uneven * rng.normal(size=(num_models, 1)))
        evidence = rng.normal(size=membership.shape) + strength * (rng.random(400) < share) * membership
        found = mean_auc_interval(evidence, membership, rng)
        return [(found.value, (found.low, found.high))]

    design = f"{num_models} models, {share:.0%} leak{', unevenly' if uneven else ''}"
    return Line("mean AUC of patients", design, study, None if share else 0.5, slower=2)


def count(num_models: int, threshold: float, share: float, uneven: float) -> Line:
    """The number of patients above a threshold; `uneven` as in `mean`."""
    rng = np.random.default_rng(9)
    null = null_patient_auc(*leaky(num_models, 400, rng, 0.0), 20, rng)

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        evidence, membership = leaky(num_models, 400, rng, share, 1.5)
        strength = np.exp(uneven * rng.normal(size=(num_models, 1)))
        evidence = np.where(membership, evidence + (strength - 1.0) * (share > 0.0), evidence)
        common = common_parts(evidence, membership, rng, (threshold,)).of_share
        (found,) = exposed_counts(patient_auc(evidence, membership), null, (threshold,), common_share=common)
        return [(found.count, (found.low, found.high))]

    design = f"{num_models} models, {share:.0%} leak{', unevenly' if uneven else ''}"
    return Line(f"patients at {threshold:g} or above", design, study, None, slower=2)


def paired(figure: str, share: float) -> Line:
    """Differences between two arms."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        evidence, membership = leaky(24, 400, rng, share, 3.0)
        other = 0.6 * evidence + 0.8 * rng.normal(size=evidence.shape)
        found = paired_difference(evidence, other, membership, rng, num_resamples=100)
        one = {"mean": found.mean, "median": found.quantiles[0.5], "p99": found.quantiles[0.99],
               "at 0.8": found.counts[0.8]}[figure]  # fmt: skip
        return [(one.estimate, one.both)]

    return Line(f"paired difference: {figure}", f"24 models, {share:.0%} leak", study, None, slower=3)


def groups(kind: str, size: float) -> Line:
    """Effects of a group in one arm and between arms; the group's patients leak more."""

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        group = rng.random(3000) < size
        risk = rng.normal(0.5, 0.1, 3000) + 0.05 * group
        names = {"group": np.where(group, "yes", "no")}
        if kind in ("relative change", "higher"):
            found = subgroup_risk(risk, names, rng, num_permutations=20, num_resamples=200).groups[1]
            one = found.relative_change if kind == "relative change" else found.higher
        else:
            other = 0.5 * (risk - 0.5) + 0.5 + rng.normal(0.0, 0.08, 3000)
            change = subgroup_differences(risk, other, names, rng, num_permutations=20, num_resamples=200)[1]
            one = {"fall": change.fall, "against others": change.against_others,
                   "change of the top": change.relative_change}[kind]  # fmt: skip
        return [(one.value, (one.low, one.high))]

    return Line(f"group: {kind}", f"3000 patients, {size:.0%} of them", study, None, slower=3)


def remeasured(num_models: int, share: float) -> Line:
    """The most exposed patients on the other half of the twins: about these patients, other halves."""
    amount = np.where(np.arange(200) < 200 * share, 1.5, 0.0)
    true_auc = stats.norm.cdf(amount / np.sqrt(2.0))

    def study(rng: Rng) -> list[tuple[float, Ends]]:
        membership = twins(num_models, 200, rng)
        evidence = rng.normal(size=membership.shape) + amount * membership
        found = remeasure(evidence, membership, rng, top_fraction=0.05, num_resamples=100)
        picked = [way.weight_S @ true_auc[way.patient_S] / way.weight_S.sum() for way in found.directions]
        truth, one = float(np.mean(picked)), found.remeasured
        return [(one.value - truth, (one.low - truth, one.high - truth))]

    return Line("most exposed, re-measured", f"{num_models} models, {share:.0%} leak", study, 0.0, slower=3)


LINES = (
    *(one_patient(models, area) for models in (16, 64, 200) for area in (0.5, 0.7, 0.9)),
    *(one_target(patients, area) for patients in (100, 1000) for area in (0.5, 0.6, 0.9)),
    *(tpr(1000, fpr, shift) for fpr in (0.001, 0.005, 0.01, 0.1) for shift in (0.0, 1.0)),
    *(targets(models, leak) for models in (16, 32) for leak in (0.0, 0.5)),
    *(quantile(models, at, share) for models in (16, 64) for at in (0.5, 0.99) for share in (0.0, 0.1)),
    *(mean(16, share, uneven) for share, uneven in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.5), (1.0, 0.5))),
    *(mean(64, share, uneven) for share, uneven in ((0.0, 0.0), (1.0, 0.5))),
    *(count(models, 0.8, share, uneven) for models in (16, 32)
      for share, uneven in ((0.0, 0.0), (0.1, 0.0), (1.0, 0.0), (1.0, 0.4))),
    *(paired(figure, share) for figure in ("mean", "median", "p99", "at 0.8") for share in (0.0, 0.1)),
    *(groups(kind, size) for kind in ("relative change", "higher", "fall", "against others", "change of the top")
      for size in (0.05, 0.4)),
    *(remeasured(models, share) for models in (16, 32) for share in (0.0, 0.1)),
)  # fmt: skip


def null_means(num_models: int, num_patients: int = 40_000, seed: int = 0) -> tuple[float, float]:
    """Mean patient AUC, and mean cross-fitted attack AUC, where nothing leaks."""
    rng = np.random.default_rng(seed)
    membership = twins(num_models, num_patients, rng)
    signals = rng.normal(size=membership.shape) * rng.gamma(2.0, 1.0, num_patients) + 5.0 * rng.normal(
        size=num_patients
    )
    attack = patient_attack_auc(signals, membership, np.arange(num_patients))
    return float(patient_auc(signals, membership).mean()), float(np.nanmean(attack))


def false_alarms(num_models: int, share: float, num_studies: int, seed: int = 0) -> float:
    """Mean share of listed patients who do not leak, at a false discovery rate of 5%."""
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(num_studies):
        membership = twins(num_models, 400, rng)
        leaks = rng.random(400) < share
        evidence = rng.normal(size=membership.shape) + 3.0 * leaks * membership
        null = null_patient_auc(evidence, membership, 50, rng)
        listed = benjamini_hochberg(null.p_values(patient_auc(evidence, membership)), 0.05)
        rates.append((listed & ~leaks).sum() / max(int(listed.sum()), 1))
    return float(np.mean(rates))


def main() -> None:
    """Print every line, then what shows where nothing leaks."""
    num_studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    print("| interval | design | covered |\n|---|---|---|")
    start = time.monotonic()
    for line in LINES:
        if wanted in line.name:
            print(f"| {line.name} | {line.design} | {line.coverage(num_studies):.1%} |", flush=True)
    if wanted:
        return
    print("\n| models | mean patient AUC, no leakage | mean cross-fitted attack AUC |\n|---|---|---|")
    for num_models in (16, 32, 64, 128):
        print("| {} | {:.4f} | {:.4f} |".format(num_models, *null_means(num_models)), flush=True)
    print("\n| models | share that leaks | false alarms on the list (nominal 5%) |\n|---|---|---|")
    for num_models in (16, 64):
        for share in (0.0, 0.1):
            rate = false_alarms(num_models, share, max(50, num_studies // 3))
            print(f"| {num_models} | {share:.0%} | {rate:.1%} |", flush=True)
    print(f"\n{num_studies} studies per line (fewer for the slow ones), {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
