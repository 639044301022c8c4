"""Noise of the models of a study: the formula in float64 is its twin, it is normal, and all of a seed counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm

from dptrain.privacy.noise_stream import TILE, NoiseStream, box_muller

PAIRS = 3 * TILE + 17


def twin(bits: np.ndarray) -> np.ndarray:
    """Box and Muller in float64."""
    n = len(bits) // 2
    u, turn = (bits[:n] + 0.5) / 2**32, bits[n:] / 2**32
    radius = np.sqrt(-2 * np.log(u))
    return np.concatenate([radius * np.cos(2 * np.pi * turn), radius * np.sin(2 * np.pi * turn)])


def words(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)


def test_it_is_box_and_mullers_formula():
    bits = words(2 * PAIRS)
    out = np.empty(2 * PAIRS, np.float32)
    box_muller(bits, out, np.float32(1))
    assert np.abs(out - twin(bits)).max() < 2e-6


def test_at_the_ends_of_the_range():
    """Smallest and largest uniform, where float32 has few digits, and angles at and beside the quarters of a turn."""
    ends = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], dtype=np.uint32)
    turns = np.array([k * 2**29 + d for k in range(8) for d in (-1, 0, 1)]) % 2**32
    bits = np.concatenate([np.repeat(ends, len(turns)), np.tile(turns, len(ends))]).astype(np.uint32)
    out = np.empty(len(bits), np.float32)
    box_muller(bits, out, np.float32(1))
    expected = twin(bits)
    assert np.isfinite(out).all()
    assert np.abs(out - expected).max() < 4e-6
    assert np.abs(out).max() == pytest.approx(np.sqrt(-2 * np.log(0.5 / 2**32)), rel=1e-6)


@pytest.fixture(scope="module")
def million() -> np.ndarray:
    values = torch.empty(1_000_000)
    NoiseStream(3).fill(values, 1.0)
    return values.double().numpy()


def test_the_distribution_is_normal(million):
    """Each fails by chance once in 1e9 runs; the seed is fixed."""
    assert kstest(million, "norm").pvalue > 1e-9
    inside = np.histogram(norm.cdf(million), 1000, (0, 1))[0]
    assert chi2.sf(((inside - 1000) ** 2 / 1000).sum(), 999) > 1e-9
    assert abs(million.mean()) < 6 / 1000
    assert abs((million**2).mean() - 1) < 6 * np.sqrt(2) / 1000
    for size in (3, 4, 4.5):
        expected = 1e6 * 2 * norm.sf(size)
        assert abs((np.abs(million) > size).sum() - expected) < 6 * np.sqrt(expected) + 3


def test_values_are_independent_also_those_of_a_pair(million):
    half = len(million) // 2
    for left, right in ((million[:half], million[half:]), (million[:-1], million[1:])):
        for a, b in ((left, right), (left**2, right**2), (np.abs(left), right)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 6 / np.sqrt(len(a))


def test_a_seed_is_one_stream_and_all_of_it_counts():
    first, again = NoiseStream(5), NoiseStream(5)
    a, b = torch.empty(2, 1001), torch.empty(2, 1001)
    for row, other in zip(a, b, strict=True):
        first.fill(row, 2.0)
        again.fill(other, 2.0)
    assert torch.equal(a, b)
    assert first.name == again.name
    assert not torch.equal(a[0], a[1]), "a step repeats the noise of the one before"
    beside = torch.empty(1001)
    for seed in (6, 5 + 2**32, 5 + 2**62):
        stream = NoiseStream(seed)
        stream.fill(beside, 2.0)
        assert stream.name != first.name
        assert abs(np.corrcoef(beside.numpy(), a[0].numpy())[0, 1]) < 0.2


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sizes_scales_and_types(size, dtype):
    """An odd size leaves the last number of its pairs unused; nothing else differs."""
    out, plain = torch.empty(size, dtype=dtype), torch.empty(size + size % 2)
    NoiseStream(1).fill(out, 3.0)
    NoiseStream(1).fill(plain, 1.0)
    assert torch.allclose(out.double(), 3 * plain[:size].double(), rtol=1e-6)
    assert np.array_equal(NoiseStream(1).normal(size), plain[:size].double().numpy())


@pytest.mark.parametrize("size", [1, 2, 7, 2 * TILE - 1, 2 * TILE, 2 * TILE + 1, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_where_it_is_made(size, dtype):
    """The numbers of `fill`, step after step, and nothing beside the result is touched."""
    added, filled = NoiseStream(1), NoiseStream(1)
    sums = torch.from_numpy(np.random.default_rng(0).standard_normal(size)).to(dtype)
    around = torch.full((size + 2,), 7.0, dtype=dtype)
    for _ in range(2):
        noise = torch.empty(size, dtype=dtype)
        filled.fill(noise, 3.0)
        added.add(sums, 3.0, 4.0, around[1:-1])
        assert torch.allclose(around[1:-1], (sums + noise) / 4.0, rtol=1e-6, atol=1e-7)
        assert around[0] == around[-1] == 7.0
