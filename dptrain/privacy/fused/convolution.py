"""Convolutions. The gradients of all records come from one grouped convolution: record n is group n."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from dptrain.privacy.fused.rules import RULES, Rule, handles
from dptrain.privacy.fused.tape import Stored

aten = torch.ops.aten


@handles(nn.Conv1d, nn.Conv2d)
class ConvRule(Rule):
    """Conv1d and Conv2d with zero padding; several models are groups of channels."""

    transform: ClassVar[Callable[[Tensor], Tensor] | None] = None
    """(out, in, *kernel) -> the same: what the layer does to its weight before it convolves, if anything."""

    @staticmethod
    def problem(module: nn.Module) -> str:
        """Paddings that are not zeros on both sides."""
        assert isinstance(module, (nn.Conv1d, nn.Conv2d))
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return f"pads with padding_mode={module.padding_mode}, padding={module.padding}"
        return ""

    def read(self, module: nn.Module) -> None:
        assert isinstance(module, (nn.Conv1d, nn.Conv2d))
        self.settings = (list(module.stride), list(module.padding), list(module.dilation))
        self.groups, self.axes = module.groups, len(module.stride)

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """The weights of all models form one grouped convolution."""
        weight, pull = self._weight()
        bias = self.slots.get("bias")
        wide = _beside(inputs, self.models)
        joined = weight.flatten(0, 1)
        outputs = aten.convolution(
            wide, joined, None if bias is None else bias.value.reshape(-1), *self.settings, False, [0] * self.axes,
            self.models * self.groups,
        )  # fmt: skip
        return _below(outputs, self.models), (inputs, wide, joined, pull)

    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Input gradients of all models at once; weight gradients per record, or summed for plain arms."""
        inputs, wide, joined, pull = saved
        weight, bias = self.slots["weight"], self.slots.get("bias")
        private = self.tape.private
        grads = grads.contiguous()
        beside = _beside(grads, self.models)
        result, summed, _ = aten.convolution_backward(
            beside, wide, joined, None, *self.settings, False, [0] * self.axes, self.models * self.groups,
            [need_inputs, not private, False],
        )  # fmt: skip
        if private:
            rows = self._per_record(inputs.contiguous(), grads, joined)
            if pull is not None:
                rows = self._pulled(rows, pull)
            self.tape.entries.append(Stored(rows, weight.gradient.view(self.models, -1)))
        else:
            plain = summed.view(weight.value.shape)
            if pull is not None:
                plain = torch.stack([one(part)[0] for one, part in zip(pull, plain, strict=True)])
            weight.gradient.add_(plain)
        if bias is not None:
            shift = grads.flatten(2).sum(2)
            if private:
                self.tape.entries.append(Stored(shift, bias.gradient))
            else:
                bias.gradient.add_(self.per_model(shift).sum(1))
        return _below(result, self.models) if need_inputs else None

    def _per_record(self, inputs: Tensor, grads: Tensor, joined: Tensor) -> Tensor:
        """(N, out * in * kernel)."""
        rows = len(inputs)
        shape = joined.shape[1:]
        outs = grads.shape[1]
        _, found, _ = aten.convolution_backward(
            grads.reshape(1, rows * outs, *grads.shape[2:]),
            inputs.reshape(1, rows * inputs.shape[1], *inputs.shape[2:]),
            joined.new_empty(()).expand(rows * outs, *shape),
            None, *self.settings, False, [0] * self.axes, rows * self.groups, [False, True, False],
        )  # fmt: skip
        stored: Tensor = found.reshape(rows, -1)
        return stored

    def _weight(self) -> tuple[Tensor, list[Callable[[Tensor], tuple[Tensor]]] | None]:
        """(K, out, in, *kernel) that is convolved with, and each model's map of its gradient to the parameter's."""
        value = self.slots["weight"].value
        if self.transform is None:
            return value, None
        with torch.enable_grad():
            pairs = [vjp(type(self).transform, part) for part in value]
        return torch.stack([pair[0] for pair in pairs]).detach(), [pair[1] for pair in pairs]

    def _pulled(self, rows: Tensor, pull: list[Callable[[Tensor], tuple[Tensor]]]) -> Tensor:
        """Gradients of the convolved weight to gradients of the parameter, row by row (it is a linear map)."""
        shape = self.slots["weight"].value.shape[1:]
        parts = [vmap(one)(part.view(-1, *shape))[0] for one, part in zip(pull, self.per_model(rows), strict=True)]
        return torch.cat(parts).flatten(1)


def register_convolution(layer: type[nn.Module], transform: Callable[[Tensor], Tensor]) -> None:
    """Make a rule for a subclass of Conv1d or Conv2d that convolves with `transform(weight)` of its parameter."""
    RULES[layer] = type(f"{layer.__name__}Rule", (ConvRule,), {"transform": staticmethod(transform)})


def _beside(rows: Tensor, models: int) -> Tensor:
    """(K B, C, ...) -> (B, K C, ...)."""
    if models == 1:
        return rows
    split = rows.reshape(models, -1, *rows.shape[1:]).transpose(0, 1)
    return split.reshape(split.shape[0], -1, *rows.shape[2:])


def _below(rows: Tensor, models: int) -> Tensor:
    """(B, K C, ...) -> (K B, C, ...)."""
    if models == 1:
        return rows
    split = rows.reshape(len(rows), models, -1, *rows.shape[2:]).transpose(0, 1)
    return split.reshape(-1, *split.shape[2:])
