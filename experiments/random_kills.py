"""Kill a running study at random moments and finish it: are the bytes those of a study that nobody disturbed?

    python experiments/random_kills.py --kills 50          (some minutes on two cores; --kills 5 for one)
    python experiments/random_kills.py --kills 50 --markdown experiments/random_kills.md

Each round takes a new folder, kills the study --kills-per-round times (SIGKILL, at a random moment) and lets it run to
its end. What is killed is drawn at random: the run alone, the run with its workers, or one worker. Compared are the
charts, the tables, the membership and every block of every arm; no claim and no half-written block may be left.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from dptrain import cli
from dptrain.report.write import write_report
from dptrain.study import runner
from dptrain.study.drawing import draw_once, last_drawing

SETTINGS = (
    "privacy.epsilon=8",
    "privacy.controls=false",
    "fleet.num_models=8",
    "fleet.block_size=1",
    "fleet.workers=2",
    "baseline.num_models=0",
    "training.num_steps=100",
    "training.private.num_steps=30",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
    "study.tensorboard=false",
)
OUTCOME = ("tradeoff.json", "tradeoff.csv", "tradeoff.png", "tradeoff.svg", "study.json", "restricted/membership.npy")
TARGETS = ("run", "run and workers", "worker")


def run(folder: Path) -> None:
    """What `dptrain` does after it has read its settings, except that it times no plan."""
    drawn = last_drawing(folder)
    study = runner.run_study(cli.compose([*SETTINGS, f"study.dir={folder}", "study.name=random_kills"]))
    draw_once(study, drawn, lambda: write_report(study.path, tensorboard_runs=False), is_shard=False)


def run_alone(folder: Path) -> None:
    os.setpgid(0, 0)
    run(folder)


def start(folder: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=run_alone, args=(folder,))
    process.start()
    return process


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that must be the same; a claim or a temporary file among the blocks would be in it too."""
    files = [folder / name for name in OUTCOME]
    files += [path for path in (folder / "restricted" / "blocks").rglob("*") if path.is_file()]
    files += [path for path in (folder / "restricted" / "cohort").rglob("*") if path.is_file()]
    files += sorted((folder / "arms").rglob("arm.json"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def children(pid: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(process: multiprocessing.process.BaseProcess, target: str) -> bool:
    """Whether there was something to kill."""
    assert process.pid is not None
    try:
        if target == "worker":
            os.kill(random.choice(children(process.pid)), signal.SIGKILL)
            return True
        if not process.is_alive():
            return False
        (os.killpg if target == "run and workers" else os.kill)(process.pid, signal.SIGKILL)
        return True
    except (IndexError, FileNotFoundError, ProcessLookupError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kills-per-round", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    random.seed(given.seed)
    base = Path(tempfile.mkdtemp(prefix="random_kills-"))
    cli.configure_logging()
    # In this process: libraries and the preflight are then there for all runs, which are forked from it, and kills hit
    # trainings instead of imports.
    run(base / "whole")
    begin = time.monotonic()
    start(base / "timed").join()
    whole_s = time.monotonic() - begin
    assert digests(base / "timed") == digests(base / "whole")
    expected = digests(base / "whole")
    killed: Counter[str] = Counter()
    found: Counter[str] = Counter()
    rounds = same = 0
    while sum(killed.values()) < given.kills:
        folder = base / f"round-{rounds}"
        hits = 0
        process = start(folder)
        while hits < min(given.kills_per_round, given.kills - sum(killed.values())):
            process.join(random.uniform(0.0, 0.4 * whole_s))
            target = random.choice(TARGETS)
            finished = len(list((folder / "restricted" / "blocks").rglob("*.npz")))
            if kill(process, target):
                hits += 1
                killed[target] += 1
                stage = "before the first block" if not finished else "between blocks"
                found["while drawing" if finished >= len(expected_blocks(expected)) else stage] += 1
            if not process.is_alive() or target != "worker":
                process.join()
                process = start(folder)
        process.join()
        # A worker that died while nothing else was to do, or too many in a row, ends a run with an error: go on.
        while process.exitcode != 0:
            process = start(folder)
            process.join()
        rounds += 1
        is_same = digests(folder) == expected
        same += is_same
        print(f"round {rounds}: {hits} kills, {'same bytes' if is_same else 'OTHER BYTES: ' + str(folder)}", flush=True)
        if is_same:
            shutil.rmtree(folder)
    text = (
        f"{sum(killed.values())} kills ({', '.join(f'{count} of {name}' for name, count in sorted(killed.items()))}) "
        f"in {rounds} rounds; {', '.join(f'{count} {name}' for name, count in sorted(found.items()))}. "
        f"{same} of {rounds} studies ended with the same {len(expected)} files, byte by byte. "
        f"Undisturbed the study took {whole_s:.0f} s, with kills {(time.monotonic() - begin - whole_s) / rounds:.0f} s."
    )
    print(text)
    if given.markdown:
        given.markdown.write_text(f"{HEAD}\n{text}\n")
    if same == rounds:
        shutil.rmtree(base)
    raise SystemExit(0 if same == rounds else 1)


def expected_blocks(expected: dict[str, str]) -> list[str]:
    return [name for name in expected if name.startswith("restricted/blocks/")]


HEAD = """# Random kills

Question: does a study end with the same bytes whatever is killed on its way?

    python experiments/random_kills.py --kills 50 --markdown experiments/random_kills.md

The study: breast_cancer, 2 arms of 8 models in blocks of one, 2 workers, chart included. SIGKILL comes at a random
moment, five times on the way to one study's end.
"""


if __name__ == "__main__":
    main()
