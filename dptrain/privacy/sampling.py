"""Poisson sampling: every unit enters every step independently with probability q. Nothing else gets an epsilon.

The coins of a step are drawn for all units of the study and then restricted to the members, so whether one unit is a
member changes nobody else's coins. Empty batches are yielded like all others: skipping them would make the number of
noisy steps depend on the data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.secure_random import SecureStream


def poisson_batches(
    mechanism: Mechanism, is_member: NDArray[np.bool_], rng: np.random.Generator | SecureStream
) -> Iterator[NDArray[np.int64]]:
    """Yield exactly T arrays of member units, each unit in each array with probability q, independently.

    Parameters: `is_member` (U,) over all units of the study; `rng` a stream that nothing else uses.
    """
    for _ in range(mechanism.num_steps):
        coins = rng.random(len(is_member)) < mechanism.sampling_rate
        yield np.flatnonzero(coins & is_member)
