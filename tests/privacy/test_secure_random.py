"""Randomness of released models: right distributions, and no way to draw it twice."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from dptrain.privacy.secure_random import CHUNK, SecureStream


def test_torch_uses_32_bits_of_a_seed() -> None:
    """The reason why released models do not take their noise from torch: four billion noises, all of them known."""
    one, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.randn(100, generator=one), torch.randn(100, generator=other))


def test_distributions() -> None:
    """Fails by chance once in 1e9 runs."""
    stream = SecureStream()
    uniform, normal = stream.random(200_001), stream.normal(CHUNK + 7)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert kstest(uniform, "uniform").pvalue > 1e-10
    assert normal.shape == (CHUNK + 7,)
    assert kstest(normal, "norm").pvalue > 1e-10
    # Values of one call are independent of each other, also those that share a radius inside Box and Muller's pairs.
    for lag in (1, CHUNK // 2, CHUNK):
        left, right = normal[:-lag], normal[lag:]
        assert abs(np.corrcoef(left**2, right**2)[0, 1]) < 7 / np.sqrt(len(left)) or len(left) < 100


def test_no_two_streams_agree() -> None:
    stream = SecureStream()
    streams = [stream, SecureStream(), *stream.spawn(2)]
    assert len({s.name for s in streams}) == 4
    assert len({s.random(4).tobytes() for s in streams} | {stream.random(4).tobytes()}) == 5
    assert len({s.integer() for s in streams}) == 4


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_cannot_be_drawn_twice(again) -> None:
    with pytest.raises(TypeError, match="drawn twice"):
        again(SecureStream())
