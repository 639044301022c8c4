"""Processor time and page faults of a private step with glibc's defaults and with `keep_freed_memory`, in one run.

    python experiments/bench_allocator.py
"""

from __future__ import annotations

import resource

import numpy as np
import torch
from torch import nn

from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.mechanism import Mechanism
from dptrain.training.allocator import keep_freed_memory
from dptrain.training.losses import binary_loss

RECORDS, FEATURES, UNITS, STEPS = 5000, 200, 3500, 3


def use() -> np.ndarray:
    """Processor seconds and page faults of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([used.ru_utime + used.ru_stime, used.ru_minflt])


def measure(max_records: int) -> np.ndarray:
    """Per step, after a step that warms up."""
    torch.manual_seed(0)
    features, labels = torch.randn(RECORDS, FEATURES), (torch.rand(RECORDS) < 0.1).long()
    owner = torch.sort(torch.randint(0, UNITS, (RECORDS,))).values
    owner = torch.unique_consecutive(owner, return_inverse=True)[1]
    units = np.arange(int(owner.max()) + 1)
    model = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    mechanism = Mechanism("patient", 1.0, 1.0, 1.0, STEPS + 1, float(UNITS), 1e-5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    everyone = np.ones(len(units), dtype=bool)
    engine = PrivateEngine(model, binary_loss, optimizer, mechanism, torch.Generator(), everyone)
    engine.step(features, labels, owner, units, max_records)
    before = use()
    for _ in range(STEPS):
        engine.step(features, labels, owner, units, max_records)
    return (use() - before) / STEPS


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    sizes = (256, 1024, 4096)
    defaults = [measure(size) for size in sizes]
    if not keep_freed_memory():
        print("This C library has no mallopt; nothing to compare.")
        return
    kept = [measure(size) for size in sizes]
    print("records per pass   defaults: s, page faults   kept: s, page faults   ratio of s")
    for size, old, new in zip(sizes, defaults, kept, strict=True):
        print(f"{size:>16}   {old[0]:>11.2f} {old[1]:>12.0f}   {new[0]:>8.2f} {new[1]:>12.0f}   {old[0] / new[0]:.2f}")


if __name__ == "__main__":
    main()
