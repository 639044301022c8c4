"""The same work on several items in forked processes, results in order. Forked, because what the work looks at (arrays
of a study) is then shared and not copied."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_work: Callable[[Any], Any] | None = None


def in_order(work: Callable[[Item], Result], items: Sequence[Item], most_workers: int) -> list[Result]:
    """`[work(item) for item in items]`, on up to `most_workers` cores; results travel back by pickling."""
    num_workers = min(most_workers, len(items), _num_cores())
    if num_workers < 2 or sys.platform != "linux":
        return [work(item) for item in items]
    global _work
    _work = work
    try:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            return list(pool.map(_do, items))
    finally:
        _work = None


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
