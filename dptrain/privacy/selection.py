"""What it costs to train several private models on the same patients and to keep the best.

Two ways, both of the whole search (every model trained, the best one released):

* `fixed`: the number of runs is known. The search is the composition of all of them, which no cleverer analysis beats
  by much: with a fixed number of runs the best of k can cost nearly k times one run (Papernot and Steinke 2022, arXiv
  2110.03620, section 3). Composition also covers looking at, or releasing, every one of them.
* `geometric`, `poisson`: the number of runs was drawn at random before the search began, and only the best model was
  ever looked at. Then the search costs two to three times one run, however many runs happened (theorems 2 and 6 there).

Runs that differ in q, T, sigma or C must be declared as the costliest of them.
"""

from __future__ import annotations

import math
from typing import Literal

from dptrain.privacy.accounting import RDP_ORDERS, quiet_dp_accounting, reported_epsilon
from dptrain.privacy.mechanism import Mechanism

Selection = Literal["fixed", "geometric", "poisson"]
SELECTIONS: tuple[Selection, ...] = ("fixed", "geometric", "poisson")


def selection_epsilon(mechanism: Mechanism, selection: Selection, num_runs: float) -> tuple[float, str]:
    """(epsilon at the mechanism's delta, accountant) of a whole search with runs of this mechanism.

    `num_runs` is the number of runs for `fixed` and the MEAN of the distribution for the random ones, the kept run
    included. Raises ValueError for fewer than one run, an unknown selection, and where no accountant has a finite
    epsilon.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection={selection!r} must be one of {', '.join(SELECTIONS)}.")
    if not num_runs >= 1 or not math.isfinite(num_runs):
        raise ValueError(f"num_runs={num_runs} must be at least 1: the run that is kept counts.")
    if selection == "fixed":
        if num_runs != int(num_runs):
            raise ValueError(f"num_runs={num_runs} must be a whole number with selection=fixed.")
        return reported_epsilon(
            mechanism.sampling_rate,
            mechanism.noise_multiplier,
            mechanism.num_steps * int(num_runs),
            mechanism.delta,
        )
    return _repeat_and_select(mechanism, num_runs, math.inf if selection == "poisson" else 1.0), "rdp"


def _repeat_and_select(mechanism: Mechanism, mean: float, shape: float) -> float:
    """Theorem 2 (shape 1: geometric) and theorem 6 (shape inf: Poisson) of arXiv 2110.03620, by dp-accounting."""
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    step = dp_event.PoissonSampledDpEvent(
        mechanism.sampling_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
    )
    run = dp_event.SelfComposedDpEvent(step, mechanism.num_steps)
    accountant = RdpAccountant(RDP_ORDERS)
    with quiet_dp_accounting():
        accountant.compose(dp_event.RepeatAndSelectDpEvent(run, mean, shape))
        epsilon = float(accountant.get_epsilon(mechanism.delta))
    if not math.isfinite(epsilon):
        raise ValueError("No Renyi order gives this search a finite epsilon. Declare it as selection=fixed.")
    return epsilon


