"""How fast fleets train: samples of one model per second, against Opacus as it is used today and against no privacy.

    python experiments/bench_fleet.py --quick --json bench.json        # three minutes
    python experiments/bench_fleet.py                                  # figures of bench_fleet.md
    python experiments/bench_fleet.py --growth                         # time and memory by models and patients
    python experiments/bench_fleet.py --quick --processor-time         # on a machine that has other work to do

Opacus: hooks with `DPDataLoader`, one model after another, one process with two threads, the allocator as it comes.
Ours: `train_fleet_block` as the workers of a study call it, two processes with one thread each. Plain: the same for the
arm `matched` (same batches, no clipping, no noise). Floor: what a forward and a backward pass cost in floating-point
operations, over the rate of the fastest matrix product measured on the same cores at the same time.

Ratios are of medians over rounds in which all variants take turns, in new processes. A fleet's time is that of its
steps: two trainings of different length are subtracted, so that start and evaluation are not in it.

With `--processor-time` every variant runs alone, in one process with one thread, and its rate is per second of its own
processor time: that hardly depends on what else the machine does. Opacus with two threads is at most twice as fast as
with one, and two processes of ours share memory, so both ratios are those of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLOCK = time.process_time if os.environ.get("BENCH_PROCESSOR_TIME") else time.perf_counter
ROUNDS = 5
GROWTH_STEPS = 150
TARGETS = {"ehr": (50.0, 0.9), "ecg": (2.5, 0.8), "img28": (2.6, 0.8), "img64": (3.0, 0.8)}
"""Private against Opacus, private against plain."""


@dataclass(frozen=True)
class Workload:
    """A network, its records, and how many of them are in a step."""

    model: str
    options: dict[str, Any]
    shape: tuple[int, ...]
    batch: int
    num_patients: int
    seconds_per_step: float
    """Guess of a step of one model, for the length of a measurement."""
    quick_rounds: int = 1
    """Rounds with `--quick`; Opacus's rate on small networks differs by half from process to process."""


WORKLOADS = {
    "ehr": Workload("mlp", {"width": 128, "depth": 2}, (64,), 256, 4096, 0.0006, 3),
    "ecg": Workload("resnet1d", {"maps": 27, "depth": 3, "num_groups": 9}, (12, 500), 128, 1024, 0.1),
    "img28": Workload("wrn", {"depth": 10, "num_groups": 8}, (1, 28, 28), 128, 1024, 0.12),
    "img64": Workload("wrn", {"depth": 16, "num_groups": 8}, (1, 64, 64), 128, 512, 0.6),
}


def config_and_data(work: Workload, num_steps: int, num_patients: int | None = None) -> tuple[Any, Any]:
    """A study of random records with one record per patient."""
    from dptrain.cohorts.cohort import Cohort
    from dptrain.config import (
        AttackConfig,
        Config,
        DataConfig,
        FleetConfig,
        ModelConfig,
        PrivacyConfig,
        PrivateRecipe,
        StudySettings,
        TrainingConfig,
    )
    from dptrain.training.fleet import FleetData

    patients = num_patients or work.num_patients
    rng = np.random.default_rng(0)
    features = rng.standard_normal((patients + 8, *work.shape), dtype=np.float32)
    labels = rng.integers(0, 2, patients + 8)
    ids = np.array([f"p{index}" for index in range(patients + 8)])
    is_test = np.arange(patients + 8) >= patients
    cohort = Cohort("bench", "multiclass", features, labels, np.arange(patients + 8), ids, is_test, ("no", "yes"))
    private = PrivateRecipe(learning_rate=0.05, num_steps=num_steps, sampling_rate=2 * work.batch / patients)
    config = Config(
        StudySettings("bench", "unused"),
        DataConfig("bench", nominal_patients=patients, delta=1e-6),
        ModelConfig(work.model, work.options),
        TrainingConfig(num_steps=num_steps, num_evaluations=1, private=private),
        PrivacyConfig(epsilon=8.0, delta=1e-6),
        FleetConfig(num_models=4),
        AttackConfig(),
    )
    return config, FleetData.build(cohort, "patient")


def fleet_seconds(work: Workload, label: str, num_steps: int, num_models: int, patients: int | None = None) -> float:
    """Time of `train_fleet_block` for one block."""
    from dptrain.privacy.mechanism import Mechanism
    from dptrain.training.arms import arm_from_label
    from dptrain.training.fleet import train_fleet_block
    from dptrain.training.speed import SpeedConfig

    config, data = config_and_data(work, num_steps, patients)
    speed = SpeedConfig.read(json.loads(os.environ.get("BENCH_SPEED", "{}")))
    recipe = config.training.private
    mechanism = Mechanism("patient", recipe.sampling_rate, 1.0 if label != "matched" else 0.0, 1.0, num_steps,
                          float(work.batch), 1e-6)  # fmt: skip
    members = np.random.default_rng(1).random((num_models, len(data.cohort.train_patients))) < 0.5
    start = CLOCK()
    train_fleet_block(config, data, arm_from_label(label), mechanism, range(num_models), members, speed)
    return CLOCK() - start


