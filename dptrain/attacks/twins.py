"""Twins: pairs of models trained on complementary halves of the patients.

In the house's design models 2i and 2i+1 are twins. Every patient is then in exactly half of the models, so
the memberships of the *other* models would betray the target's own: a patient with fewer IN references must
be IN. The cure is to leave the target's twin out of its references; this module finds the twins, also in
fleets that somebody else trained.
"""

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import IntArray, checked_membership


def find_twins(membership: npt.ArrayLike) -> IntArray:
    """Return (M,) the index of every model's twin, -1 for a model that has none.

    Twins are rows that are each other's complement. Neighbours (2i, 2i+1) are paired first, as the house's
    design does; what is left over is paired in order of appearance.

    Args:
        membership: (M, P) or (M, N) bool.

    Raises:
        ValueError: `membership` is not a bool matrix.
    """
    raw = np.asarray(membership)
    if raw.ndim != 2:
        raise ValueError(f"membership.shape={raw.shape} must be (models, patients) or (models, records).")
    rows = checked_membership(raw, (raw.shape[0], raw.shape[1]))
    num_models = rows.shape[0]
    twin = np.full(num_models, -1, dtype=np.int64)
    for even in range(0, num_models - 1, 2):
        if not np.any(rows[even] == rows[even + 1]):
            twin[even], twin[even + 1] = even + 1, even
    waiting: dict[bytes, list[int]] = {}
    for model in np.flatnonzero(twin < 0):
        partners = waiting.get(np.packbits(~rows[model]).tobytes())
        if partners:
            partner = partners.pop(0)
            twin[model], twin[partner] = partner, model
        else:
            waiting.setdefault(np.packbits(rows[model]).tobytes(), []).append(int(model))
    return twin


def model_units(membership: npt.ArrayLike) -> IntArray:
    """Return (M,) the number of the independent unit of every model: twins share one, other models are alone.

    Anything that resamples or splits models works on these units (0..U-1, in order of appearance), never on
    single twins.
    """
    return units_of_twins(find_twins(membership))


def units_of_twins(twin: IntArray) -> IntArray:
    """Return the units of `model_units` from the answer of `find_twins`."""
    first = np.where(twin < 0, np.arange(twin.size), np.minimum(twin, np.arange(twin.size)))
    return np.unique(first, return_inverse=True)[1].astype(np.int64)
