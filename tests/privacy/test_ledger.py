"""The ledger voids no honest run: simulated runs with the accounted sampling and noise, over a grid of settings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dptrain.privacy.ledger import Ledger, shared_noise
from dptrain.privacy.mechanism import Mechanism


def simulated(mechanism: Mechanism, num_units: int, num_values: int, rng: np.random.Generator) -> Ledger:
    ledger = Ledger(np.arange(num_units) % 4 != 3)
    scale = mechanism.noise_multiplier * mechanism.clipping_norm
    for _ in range(mechanism.num_steps):
        units = np.flatnonzero((rng.random(num_units) < mechanism.sampling_rate) & ledger.is_member)
        noise_norm = scale * math.sqrt(rng.chisquare(num_values))
        ledger.enter(
            units, mechanism.noise_multiplier, mechanism.clipping_norm, mechanism.expected_batch_size, noise_norm,
            0.9 * mechanism.clipping_norm * len(units), num_values,
        )  # fmt: skip
    return ledger


@pytest.mark.parametrize("rate", [0.0005, 0.01, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("num_units", [4, 40, 1000])
@pytest.mark.parametrize("num_steps", [1, 30, 300])
def test_honest_runs_are_not_voided(rate, num_units, num_steps):
    rng = np.random.default_rng(0)
    mechanism = Mechanism("patient", rate, 0.8, 1.7, num_steps, 10.0, 1e-5)
    for num_values in (1, 31, 5000):
        assert simulated(mechanism, num_units, num_values, rng).findings(mechanism) == []


def test_noise_that_is_two_percent_small_is_found():
    rng = np.random.default_rng(0)
    mechanism = Mechanism("patient", 0.1, 1.0, 1.0, 100, 10.0, 1e-5)
    ledger = simulated(mechanism, 400, 5000, rng)
    ledger.noise_square *= 0.98**2
    assert any("standard deviation 0.98" in sentence for sentence in ledger.findings(mechanism))


def test_a_sum_in_an_empty_step_is_found():
    mechanism = Mechanism("patient", 0.1, 1.0, 1.0, 1, 10.0, 1e-5)
    ledger = Ledger(np.ones(3, dtype=bool))
    ledger.enter(np.zeros(0, dtype=np.int64), 1.0, 1.0, 10.0, 10.0, 0.5, 100)
    assert any("not clipped" in sentence for sentence in ledger.findings(mechanism))


def test_noise_is_shared_only_between_runs_with_noise():
    private = {"noise_multipliers": [1.0], "noise_stream": "a"}
    clip = {"noise_multipliers": [0.0], "noise_stream": "a"}
    assert shared_noise([private, clip, {**private, "noise_stream": "b"}]) == []
    assert shared_noise([private, private, clip]) == ["a"]
