"""Compiled loops of convolutional networks against torch's own layers, and which layers they are used for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dptrain.config import ModelConfig
from dptrain.models.registry import build_model
from dptrain.privacy.fused import norm_kernels, weight_tiles
from dptrain.privacy.fused.layout import channels_first, channels_last
from dptrain.privacy.fused.rectified import rectified_norms

SIDES = st.tuples(st.integers(1, 3), st.integers(1, 4))
FEW = settings(max_examples=60, deadline=None)


def last(rows: torch.Tensor) -> np.ndarray:
    return channels_last(rows).numpy()


def record_by_record(inputs, weight, grads, settings):
    """(N, out, in, rows, columns), each from a backward pass of its own."""
    found = []
    for one, grad in zip(inputs, grads, strict=True):
        weight = weight.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.conv2d(one[None], weight, None, *settings), weight, grad[None])
        found.append(gradient)
    return torch.stack(found)


@given(
    channels=st.integers(1, 30),
    outs=st.integers(weight_tiles.LANES, 2 * weight_tiles.LANES + 3),
    kernel=SIDES,
    stride=SIDES,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 1000),
)
@FEW
def test_weight_gradients_of_records(channels, outs, kernel, stride, padding, dilation, more, seed):
    torch.manual_seed(seed)
    sides = [d * (k - 1) + 1 + m for d, k, m in zip(dilation, kernel, more, strict=True)]
    inputs = torch.randn(3, channels, *sides, dtype=torch.float64)
    weight = torch.randn(outs, channels, *kernel, dtype=torch.float64)
    grads = torch.randn_like(F.conv2d(inputs, weight, None, stride, padding, dilation))
    exact = record_by_record(inputs, weight, grads, (stride, padding, dilation))
    found = weight_tiles.weight_gradients(
        last(inputs), last(grads), kernel, list(stride), list(padding), list(dilation)
    )
    assert found.shape == (3, *kernel, channels, outs)
    difference = torch.from_numpy(found).permute(0, 4, 3, 1, 2) - exact
    assert float(difference.abs().max()) <= 1e-13 * float(exact.abs().max() + 1)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9, 23, 24, 25, 47, 48, 49, 84, 100, 189, 500])
def test_tiles_cover_a_run_and_stay_inside(length):
    tiles = weight_tiles._cover(length)
    assert all(start >= 0 and start + height <= length for start, height in tiles)
    assert {start + k for start, height in tiles for k in range(height)} == set(range(length))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_record_that_is_not_finite_stays_alone(bad):
    torch.manual_seed(0)
    inputs, grads = torch.randn(3, 4, 5, 5), torch.randn(3, weight_tiles.LANES, 5, 5)
    inputs[1, 2, 4, 4] = bad
    found = weight_tiles.weight_gradients(last(inputs), last(grads), (3, 3), [1, 1], [1, 1], [1, 1])
    assert [bool(np.isfinite(one).all()) for one in found] == [True, False, True]


@given(
    models=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 3]),
    each=st.integers(1, 9),
    positions=st.sampled_from([1, 2, 7, 300]),
    rectify=st.booleans(),
    seed=st.integers(0, 1000),
)
@FEW
def test_group_norm_and_relu(models, groups, each, positions, rectify, seed):
    """Outputs, input gradients, and scale and shift gradients of every record."""
    torch.manual_seed(seed)
    rows, channels = 3 * models, groups * each
    inputs = torch.randn(rows, channels, positions, dtype=torch.float64).requires_grad_()
    of_models = torch.randn(2, models, channels, dtype=torch.float64)
    scale, shift = (one.repeat_interleave(3, 0).requires_grad_() for one in of_models)
    exact = F.group_norm(inputs, groups, eps=1e-3) * scale[:, :, None] + shift[:, :, None]
    exact = exact.relu() if rectify else exact
    grads = torch.randn_like(exact)
    exact.backward(grads)

    x = channels_last(inputs.detach()).view(rows, -1).numpy()
    found, inner = np.empty_like(x), np.empty_like(x)
    mean, rstd = np.empty((rows, groups)), np.empty((rows, groups))
    of_scale, of_shift = np.empty((rows, channels)), np.empty((rows, channels))
    settings = (*of_models.numpy(), groups, 1e-3, rectify)
    norm_kernels.normalize(x, *settings, found, mean, rstd)
    flat = channels_last(grads).view(rows, -1).numpy()
    norm_kernels.normalize_back(
        flat, x, *of_models.numpy(), mean, rstd, rectify, True, inner, of_scale, of_shift
    )
    for ours, theirs in ((found, exact.detach()), (inner, inputs.grad)):
        rebuilt = channels_first(torch.from_numpy(ours).view(rows, positions, channels))
        torch.testing.assert_close(rebuilt, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.from_numpy(of_scale), scale.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.from_numpy(of_shift), shift.grad, rtol=1e-9, atol=1e-9)


def test_group_norm_lets_what_is_not_finite_through():
    """A NaN must reach the record's norm, and no other record."""
    x = np.random.default_rng(0).standard_normal((2, 12))
    x[0, 3] = np.nan
    scale, shift, found = np.ones((1, 3)), np.zeros((1, 3)), np.empty_like(x)
    mean, rstd, of_scale, of_shift = np.empty((2, 1)), np.empty((2, 1)), np.empty((2, 3)), np.empty((2, 3))
    norm_kernels.normalize(x, scale, shift, 1, 1e-5, True, found, mean, rstd)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    grads = np.ones_like(x)
    norm_kernels.normalize_back(
        grads, x, scale, shift, mean, rstd, True, True, np.empty_like(x), of_scale, of_shift
    )
    assert np.isnan(of_scale[0]).all()
    assert np.isfinite(of_scale[1]).all()
    assert np.isfinite(of_shift[1]).all()


def test_channels_come_last_without_a_copy_where_they_do_already():
    rows = torch.randn(2, 5, 4, 3)
    once = channels_last(rows)
    assert once.shape == (2, 4, 3, 5)
    assert once.is_contiguous()
    assert channels_last(channels_first(once)).data_ptr() == once.data_ptr()
    single = channels_first(channels_last(torch.randn(2, 1, 4, 3)))
    assert single.stride() == (12, 1, 3, 1), "a layer chooses the order of its outputs by these"


def norms(kind, options, shape):
    return rectified_norms(build_model(ModelConfig(kind, options), shape, 2))


def test_which_normalisations_are_rectified():
    wrn = norms("wrn", {"depth": 10, "num_groups": 4}, (1, 8, 8))
    assert wrn == {"1.norm1", "1.norm2", "2.norm1", "2.norm2", "3.norm1", "3.norm2", "4"}
    resnet = norms("resnet1d", {"maps": 4, "depth": 2, "num_groups": 2}, (3, 24))
    assert resnet == {f"{block}.path.{layer}" for block in (0, 1) for layer in (1, 4)}
    assert norms("wrn", {"depth": 10, "num_groups": 4, "activation": "gelu"}, (1, 8, 8)) == set()


class Branching(nn.Module):
    """A forward pass that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.norm, self.relu = nn.GroupNorm(1, 2), nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(x)) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_not_rectified():
    assert rectified_norms(Branching()) == set()
