"""`fleet.num_models=auto`: how many models a study has so far, and when it gets more.

    fleet.json      num_models now, and one entry per time that the study was looked at

A study begins with `FIRST` models per arm. When every arm of a run is complete, its headline intervals are looked at
(the caller does that: a study does not know how it is judged). If one is wider than asked, all arms get more twins, up
to `fleet.max_models`. The number only grows, so an arm that another run finished with fewer models is completed by
whoever asked for more: in the end all arms have the same number.

Memberships of all `fleet.max_models` are drawn when the study is created; which of them are used changes no coin.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dptrain.errors import StudyError
from dptrain.study.atomic import write_json
from dptrain.study.claims import Watch, claim

FILE = "fleet.json"
AUTO = "auto"
FIRST = 32
"""Models to begin with: with fewer, many patients have an AUC of exactly 1 and intervals mean little."""
MOST_GROWTH = 2
"""A narrow look at few models may ask for too many: the number is at most doubled at a time."""
POLL_S = 0.5
log = logging.getLogger(__name__)


def models_at_first(block_size: int, num_baselines: int, max_models: int) -> int:
    """Models per arm of a new study: whole blocks, whole twins, and no fewer than the baseline's."""
    return min(_up(max(FIRST, num_baselines), _step(block_size)), largest_fleet(block_size, max_models))


def largest_fleet(block_size: int, max_models: int) -> int:
    """`max_models` in whole blocks and twins: a block that was finished must never get further models."""
    step = _step(block_size)
    return max(step, max_models // step * step)


def begin(path: Path, num_models: int) -> None:
    """Write the state of a new study."""
    write_json(path / FILE, {"num_models": num_models, "looks": []})


def state(path: Path) -> dict[str, Any]:
    """`num_models` and `looks` of a study that grows; raises StudyError if they are not readable."""
    try:
        content: dict[str, Any] = json.loads((path / FILE).read_text())
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path / FILE} says how many models the study has, and cannot be read: {error}. Restore it from a backup."
        ) from error
    return content


def grow(
    path: Path, look: Callable[[], Mapping[str, float]], fleet: Mapping[str, Any], block_size: int, seen: int
) -> bool:
    """Enter a look at `seen` models per arm, and ask for more where an interval is too wide; True if there is more to
    train.

    Args:
        path: of the study.
        look: gives the width of the headline's interval by arm; infinite where it cannot be told yet.
        fleet: the frozen settings: headline, headline_width, max_models.
        block_size: of the study.
        seen: models per arm when it was looked at.
    """
    watch = Watch()
    while True:
        with claim(path / "restricted" / "fleet", watch, longest_step_s=3600) as ours:
            if ours:
                return state(path)["num_models"] != seen or _grow(path, look(), fleet, block_size, seen)
        time.sleep(POLL_S)


def _grow(path: Path, widths: Mapping[str, float], fleet: Mapping[str, Any], block_size: int, seen: int) -> bool:
    before = state(path)
    wanted, most = float(fleet["headline_width"]), largest_fleet(block_size, int(fleet["max_models"]))
    widest = max(widths, key=lambda label: widths[label])
    asked = _asked(seen, widths[widest], wanted, most, block_size)
    finite = {label: round(width, 6) if math.isfinite(width) else None for label, width in sorted(widths.items())}
    verdict = "narrow enough" if widths[widest] <= wanted else "max_models" if asked == seen else "more"
    looks = [look for look in before["looks"] if look["num_models"] != seen]
    earlier: dict[str, float | None] = {}
    for look in before["looks"]:
        earlier |= look["widths"] if look["num_models"] == seen else {}
    looks.append({"num_models": seen, "widths": {**earlier, **finite}, "verdict": verdict})
    write_json(path / FILE, {"num_models": asked, "looks": looks})
    shown = "cannot be told yet" if finite[widest] is None else f"is {widths[widest]:.3g} wide"
    if verdict == "narrow enough":
        log.info("%d models per arm are enough: no interval of %s is wider than %g.", seen, fleet["headline"], wanted)
    elif verdict == "max_models":
        log.warning(
            "With %d models per arm (fleet.max_models) the interval of %s in arm %s %s, wider than %g as asked.",
            seen,
            fleet["headline"],
            widest,
            shown,
            wanted,
        )
    else:
        log.info(
            "With %d models per arm the interval of %s in arm %s %s; %g was asked. Every arm gets %d models more.",
            seen,
            fleet["headline"],
            widest,
            shown,
            wanted,
            asked - seen,
        )
    return asked > seen


def _asked(seen: int, width: float, wanted: float, most: int, block_size: int) -> int:
    """An interval shrinks with the root of the number of models."""
    if width <= wanted or seen >= most:
        return seen
    step = _step(block_size)
    needed = MOST_GROWTH * seen if not math.isfinite(width) else seen * (width / wanted) ** 2
    return min(max(_up(math.ceil(min(needed, MOST_GROWTH * seen)), step), seen + step), most)


def _step(block_size: int) -> int:
    return math.lcm(2, block_size)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
