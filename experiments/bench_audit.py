"""Question: does a whole audit of 200 models and 400,000 records take under 2 minutes and 6 GiB on two cores?

    python experiments/bench_audit.py                 the full size: a few minutes
    python experiments/bench_audit.py --quick         small sizes: half a minute
    python experiments/bench_audit.py --json FILE     the figures as JSON too

1. LiRA of one target with 64 references and 20,000 records against the bare masked sums that any implementation needs
   (count, sum and sum of squares of IN and of OUT signals), and against a slow, obvious twin.
2. The whole audit (all ten attacks on all models as targets, null of 200 permutations, intervals, list, cross-fitted
   AUC, subgroups, re-measurement) of float32 signals in twins, each size in a process of its own, with its peak memory;
   ratios of time when models or records are doubled.

Times are of the wall clock, CPU seconds are of both cores. Outcome: `bench_audit.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dptrain.attacks.lira import lira_online
from dptrain.attacks.protocol import ATTACKS
from dptrain.audit.whole import Answers, audit_models

POPULATION = 20_000
LIMIT_S, LIMIT_GIB, LIMIT_RATIO = 120.0, 6.0, 3.0
FULL, QUICK = (200, 400_000), (40, 40_000)


def best_time(function: Callable[[], Any], rounds: int = 9) -> float:
    """Shortest of several runs, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def bare_sums(signals: np.ndarray, membership: np.ndarray) -> list[np.ndarray]:
    """What no attack with references can do without."""
    found = []
    for side in (membership, ~membership):
        weight = side.astype(np.float64)
        inside = signals * weight
        found += [weight.sum(axis=0), inside.sum(axis=0), (inside * signals).sum(axis=0)]
    return found


def slow_twin(signals: np.ndarray, membership: np.ndarray, num_records: int) -> np.ndarray:
    """Per-record online LiRA of the last model, one record after another, as the paper prints it."""
    scores = np.empty(num_records)
    for n in range(num_records):
        log_p = []
        for side in (membership[:-1, n], ~membership[:-1, n]):
            references = signals[:-1, n][side]
            z = (signals[-1, n] - references.mean()) / references.std()
            log_p.append(-0.5 * z * z - np.log(references.std()))
        scores[n] = log_p[0] - log_p[1]
    return scores


def one_target(num_references: int = 64, num_records: int = 20_000) -> dict[str, float]:
    """Part 1."""
    rng = np.random.default_rng(0)
    membership = rng.random((num_references + 1, num_records)) < 0.5
    signals = rng.normal(size=membership.shape) + membership + 5.0 * rng.normal(size=num_records)

    def attack() -> np.ndarray:
        return lira_online(signals, membership, "per_record", targets=[num_references])

    scores = attack()[0]
    lira_s, bare_s = best_time(attack), best_time(lambda: bare_sums(signals[:-1], membership[:-1]))
    return {
        "lira_s": lira_s,
        "bare_sums_s": bare_s,
        "ratio": lira_s / bare_s,
        "largest_difference_from_slow_twin": float(np.abs(scores - slow_twin(signals, membership, num_records)).max()),
    }


def whole_audit(num_models: int, num_records: int) -> dict[str, float]:
    """Part 2, in this process."""
    rng = np.random.default_rng(1)
    num_patients = num_records * 3 // 8
    patient = np.sort(
        np.concatenate([np.arange(num_patients), rng.integers(0, num_patients, num_records - num_patients)])
    )
    half = rng.random((num_models // 2, num_patients)) < 0.5
    membership = np.stack([half, ~half], axis=1).reshape(num_models, num_patients)
    level = rng.normal(size=num_records).astype(np.float32)
    leak = np.where(rng.random(num_patients) < 0.02, 2.0, 0.0)[patient].astype(np.float32)
    signals = rng.standard_normal((num_models, num_records), dtype=np.float32)
    for model in range(num_models):
        signals[model] += level + leak * membership[model, patient]
    groups = {
        "sex": rng.integers(0, 2, num_patients).astype(str),
        "age": rng.integers(0, 8, num_patients).astype(str),
        "origin": rng.choice(12, num_patients, p=np.arange(1, 13) / 78).astype(str),
    }
    population = rng.standard_normal((num_models, min(POPULATION, num_records // 10)), dtype=np.float32)
    answers = Answers(signals, membership, patient, population=population)
    strata = rng.integers(0, 3, num_patients)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    audit = audit_models(answers, ATTACKS, np.random.default_rng(2), groups=groups, strata_P=strata)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(audit.attacks) == len(ATTACKS)
    assert audit.subgroups is not None
    assert audit.remeasured is not None
    return {
        "models": num_models,
        "records": num_records,
        "patients": num_patients,
        "wall_s": wall_s,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_gib": after.ru_maxrss / 2**20,
        "lira_online_auc": audit.attacks["lira_online"].auc.mean,
        "listed": audit.risk.num_listed,
    }


def in_own_process(num_models: int, num_records: int) -> dict[str, float]:
    """`whole_audit` with a peak memory that is its own."""
    command = [sys.executable, __file__, "--one", str(num_models), str(num_records)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the tables; exit with 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(whole_audit(*given.one)))
        return
    single = one_target()
    print("One target, 64 references, 20,000 records (per-record online LiRA)")
    print(f"  LiRA {single['lira_s'] * 1e3:.1f} ms, bare masked sums {single['bare_sums_s'] * 1e3:.1f} ms: "
          f"ratio {single['ratio']:.2f} (limit {LIMIT_RATIO:g})")  # fmt: skip
    print(f"  largest difference from the slow twin: {single['largest_difference_from_slow_twin']:.1e}\n")
    full = QUICK if given.quick else FULL
    sizes = [(full[0] // 4, full[1] // 4), (full[0] // 2, full[1] // 4), (full[0] // 4, full[1] // 2), full]
    print("The whole audit: 10 attacks, every model a target")
    print("models  records  patients   wall s    CPU s  peak GiB")
    rows = []
    for size in sizes:
        row = in_own_process(*size)
        rows.append(row)
        print(
            f"{row['models']:>6}  {row['records']:>7}  {row['patients']:>8}  {row['wall_s']:>7.1f}  "
            f"{row['cpu_s']:>7.1f}  {row['peak_gib']:>8.2f}",
            flush=True,
        )
    growth = {
        "models_doubled": rows[1]["cpu_s"] / rows[0]["cpu_s"],
        "records_doubled": rows[2]["cpu_s"] / rows[0]["cpu_s"],
    }
    print(f"CPU time with twice the models: x{growth['models_doubled']:.2f}; with twice the records: "
          f"x{growth['records_doubled']:.2f}")  # fmt: skip
    missed = [] if single["ratio"] <= LIMIT_RATIO else [f"ratio {single['ratio']:.2f} is above {LIMIT_RATIO:g}"]
    if single["largest_difference_from_slow_twin"] > 1e-9:
        missed.append("LiRA differs from its slow twin")
    if not given.quick:
        missed += [f"{rows[-1]['wall_s']:.0f} s"] if rows[-1]["wall_s"] > LIMIT_S else []
        missed += [f"{rows[-1]['peak_gib']:.1f} GiB"] if rows[-1]["peak_gib"] > LIMIT_GIB else []
    print(f"Missed: {'; '.join(missed) if missed else 'nothing'}")
    if given.json:
        given.json.write_text(json.dumps({"one_target": single, "whole": rows, "growth": growth}, indent=2) + "\n")
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
