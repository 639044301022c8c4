"""Question: does `dptrain report` of 200,000 patients and 6 arms take under 30 s and 2 GiB, and its page under 5 MB?

    python experiments/bench_report.py --patients 200000 --models 16 --keep /tmp/bench_report

Nothing is trained: a study folder is made up with logits of models that leak a little about everybody and much about a
few, with groups and several records per patient, in the format of a real one; then the real command runs on it in a
process of its own. The parts of the report are printed as shares of the whole, from one run; seconds and memory are
those of that process. The folder is made once and used again if it is there.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dptrain.cli import compose
from dptrain.cohorts.cohort import Cohort
from dptrain.study.blocks import write_block
from dptrain.study.folder import StudyFolder
from dptrain.study.runner import begin_arm
from dptrain.training.arms import arm_from_label
from dptrain.training.fleet import ModelResult

LABELS = ("none", "matched", "clip", "eps=8", "eps=3", "eps=1")
LEAK = {"none": 0.6, "matched": 0.25, "clip": 0.15, "eps=8": 0.05, "eps=3": 0.03, "eps=1": 0.01}
"""Rise of a member's signal, in standard deviations."""
LIMIT_S, LIMIT_BYTES, LIMIT_PAGE = 30.0, 2 * 2**30, 5_000_000
PROFILED = """
import cProfile, pstats, sys
from dptrain.cli import main
profile = cProfile.Profile()
try:
    profile.runcall(main, ["report", sys.argv[1]])
finally:
    stats = pstats.Stats(profile)
    total = stats.total_tt
    rows = sorted(((row[3], name) for name, row in stats.stats.items() if "dptrain" in name[0]), reverse=True)[:40]
    for seconds, (file, line, name) in rows:
        print(f"{seconds / total:6.1%}  {file.split('dptrain/')[-1]}:{line} {name}")
"""


def make_study(path: Path, num_patients: int, num_models: int) -> None:
    """A folder as a finished study leaves it."""
    config = compose(
        [
            f"study.dir={path}",
            "study.name=bench",
            f"data.nominal_patients={num_patients}",
            "data.delta=1e-6",
            f"fleet.num_models={num_models}",
            "privacy.epsilon=8",
            "baseline.num_models=0",
            "training.private.sampling_rate=0.01",
        ]
    )
    rng = np.random.default_rng(0)
    total = int(num_patients / 0.8)
    counts = rng.geometric(1 / 1.3, total)
    patient = np.repeat(np.arange(total), counts)
    is_test = np.zeros(total, dtype=np.bool_)
    is_test[rng.permutation(total)[num_patients:]] = True
    labels = (rng.random(len(patient)) < 0.2).astype(np.int64)
    cohort = Cohort(
        name="bench",
        task="binary",
        features=np.zeros((len(patient), 1), dtype=np.float32),
        labels=labels,
        patient=patient,
        patient_ids=np.array([f"p{index:07d}" for index in range(total)]),
        is_test=is_test,
        label_names=("healthy", "ill"),
        groups={
            "sex": rng.choice(["female", "male"], total),
            "age": rng.choice(["0-20", "20-40", "40-60", "60-80", "80-100"], total),
            "origin": rng.choice(["a", "b", "c", "d", "unknown"], total, p=[0.6, 0.3, 0.07, 0.0299, 0.0001]),
        },
        simulated=True,
    )
    study = StudyFolder.create_or_open(path, config, cohort)
    member_MP = np.zeros((num_models, total), dtype=np.bool_)
    member_MP[:, cohort.train_patients] = study.membership()
    exposed_P = rng.random(total) < 0.001
    sign_N = np.where(labels == 1, 1.0, -1.0)
    steps = np.arange(1, 21) * 20
    for label in LABELS:
        begin_arm(study, arm_from_label(label))
        difficulty_N = rng.normal(1.0, 1.2, len(patient))
        leak_P = LEAK[label] * (1 + 6 * exposed_P)
        for block in study.blocks(label):
            results = []
            for model in study.models(label, block):
                signal_N = difficulty_N + rng.normal(0, 1, len(patient)) + (leak_P * member_MP[model])[patient]
                logits = (sign_N * signal_N).astype(np.float32)[:, None]
                results.append(ModelResult(logits, steps, np.ones(20), np.full(20, 0.8), None))
            write_block(path, label, block, results)


def peak_memory(command: list[str], environment: dict[str, str]) -> int:
    """Run it; largest number of bytes that it and its workers held together (shared pages once), seen every 0.2 s."""
    process = subprocess.Popen(command, env=environment)
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(_held, [process.pid, *_children(process.pid)])))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.returncode)
    return most


def _children(pid: int) -> list[int]:
    try:
        found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*found, *(deeper for one in found for deeper in _children(one))]


def _held(pid: int) -> int:
    """Proportional set size; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Make the study, report it, print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=200_000, help="patients of the training pool")
    parser.add_argument("--models", type=int, default=16, help="models per arm")
    parser.add_argument("--keep", type=Path, help="folder for the study; left there")
    parser.add_argument("--profile", action="store_true", help="also print where the time goes, in a second run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = (options.keep or Path(scratch)) / f"{options.patients}x{options.models}"
        if not (path / "arms" / LABELS[-1] / "arm.json").exists():
            make_study(path, options.patients, options.models)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {**os.environ, **threads, "DPTRAIN_KEY_FILE": str(path.parent / "bench.key")}
        command = [sys.executable, "-m", "dptrain", "report", str(path)]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = used.ru_utime + used.ru_stime
        # Looking at the memory of all processes stops them again and again: a run of its own.
        memory = peak_memory(command, environment)
        page = (path / "report" / "report.html").stat().st_size
        print(f"patients={options.patients} models={options.models} arms={len(LABELS)}")
        for name, value, limit, unit in (
            ("time", seconds, LIMIT_S, "s"),
            ("memory", memory / 2**30, LIMIT_BYTES / 2**30, "GiB"),
            ("page", page / 1e6, LIMIT_PAGE / 1e6, "MB"),
        ):
            print(f"{name:<8}{value:8.2f} {unit:<4} of {limit:g} {unit}: {'met' if value < limit else 'NOT MET'}")
        print(f"busy    {busy:8.2f} s of CPU in all its processes")
        if options.profile:
            subprocess.run([sys.executable, "-c", PROFILED, path], check=True, env=environment)


if __name__ == "__main__":
    main()
