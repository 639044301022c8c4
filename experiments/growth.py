"""How do time and memory of a study grow with its models and its patients?

    python experiments/growth.py                                        (about a minute on two cores)
    python experiments/growth.py --quick                                (smaller sizes)
    python experiments/growth.py --markdown experiments/growth.md

Simulated patients (data=sim_ehr). Three numbers of models for the same patients, three numbers of patients for the
same models, without and with privacy. Time is the processor time of the workers (waiting for other programs is not in
it). Memory is the most that the run and its workers held together: proportional set size, so that shared pages count
once. Patients twice: with batches of the same size (what grows is drawing them, and predictions on all records), and
with batches that grow with the patients, so that everyone is seen as often.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from dptrain import cli
from dptrain.study import runner

MODELS = (16, 32, 64)
PATIENTS = (2000, 4000, 8000)
BATCH = 256


@dataclasses.dataclass(frozen=True)
class Run:
    """One study."""

    num_models: int
    num_patients: int
    batch: int
    processor_s: float
    memory_mb: float


def study(num_models: int, num_patients: int, batch: int, folder: Path) -> None:
    settings = [
        "data=sim_ehr",
        f"data.num_patients={num_patients}",
        f"data.nominal_patients={int(0.7 * num_patients)}",
        "privacy.epsilon=8",
        "privacy.delta=1e-5",
        "privacy.controls=false",
        "baseline.num_models=0",
        f"fleet.num_models={num_models}",
        "fleet.workers=2",
        "training.num_steps=200",
        f"training.batch_size={batch}",
        "training.private.num_steps=100",
        f"training.private.sampling_rate={batch / (0.35 * num_patients):.6g}",
        f"study.dir={folder}",
        "study.name=growth",
    ]
    runner.run_study(cli.compose(settings))


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process and of its children; 0 once it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        own = next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):
        return 0
    return own + sum(pss_bytes(int(child)) for child in children)


def measure(num_models: int, num_patients: int, base: Path, batch: int = BATCH) -> Run:
    """Run a study in a process of its own (`ru_utime` of its children is what the workers used)."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    folder = base / f"{num_models}-{num_patients}"

    def body() -> None:
        study(num_models, num_patients, batch, folder)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        sender.send(used.ru_utime + used.ru_stime)

    process = context.Process(target=body)
    process.start()
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            most[0] = max(most[0], pss_bytes(process.pid or 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = receiver.recv()
    process.join()
    stop.set()
    watcher.join()
    shutil.rmtree(folder)
    return Run(num_models, num_patients, batch, seconds, most[0] / 1e6)


def power(sizes: list[int], values: list[float]) -> float:
    """Exponent of growth: slope of log(value) against log(size); 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    models = tuple(count // 4 for count in MODELS) if given.quick else MODELS
    patients = tuple(count // 2 for count in PATIENTS) if given.quick else PATIENTS
    base = Path(tempfile.mkdtemp(prefix="growth-"))
    begin = time.monotonic()
    by_models = [measure(count, patients[0], base) for count in models]
    by_patients = [by_models[0], *(measure(models[0], count, base) for count in patients[1:])]
    larger = [measure(models[0], count, base, BATCH * count // patients[0]) for count in patients[1:]]
    as_often = [by_models[0], *larger]
    lines = [
        "| models per arm | patients | batch | processor time of the workers (s) | memory (MB) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.num_models} | {run.num_patients} | {run.batch} | {run.processor_s:.1f} | {run.memory_mb:.0f} |"
        for run in [*by_models, *by_patients[1:], *as_often[1:]]
    ]
    time_models = power([run.num_models for run in by_models], [run.processor_s for run in by_models])
    time_patients = power([run.num_patients for run in by_patients], [run.processor_s for run in by_patients])
    time_often = power([run.num_patients for run in as_often], [run.processor_s for run in as_often])
    memory_models = by_models[-1].memory_mb / by_models[0].memory_mb
    lines += [
        "",
        f"Time grows as models^{time_models:.2f}; as patients^{time_patients:.2f} with the same batches, and as "
        f"patients^{time_often:.2f} where everyone is seen as often (1 is linear). "
        f"{models[-1] // models[0]} times the models take {memory_models:.2f} times the memory. "
        f"The whole took {time.monotonic() - begin:.0f} s.",
    ]
    print("\n".join(lines))
    if given.markdown:
        given.markdown.write_text(HEAD + "\n".join(lines) + "\n")


HEAD = """# Growth

Question: do time and memory of a study grow as they should?

    python experiments/growth.py --markdown experiments/growth.md

Two arms (`none`, `eps=8`) of MLPs on simulated patients, 2 workers.

"""


if __name__ == "__main__":
    main()
