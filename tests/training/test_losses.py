"""Losses: the gradients by hand equal autograd's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dptrain.training.losses import binary_loss, multiclass_loss

LOSSES = {"binary": (binary_loss, 1), "binary, an output unused": (binary_loss, 2), "multiclass": (multiclass_loss, 2),
          "three classes": (multiclass_loss, 3)}  # fmt: skip


def by_hand(loss, logits, labels, weights):
    losses, grads = np.empty(len(logits), logits.numpy().dtype), np.empty_like(logits.numpy())
    loss.row_gradients(logits.numpy(), labels.numpy(), weights.numpy(), losses, grads)
    return losses, grads


def by_autograd(loss, logits, labels, weights):
    leaf = logits.clone().requires_grad_()
    losses = loss(leaf, labels)
    (grads,) = torch.autograd.grad(losses, leaf, weights)
    return losses.detach().numpy(), grads.numpy()


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_gradients_by_hand_are_autograds(name, dtype, close, seed, scale):
    loss, outputs = LOSSES[name]
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(7, outputs, generator=generator, dtype=dtype)
    labels = torch.randint(0, max(outputs, 2), (7,), generator=generator)
    weights = torch.rand(7, generator=generator, dtype=dtype)
    weights[3] = 0.0
    for ours, theirs in zip(by_hand(loss, logits, labels, weights), by_autograd(loss, logits, labels, weights),
                            strict=True):  # fmt: skip
        assert np.allclose(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_finite_is_not_finite(name):
    """A record whose logits are NaN must be seen as such, whatever its weight."""
    loss, outputs = LOSSES[name]
    logits = torch.zeros(2, outputs)
    logits[0, 0] = torch.nan
    losses, grads = by_hand(loss, logits, torch.zeros(2, dtype=torch.int64), torch.ones(2))
    assert np.isnan(losses[0])
    assert np.isnan(grads[0]).any()
    assert np.isfinite(losses[1])
    assert np.isfinite(grads[1]).all()


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_an_error(label):
    with pytest.raises(IndexError, match="no class"):
        by_hand(multiclass_loss, torch.zeros(1, 2), torch.tensor([label]), torch.ones(1))
