"""Keep freed memory in the process: per-record gradients are the same large arrays in every step.

By default glibc maps every array above 32 MB anew and gives it back when it is freed, so that each step pays page
faults for all of it. A step of 5,000 records of a small MLP took 41,000 to 113,000 page faults and 2.2 to 2.6 times
the processor time of one without them (`experiments/bench_allocator.py`). Changes speed only.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory; False where the C library has no `mallopt` (macOS, Windows, musl)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))
