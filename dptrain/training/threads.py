"""One thread per worker: parallel work is one process per core. Two threads of one product collapse at times, and the
order in which they add up would depend on their number."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """For torch, and for the BLAS of numpy and SciPy, in this process."""
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
