"""Membership in twins: which model is trained on which patient.

Models 2i and 2i+1 are twins: for every patient an independent fair coin, drawn before any training, says which of the
two gets the patient. Pair i's coins depend only on the root seed and i, so more pairs can be added to a study without
changing those that exist.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.seeding import numpy_stream


def draw_membership(root_seed: int, num_models: int, num_patients: int) -> NDArray[np.bool_]:
    """(M, P) bool, rows 2i and 2i+1 complementary. `num_patients` counts training patients only."""
    if num_models < 2 or num_models % 2:
        raise ValueError(f"num_models={num_models} must be even and at least 2: models come in twins.")
    membership = np.empty((num_models, num_patients), dtype=bool)
    for pair in range(num_models // 2):
        coins = numpy_stream(root_seed, "membership", pair).random(num_patients) < 0.5
        membership[2 * pair], membership[2 * pair + 1] = coins, ~coins
    return membership
