"""LayerNorm and GroupNorm: scale and shift have one gradient per record, cheap enough to be stored."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.privacy.fused import norm_kernels
from dptrain.privacy.fused.layout import channels_first, channels_last, is_on_cpu
from dptrain.privacy.fused.rules import Rule, handles
from dptrain.privacy.fused.tape import Stored

aten = torch.ops.aten


class _AffineRule(Rule):
    """Puts the gradients of scale and shift, (N, C) each, where they belong."""

    def leave(self, scale: Tensor, shift: Tensor) -> None:
        """(N, C), (N, C)."""
        for name, rows in (("weight", scale), ("bias", shift)):
            slot = self.slots.get(name)
            if slot is None:
                continue
            total = slot.gradient.view(self.models, -1)
            if self.tape.private:
                self.tape.entries.append(Stored(rows, total))
            else:
                total.add_(self.per_model(rows).sum(1))


@handles(nn.LayerNorm)
class LayerNormRule(_AffineRule):
    """Normalises the last axes of (N, ..., *shape)."""

    def read(self, module: nn.Module) -> None:
        assert isinstance(module, nn.LayerNorm)
        self.shape, self.eps = list(module.normalized_shape), module.eps

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Normalised once for all models, scaled and shifted by each one's own."""
        normal, mean, rstd = aten.native_layer_norm(inputs, self.shape, None, None, self.eps)
        scale, bias = self.slots["weight"].value, self.slots.get("bias")
        wide = normal.view(self.models, -1, math.prod(self.shape))
        outputs = wide * scale.reshape(self.models, 1, -1)
        if bias is not None:
            outputs += bias.value.reshape(self.models, 1, -1)
        return outputs.view(inputs.shape), (inputs, normal, mean, rstd)

    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Sums over the tokens of a row."""
        inputs, normal, mean, rstd = saved
        rows, size = len(inputs), math.prod(self.shape)
        grads = grads.contiguous()
        flat = grads.view(rows, -1, size)
        self.leave((flat * normal.view(rows, -1, size)).sum(1), flat.sum(1))
        if not need_inputs:
            return None
        scale = self.slots["weight"].value.reshape(self.models, 1, -1)
        inner = (grads.view(self.models, -1, size) * scale).view(inputs.shape)
        result: Tensor = aten.native_layer_norm_backward(
            inner, inputs, self.shape, mean, rstd, None, None, [True, False, False]
        )[0]
        return result


@handles(nn.GroupNorm)
class GroupNormRule(_AffineRule):
    """Normalises groups of channels of (N, C, ...)."""

    def read(self, module: nn.Module) -> None:
        assert isinstance(module, nn.GroupNorm)
        self.groups, self.eps = module.num_groups, module.eps

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs that are rectified already say so."""
        outputs = super().__call__(inputs)
        outputs.is_rectified = self.rectifies and is_on_cpu(inputs)
        return outputs

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Each row with the scale and shift of its model."""
        scale, shift = self.slots["weight"].value, self.slots["bias"].value
        if is_on_cpu(inputs):
            rows = channels_last(inputs)
            outputs, size = torch.empty_like(rows), len(rows)
            mean, rstd = rows.new_empty((size, self.groups)), rows.new_empty((size, self.groups))
            norm_kernels.normalize(
                rows.view(size, -1).numpy(), scale.numpy(), shift.numpy(), self.groups, self.eps, self.rectifies,
                outputs.view(size, -1).numpy(), mean.numpy(), rstd.numpy(),
            )  # fmt: skip
            return channels_first(outputs), (rows, mean, rstd)
        inputs = inputs.contiguous()
        num, channels = inputs.shape[:2]
        count = inputs[0, 0].numel()
        outputs, mean, rstd = aten.native_group_norm(inputs, None, None, num, channels, count, self.groups, self.eps)
        wide = outputs.view(self.models, -1, channels, count)
        outputs = torch.addcmul(shift[:, None, :, None], wide, scale[:, None, :, None]).view(inputs.shape)
        return outputs, (inputs, mean, rstd)

    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Scale: sum of g (x - mean) / sd over positions; shift: sum of g."""
        inputs, mean, rstd = saved
        scale, shift = self.slots["weight"].value, self.slots["bias"].value
        if is_on_cpu(grads):
            grads, num = channels_last(grads), len(inputs)
            inner = torch.empty_like(inputs)
            of_scale, of_shift = inner.new_empty((num, scale.shape[1])), inner.new_empty((num, scale.shape[1]))
            norm_kernels.normalize_back(
                grads.view(num, -1).numpy(), inputs.view(num, -1).numpy(), scale.numpy(), shift.numpy(), mean.numpy(),
                rstd.numpy(), self.rectifies, need_inputs, inner.view(num, -1).numpy(), of_scale.numpy(),
                of_shift.numpy(),
            )  # fmt: skip
            self.leave(of_scale, of_shift)
            return channels_first(inner) if need_inputs else None
        rows, channels = inputs.shape[:2]
        size = inputs[0, 0].numel()
        grads = grads.contiguous()
        flat, each = grads.view(rows, channels, size), channels // self.groups
        shift = flat.sum(2)
        product = torch.bmm(flat.view(-1, 1, size), inputs.view(-1, size, 1)).view(rows, channels)
        centre, spread = mean.repeat_interleave(each, 1), rstd.repeat_interleave(each, 1)
        self.leave((product - centre * shift) * spread, shift)
        if not need_inputs:
            return None
        wide = scale[:, None, :, None]
        grads = (grads.view(self.models, -1, channels, size) * wide).view(inputs.shape)
        result: Tensor = aten.native_group_norm_backward(
            grads, inputs, mean, rstd, None, rows, channels, size, self.groups, [True, False, False]
        )[0]
        return result
