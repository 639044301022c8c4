"""Convolutions, and the gradients of their weights for every record.

On a CPU the models of a stack follow each other, and channels lie last in memory from layer to layer: the library then
convolves what it is given instead of a copy in its own order, and `weight_tiles` finds a record's numbers side by side.
On a GPU the models are groups of channels of one convolution. Where tiles do not fit (and on a GPU) the gradients come
from one grouped convolution: record n is group n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from dptrain.privacy.fused import weight_tiles
from dptrain.privacy.fused.layout import channels_first, channels_last, is_on_cpu
from dptrain.privacy.fused.rules import RULES, Rule, handles
from dptrain.privacy.fused.tape import Stored
from dptrain.tiles import LANES

aten = torch.ops.aten
_Pull = list[Callable[[Tensor], tuple[Tensor]]] | None
"""How gradients of what is convolved with become those of each model's parameter, if they differ."""


@dataclass
class _Tiled(Stored):
    """Gradients of all rows, `rows` (N, kernel * in * out), in the order of tiles."""

    def add_weighted(self, weight: Tensor) -> None:
        """The sum alone is put in the order of the parameter: `total` is a view (K, *kernel, in, out) of it."""
        models = len(self.total)
        rows = self.rows.view(models, -1, self.rows.shape[1])
        self.total.add_(torch.bmm(weight.view(models, 1, -1), rows).view(self.total.shape))


@handles(nn.Conv1d, nn.Conv2d)
class ConvRule(Rule):
    """Conv1d and Conv2d with zero padding."""

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
        """Outputs, and what `backward` reads."""
        weight, pull = self._weight()
        bias = self.slots.get("bias")
        if not is_on_cpu(inputs):
            wide, joined = _beside(inputs, self.models), weight.flatten(0, 1)
            outputs = aten.convolution(
                wide, joined, None if bias is None else bias.value.reshape(-1), *self.settings, False,
                [0] * self.axes, self.models * self.groups,
            )  # fmt: skip
            return _below(outputs, self.models), (inputs, wide, joined, pull)
        rows, weight = channels_last(inputs), self._image(weight)
        parts = [
            aten.convolution(
                part, one, None if bias is None else bias.value[model], *self._image_settings(), False, [0, 0],
                self.groups,
            )
            for model, (part, one) in enumerate(zip(self._images(rows), weight, strict=True))
        ]  # fmt: skip
        return self._from_images(parts), (rows, None, weight, pull)

    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Gradients of the inputs; weight gradients per record, or summed for plain arms."""
        inputs, wide, weight, pull = saved
        private = self.tape.private
        result: Tensor | None
        if not is_on_cpu(grads):
            grads = grads.contiguous()
            result, summed, _ = aten.convolution_backward(
                _beside(grads, self.models), wide, weight, None, *self.settings, False, [0] * self.axes,
                self.models * self.groups, [need_inputs, not private, False],
            )  # fmt: skip
            result = _below(result, self.models) if need_inputs else None
            shift = grads.flatten(2).sum(2) if "bias" in self.slots else None
        else:
            grads = channels_last(grads)
            parts = [
                aten.convolution_backward(
                    grad, part, one, None, *self._image_settings(), False, [0, 0], self.groups,
                    [need_inputs, not private, False],
                )
                for grad, part, one in zip(self._images(grads), self._images(inputs), weight, strict=True)
            ]  # fmt: skip
            result = self._from_images([part[0] for part in parts]) if need_inputs else None
            summed = None if private else torch.stack([part[1] for part in parts])
            shift = grads.flatten(1, -2).sum(1) if "bias" in self.slots else None
        if private:
            self._leave_records(inputs, grads, pull)
        else:
            plain = summed.view(self.slots["weight"].value.shape)
            if pull is not None:
                plain = torch.stack([one(part)[0] for one, part in zip(pull, plain, strict=True)])
            self.slots["weight"].gradient.add_(plain)
        if shift is not None:
            bias = self.slots["bias"]
            if private:
                self.tape.entries.append(Stored(shift, bias.gradient))
            else:
                bias.gradient.add_(self.per_model(shift).sum(1))
        return result

    def _leave_records(self, inputs: Tensor, grads: Tensor, pull: _Pull) -> None:
        """Weight gradients of all records; on a CPU channels of both arrays lie last."""
        slot = self.slots["weight"]
        if is_on_cpu(grads) and self.groups == 1 and grads.shape[-1] >= LANES:
            tiles = self._tiles(inputs, grads)
            if pull is None:
                kernel = range(3, slot.value.dim())
                self.tape.entries.append(_Tiled(tiles.flatten(1), slot.gradient.permute(0, *kernel, 2, 1)))
                return
            rows = tiles.permute(0, tiles.dim() - 1, tiles.dim() - 2, *range(1, tiles.dim() - 2)).flatten(1)
        elif is_on_cpu(grads):
            rows = self._grouped(channels_first(inputs).contiguous(), channels_first(grads).contiguous())
        else:
            rows = self._grouped(inputs.contiguous(), grads)
        if pull is not None:
            rows = self._pulled(rows, pull)
        self.tape.entries.append(Stored(rows, slot.gradient.view(self.models, -1)))

    def _tiles(self, inputs: Tensor, grads: Tensor) -> Tensor:
        """(N, *kernel, in, out)."""
        shape = self.slots["weight"].value.shape
        kernel = (1, *shape[3:]) if self.axes == 1 else tuple(shape[3:])
        if self.axes == 1:
            inputs, grads = inputs.unsqueeze(1), grads.unsqueeze(1)
        found = torch.from_numpy(
            weight_tiles.weight_gradients(inputs.numpy(), grads.numpy(), kernel, *self._image_settings())
        )
        return found.squeeze(1) if self.axes == 1 else found

    def _grouped(self, inputs: Tensor, grads: Tensor) -> Tensor:
        """(N, out * in * kernel)."""
        rows, shape = len(inputs), self.slots["weight"].value.shape[2:]
        outs = grads.shape[1]
        _, found, _ = aten.convolution_backward(
            grads.reshape(1, rows * outs, *grads.shape[2:]),
            inputs.reshape(1, rows * inputs.shape[1], *inputs.shape[2:]),
            grads.new_empty(()).expand(rows * outs, *shape),
            None, *self.settings, False, [0] * self.axes, rows * self.groups, [False, True, False],
        )  # fmt: skip
        stored: Tensor = found.reshape(rows, -1)
        return stored

    def _images(self, rows: Tensor) -> list[Tensor]:
        """(K B, *positions, C) -> K of (B, C, height, width), signals as images of height 1; the memory stays."""
        if self.axes == 1:
            rows = rows.unsqueeze(1)
        return list(channels_first(rows).chunk(self.models))

    def _from_images(self, parts: list[Tensor]) -> Tensor:
        """Back to (K B, C, *positions)."""
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.squeeze(2) if self.axes == 1 else joined

    def _image(self, weight: Tensor) -> list[Tensor]:
        """(K, out, in, *kernel) -> K of (out, in, rows, columns), channels last in memory."""
        wide = weight.unsqueeze(3) if self.axes == 1 else weight
        return [one.contiguous(memory_format=torch.channels_last) for one in wide]

    def _image_settings(self) -> tuple[list[int], list[int], list[int]]:
        """Stride, padding, dilation along two axes."""
        stride, padding, dilation = self.settings
        return (stride, padding, dilation) if self.axes == 2 else ([1, *stride], [0, *padding], [1, *dilation])

    def _weight(self) -> tuple[Tensor, _Pull]:
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
