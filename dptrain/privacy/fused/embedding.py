"""Embeddings: every row's gradient is the sum of its tokens' gradients at the looked-up positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dptrain.privacy.fused.rules import Rule, handles
from dptrain.privacy.fused.tape import Stored


@handles(nn.Embedding)
class EmbeddingRule(Rule):
    """outputs[n, t] = W[index[n, t]]."""

    @staticmethod
    def problem(module: nn.Module) -> str:
        """Options that change the gradient or the weight."""
        assert isinstance(module, nn.Embedding)
        if module.padding_idx is not None or module.max_norm is not None:
            return "has padding_idx or max_norm"
        return "is sparse or scaled by frequency" if module.sparse or module.scale_grad_by_freq else ""

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Each model looks its own rows up."""
        weight = self.slots["weight"].value
        model = torch.arange(self.models, device=inputs.device)
        index = self.per_model(inputs)
        outputs = weight[model.view(-1, *[1] * (index.dim() - 1)), index]
        return outputs.reshape(*inputs.shape, weight.shape[2]), (inputs,)

    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Scattered to (N, V, D)."""
        (inputs,) = saved
        slot = self.slots["weight"]
        entries, width = slot.value.shape[1:]
        rows = len(inputs)
        index = inputs.reshape(rows, -1)
        place = torch.arange(rows, device=inputs.device)[:, None] * entries + index
        stored = grads.new_zeros((rows * entries, width)).index_add_(0, place.ravel(), grads.reshape(-1, width))
        stored = stored.view(rows, entries, width)
        if self.tape.private:
            self.tape.entries.append(Stored(stored.flatten(1), slot.gradient.view(self.models, -1)))
        else:
            slot.gradient.add_(self.per_model(stored).sum(1))
        return None
