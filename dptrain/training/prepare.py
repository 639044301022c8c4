"""The cohort as models are trained on it: read, and, for a probe on a frozen encoder, turned into features once."""

from __future__ import annotations

import dataclasses

import torch

from dptrain.cohorts.canaries import plant_canaries
from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.registry import load_cohort
from dptrain.config import Config
from dptrain.models.encode import encoded_features


def prepared_cohort(config: Config) -> Cohort:
    """The cohort of a run, its canaries planted (`audit.canaries`). With `model.encoder`, `features` are the encoder's
    (cached), and `outside_dp` says so; canaries are made among the encoder's outputs.

    One thread: workers are forked later, and a fork after a pool of threads was used may hang.
    """
    cohort = load_cohort(config.data, config.seed)
    torch.set_num_threads(1)
    encoded = encoded_features(cohort.features, config.model)
    if encoded is not None:
        features, sentence = encoded
        cohort = dataclasses.replace(
            cohort, features=features, feature_names=(), outside_dp=(*cohort.outside_dp, sentence)
        )
    return plant_canaries(cohort, config.audit.canaries)
