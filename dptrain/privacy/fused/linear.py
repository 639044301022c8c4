"""Linear layers: one batched product over the models; per-record gradients stay factored wherever that is cheaper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dptrain.privacy.fused.rules import Rule, handles
from dptrain.privacy.fused.tape import Outer, Stored


@handles(nn.Linear)
class LinearRule(Rule):
    """outputs = inputs W^T + b for rows (N, D) or rows of tokens (N, ..., D)."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """`baddbmm` over models."""
        weight, bias = self.slots["weight"].value, self.slots.get("bias")
        flat = inputs.reshape(self.models, -1, inputs.shape[-1])
        if bias is None:
            outputs = torch.bmm(flat, weight.mT)
        else:
            outputs = torch.baddbmm(bias.value.unsqueeze(1), flat, weight.mT)
        return outputs.view(*inputs.shape[:-1], weight.shape[1]), (inputs,)

    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Private: factors, or for few weights and many tokens the gradients themselves."""
        (inputs,) = saved
        weight, bias = self.slots["weight"], self.slots.get("bias")
        outs, ins = weight.value.shape[1:]
        rows = len(inputs)
        flat = grads.reshape(self.models, -1, outs)
        if not self.tape.private:
            weight.gradient.baddbmm_(flat.mT, inputs.reshape(self.models, -1, ins))
            if bias is not None:
                bias.gradient.add_(flat.sum(1))
        else:
            a, g = inputs.reshape(rows, -1, ins), grads.reshape(rows, -1, outs)
            tokens = a.shape[1]
            if tokens == 1 or tokens * (ins + outs) < ins * outs:
                self.tape.entries.append(Outer(a, g, weight.gradient, None if bias is None else bias.gradient))
            else:
                stored = torch.bmm(g.mT, a).view(rows, -1)
                self.tape.entries.append(Stored(stored, weight.gradient.view(self.models, -1)))
                if bias is not None:
                    self.tape.entries.append(Stored(g.sum(1), bias.gradient))
        return torch.bmm(flat, weight.value).view(inputs.shape) if need_inputs else None
