"""What several trainings on the same patients cost together.

Trainings with the same q and sigma are one longer training: their steps add up. Different ones are composed by basic
composition (Dwork et al. 2006: epsilons add, each at its part of delta) and by Renyi DP, and the smaller bound counts;
both are valid. All of this holds for trainings chosen after looking at the earlier models (adaptive composition of
mechanisms whose parameters were fixed before).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dptrain.privacy.accounting import RDP_ORDERS, quiet_dp_accounting, reported_epsilon
from dptrain.privacy.mechanism import Mechanism


def composed_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> tuple[float, str]:
    """(epsilon at delta of all trainings together, how it was found).

    Raises ValueError for an empty list, for trainings with different units (their guarantees are about different
    things), for one without noise, and where no bound is finite.
    """
    if not mechanisms:
        raise ValueError("mechanisms is empty: there is nothing to compose.")
    units = sorted({mechanism.unit for mechanism in mechanisms})
    if len(units) > 1:
        raise ValueError(f"unit={units} differs between the trainings: their epsilons cannot be added up.")
    steps: dict[tuple[float, float], int] = {}
    for mechanism in mechanisms:
        if mechanism.noise_multiplier == 0:
            raise ValueError("noise_multiplier=0: one of the trainings has no noise and no epsilon.")
        key = (mechanism.sampling_rate, mechanism.noise_multiplier)
        steps[key] = steps.get(key, 0) + mechanism.num_steps
    if len(steps) == 1:
        ((rate, noise), num_steps) = next(iter(steps.items()))
        return reported_epsilon(rate, noise, num_steps, delta)
    part = delta / len(steps)
    basic = sum(reported_epsilon(rate, noise, num_steps, part)[0] for (rate, noise), num_steps in steps.items())
    renyi = _renyi(steps, delta)
    return (renyi, "rdp") if renyi < basic else (basic, "basic composition")


def _renyi(steps: dict[tuple[float, float], int], delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(RDP_ORDERS)
    with quiet_dp_accounting():
        for (rate, noise), num_steps in steps.items():
            step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
            accountant.compose(dp_event.SelfComposedDpEvent(step, num_steps))
        epsilon = float(accountant.get_epsilon(delta))
    return epsilon if not math.isnan(epsilon) else math.inf