def ours(name: str, label: str, seconds: float) -> float:
    """Samples per second of one process."""
    import torch

    from dptrain.training.allocator import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    work = WORKLOADS[name]
    num_models = 4 if name == "ehr" else 1
    steps = max(int(seconds / (work.seconds_per_step * num_models)), 3)
    few = max(steps // 6, 1)
    fleet_seconds(work, label, few, num_models)
    short = fleet_seconds(work, label, few, num_models)
    long = fleet_seconds(work, label, few + steps, num_models)
    return steps * num_models * work.batch / (long - short)


def opacus(name: str, seconds: float) -> float:
    """Samples per second of Opacus's hooks on batches of `DPDataLoader`."""
    import warnings

    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    from dptrain.config import ModelConfig
    from dptrain.models.registry import build_model

    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work = WORKLOADS[name]
    num = work.num_patients // 2
    data = TensorDataset(torch.randn(num, *work.shape), torch.randint(0, 2, (num,)))
    model = build_model(ModelConfig(work.model, work.options), work.shape, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=DataLoader(data, batch_size=work.batch), noise_multiplier=1.0,
        max_grad_norm=1.0,
    )  # fmt: skip
    loss = torch.nn.CrossEntropyLoss()
    start, steps, warm = 0.0, 0, 2
    while True:
        for features, labels in loader:
            if warm == 0:
                start = CLOCK()
            warm -= 1
            optimizer.zero_grad()
            loss(model(features), labels).backward()
            optimizer.step()
            steps += warm < 0
            if warm < 0 and CLOCK() - start > seconds:
                return steps * work.batch / (CLOCK() - start)


def gemm_rate() -> float:
    """Floating-point operations per second of the better of two libraries on a product that fits the cache."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    best = 0.0
    for precision in ("none", "bf16"):
        torch.backends.mkldnn.matmul.fp32_precision = precision
        for _ in range(3):
            start = CLOCK()
            for _ in range(20):
                a @ b
            best = max(best, 20 * 2 * 512**3 / (CLOCK() - start))
    return best


def operations(name: str) -> float:
    """Floating-point operations of a forward and a backward pass of one record."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dptrain.config import ModelConfig
    from dptrain.models.registry import build_model

    work = WORKLOADS[name]
    model = build_model(ModelConfig(work.model, work.options), work.shape, 2)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(8, *work.shape)).sum().backward()
    return counter.get_total_flops() / 8


def children(num: int, *arguments: str, threads: int = 1) -> list[list[float]]:
    """What so many processes at the same time print. They are new each time: how fast Opacus is depends on what its
    process did before, and differs from process to process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--child", *arguments]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(num)]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{arguments} failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def measure(names: list[str], rounds: int, seconds: float, alone: bool) -> dict[str, dict[str, float]]:
    """{workload: {opacus, private, plain, floor, ratio, ...}}, samples per second. 0 rounds: as many as quick ones."""
    results = {}
    for name in names:
        found: dict[str, list[float]] = {variant: [] for variant in ("opacus", "private", "plain", "gemm")}
        for _ in range(rounds or WORKLOADS[name].quick_rounds):
            for variant, rates in found.items():
                num, threads = (1, 1) if alone else (1, 2) if variant == "opacus" else (2, 1)
                rates.append(sum(rate for (rate,) in children(num, variant, name, str(seconds), threads=threads)))
        middle = {key: statistics.median(values) for key, values in found.items()}
        floor = middle.pop("gemm") / operations(name)
        ratio = middle["private"] / middle["opacus"]
        results[name] = {**middle, "floor": floor, "ratio": ratio, "of_plain": middle["private"] / middle["plain"],
                         "all_opacus": found["opacus"], "all_private": found["private"]}  # fmt: skip
        show(name, results[name])
    return results


def show(name: str, row: dict[str, float]) -> None:
    """One line of the table."""
    against_opacus, against_plain = TARGETS[name]
    print(
        f"| {name:<6}| {row['opacus']:>9,.0f} | {row['private']:>9,.0f} | {row['plain']:>9,.0f} "
        f"| {row['floor']:>10,.0f} "
        f"| {row['ratio']:>6.1f} ({against_opacus:g}) | {row['of_plain']:>5.2f} ({against_plain:g}) |",
        flush=True,
    )


def growth() -> None:
    """Seconds and peak memory of a process that trains more models, or models of more patients."""
    print("| models | patients | records in all steps | seconds | per record, relative | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    first = 0.0
    for models, patients in ((8, 2048), (16, 2048), (32, 2048), (8, 4096), (8, 8192)):
        records = models * GROWTH_STEPS * WORKLOADS["ehr"].batch * patients // 2048
        seconds, memory = children(1, "growth", str(models), str(patients))[0]
        first = first or seconds / records
        relative = seconds / records / first
        print(f"| {models} | {patients} | {records:,} | {seconds:.2f} | {relative:.2f} | {memory:.0f} |")


def grown(num_models: int, patients: int) -> tuple[float, float]:
    """Processor seconds and peak memory (MB) of one process that trains so many models in blocks of four."""
    from dptrain.training.allocator import keep_freed_memory

    keep_freed_memory()
    work = dataclasses.replace(WORKLOADS["ehr"], batch=WORKLOADS["ehr"].batch * patients // 2048)
    fleet_seconds(work, "eps=8", 2, 4, patients)
    start = time.process_time()
    for _ in range(num_models // 4):
        fleet_seconds(work, "eps=8", GROWTH_STEPS, 4, patients)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(kind: str, name: str, value: str) -> tuple[float, ...]:
    """One measurement in a process of its own."""
    if kind == "growth":
        return grown(int(name), int(value))
    if kind == "opacus":
        return (opacus(name, float(value)),)
    if kind == "gemm":
        return (gemm_rate(),)
    return (ours(name, "matched" if kind == "plain" else "eps=8", float(value)),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child)))
        return
    if arguments.growth:
        growth()
        return
    print("| fleet | Opacus | private | plain | floor | private/Opacus (target) | private/plain (target) |")
    print("|---|---|---|---|---|---|---|")
    rounds, seconds = (0, 2.0) if arguments.quick else (ROUNDS, 6.0)
    if arguments.processor_time:
        os.environ["BENCH_PROCESSOR_TIME"] = "1"
    results = measure(arguments.only.split(","), rounds, seconds, arguments.processor_time)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
