"""How often a lower bound on epsilon is wrong, and how far it stays below the truth.

    python experiments/lower_bounds.py > experiments/lower_bounds.txt        (about 3 minutes)
    python experiments/lower_bounds.py --runs 20                            (a first look)

Canaries of mechanisms whose epsilon is known exactly: Gaussian noise on every coin (what DP-SGD is close to) and
randomised response in which with probability delta all coins are shown at once (the worst case for delta). Result and
reading: experiments/lower_bounds.md.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from dptrain.audit.lower_bound import best_over_guesses, coins_of_first_twins
from dptrain.audit.lower_bound_f_dp import f_dp_bound
from dptrain.audit.lower_bound_models import models_bound
from dptrain.audit.lower_bound_one_run import one_run_bound
from tests.oracles.lower_bound_oracles import all_or_nothing, gaussian_scores

TRUE_EPSILONS = (0.0, 0.3, 1.0, 4.0, 8.0)
SIZES = ((1, 64), (1, 1024), (16, 64), (32, 64), (128, 64))
"""(twin pairs or single models, canaries)"""
DELTA = 1e-5
MODELS_CANARIES = 8
"""Clopper-Pearson chooses one canary; that it may choose among all of them costs time and hardly changes its bound."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    bounds = {"one_run": functools.cache(one_run_bound), "f_dp_one_run": functools.cache(f_dp_bound)}
    print(f"{runs} runs per line, delta {DELTA:g}, confidence 95%. wrong: share of bounds above the true epsilon.\n")
    print("| mechanism | models | canaries | method | true epsilon | wrong | mean bound | largest possible |")
    print("|---|---|---|---|---|---|---|---|")
    for name, mechanism in (("Gaussian", gaussian_scores), ("all or nothing", all_or_nothing)):
        for num_pairs, num_canaries in SIZES:
            for epsilon in TRUE_EPSILONS:
                rng = np.random.default_rng([num_pairs, num_canaries, int(10 * epsilon)])
                values: dict[str, list[float]] = {}
                largest: dict[str, float] = {}
                for _ in range(runs):
                    coins = rng.random((num_pairs, num_canaries)) < 0.5
                    membership = np.stack([coins, ~coins], axis=1).reshape(2 * num_pairs, num_canaries)
                    signals = np.stack([mechanism(row, epsilon, DELTA, rng) for row in membership])
                    pair = np.repeat(np.arange(num_pairs), 2)
                    scores, heads = coins_of_first_twins(signals, membership, pair)
                    found = [best_over_guesses(scores, heads, DELTA, key, bound) for key, bound in bounds.items()]
                    if num_pairs > 1:
                        few = slice(0, MODELS_CANARIES)
                        found.append(models_bound(signals[:, few], membership[:, few], pair, DELTA))
                    for one in found:
                        values.setdefault(one.method, []).append(one.epsilon)
                        largest[one.method] = one.largest_possible
                for method, all_values in values.items():
                    wrong = np.mean(np.array(all_values) > epsilon)
                    models = "1" if num_pairs == 1 else str(2 * num_pairs)
                    cells = (f"{wrong:.3f}", f"{np.mean(all_values):.2f}", f"{largest[method]:.2f}")
                    print("|", " | ".join((name, models, str(num_canaries), method, f"{epsilon:g}", *cells)), "|")
                    sys.stdout.flush()
                    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


if __name__ == "__main__":
    main()
