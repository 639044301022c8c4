"""Last look before an epsilon is reported: do recorded epsilon, mechanism and the ledgers of all models agree?"""

from __future__ import annotations

from typing import Any

from dptrain.privacy.accounting import reported_epsilon
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.mechanism import Mechanism

ROUNDING = 1e-6
"""Relative slack between a recorded epsilon and the same one computed again."""


def void_reasons(mechanism: Mechanism, epsilon: float | None, ledgers: list[dict[str, Any]]) -> list[str]:
    """Every reason why a fleet's (or a released model's) epsilon must not be reported; empty if there is none.

    `epsilon` is what was written down before training; `ledgers` are `Ledger.to_dict()` of all models that claim it,
    each of which was checked against `mechanism` when its training ended.
    """
    reasons = []
    if mechanism.noise_multiplier > 0:
        again, accountant = reported_epsilon(
            mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.num_steps, mechanism.delta
        )
        if epsilon is None or again > epsilon * (1 + ROUNDING):
            reasons.append(
                f"epsilon={epsilon} is recorded, but this mechanism costs {again:.6g} ({accountant}): it was accounted "
                "with other parameters than it ran with."
            )
    elif epsilon is not None:
        reasons.append(f"epsilon={epsilon} is recorded for a mechanism without noise.")
    for entry in ledgers:
        for name, accounted in (
            ("noise_multipliers", mechanism.noise_multiplier),
            ("clipping_norms", mechanism.clipping_norm),
            ("divisors", mechanism.expected_batch_size),
        ):
            if entry[name] != [accounted]:
                reasons.append(f"A model ran with {name} {entry[name]}, {accounted} is accounted.")
        begun = entry["num_steps"] + entry["num_lost"]
        if begun != mechanism.num_steps:
            reasons.append(f"A model ran {begun} steps, {mechanism.num_steps} are accounted.")
    shared = shared_noise(ledgers)
    if shared:
        reasons.append(
            f"{len(shared)} noise streams were used by more than one model. The difference of two such models has no "
            "noise left in it."
        )
    return list(dict.fromkeys(reasons))
