"""Fleets without training: memberships in twins, and signals with a known leak."""

import numpy as np


def twin_membership(num_models, num_patients, rng):
    half = rng.random((num_models // 2, num_patients)) < 0.5
    membership = np.empty((num_models, num_patients), dtype=bool)
    membership[0::2], membership[1::2] = half, ~half
    return membership


def null_fleet(num_models, num_patients, rng, records=1, model_effect=0.0):
    """Signals (M, P * records) without any leak; each record its own level and spread, each model its own level."""
    num_records = num_patients * records
    signals = rng.normal(size=(num_models, num_records)) * rng.gamma(2.0, 1.0, num_records)
    signals += 5.0 * rng.normal(size=num_records) + model_effect * rng.normal(size=(num_models, 1))
    return signals, twin_membership(num_models, num_patients, rng), np.repeat(np.arange(num_patients), records)


def leaky_evidence(membership, rng, share=0.05, model_effect=0.0):
    """Evidence (M, P) of which a share of patients leaks by gamma(2, 1) standard deviations, more in some models."""
    num_models, num_patients = membership.shape
    leak = np.where(rng.random(num_patients) < share, rng.gamma(2.0, 1.0, num_patients), 0.0)
    strength = np.exp(model_effect * rng.normal(size=(num_models, 1)))
    return (
        rng.normal(size=membership.shape)
        + model_effect * rng.normal(size=(num_models, 1))
        + leak * strength * membership
    )
