"""Canaries of the model to release: coins from the operating system, drawn before the first step, and the lower bound
that the finished model gives away.

The coins lie in `restricted/canaries.npy`. A continued run reads the same ones: new coins for the remaining steps would
make a canary half a member.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dptrain.cohorts.cohort import Cohort
from dptrain.errors import StudyError
from dptrain.report.canaries import as_dict, bound_of_release, contradiction
from dptrain.study.atomic import write_array
from dptrain.training.fleet import predict


def canary_coins(restricted: Path, num_canaries: int) -> NDArray[np.bool_]:
    """(C,) which canaries are in the training; drawn once.

    Raises StudyError if the run was begun and its coins are gone.
    """
    if not num_canaries:
        return np.zeros(0, dtype=bool)
    file = restricted / "canaries.npy"
    if not file.exists():
        if (restricted / "config.json").exists():
            raise StudyError(
                f"{restricted.parent} cannot be continued: {file.name}, which says which canaries are in the training, "
                "is gone. Restore it, or train anew with another release.dir."
            )
        write_array(file, np.array([secrets.randbits(1) for _ in range(num_canaries)], dtype=bool))
    coins: NDArray[np.bool_] = np.load(file)
    if coins.shape != (num_canaries,):
        raise StudyError(f"{file} holds {coins.size} coins, expected {num_canaries}. Restore it, or train anew.")
    return coins


def held_against_claim(
    model: nn.Module,
    untrained: nn.Module,
    cohort: Cohort,
    coins_C: NDArray[np.bool_],
    epsilon: float,
    delta: float,
) -> tuple[dict[str, Any], str | None]:
    """The statement's `lower_bound`, and why there is no epsilon if it is above the accounted one (else None)."""
    start = cohort.num_records - cohort.num_canaries
    features = torch.from_numpy(np.ascontiguousarray(cohort.features[start:]))
    labels = np.asarray(cohort.labels)[start:]
    bound = bound_of_release(
        predict(model, features), predict(untrained, features), labels, coins_C, cohort.task, delta
    )
    return as_dict(bound), contradiction(epsilon, delta, bound)
