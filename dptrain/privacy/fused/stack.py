"""The parameters of K models of one architecture in one array, and their forward pass as one.

A record's row passes through the architecture's own `forward`: only layers with parameters are exchanged, for rules
that know which rows belong to which model. Everything else (activations, shortcuts, pooling) treats rows one by one
anyway, as it must for any per-record guarantee.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dptrain.errors import PrivacyError
from dptrain.privacy.fused.chain import Chain, Workspace, chain_shape, check_losses
from dptrain.privacy.fused.rectified import pass_rectified, rectified_norms
from dptrain.privacy.fused.rules import RULES, Slot, Tape, unsupported_layers


class Stack:
    """K models whose parameters are rows of `values` (K, P); `gradient` (K, P) holds sums of gradients.

    The models given become views: training the stack trains them.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        problems = unsupported_layers(models[0])
        if problems:
            raise PrivacyError(["The fused engine cannot train this model:", *problems])
        self.models = list(models)
        self.names = [name for name, _ in models[0].named_parameters()]
        flat = [torch.cat([param.detach().flatten() for param in model.parameters()]) for model in models]
        self.values = torch.stack(flat)
        self.gradient = torch.zeros_like(self.values)
        self.tape = Tape()
        slots: dict[str, Slot] = {}
        start = 0
        for name, param in models[0].named_parameters():
            part = slice(start, start + param.numel())
            shape = (len(models), *param.shape)
            slots[name] = Slot(self.values[:, part].view(shape), self.gradient[:, part].view(shape))
            start = part.stop
        for row, model in enumerate(models):
            for name, param in model.named_parameters():
                param.data = slots[name].value[row]
        self._forward = self._template(models[0], slots)
        self.chains: list[Chain] = []
        """The models one by one, where they train faster that way; `forward_backward` knows nothing of them."""
        chain = chain_shape(models[0]) if self.values.device.type == "cpu" else None
        if chain is not None:
            space = Workspace(chain, self.values[:0].numpy().dtype)
            self.chains = [Chain(chain, *rows, space) for rows in zip(self.values, self.gradient, strict=True)]

    @property
    def num_models(self) -> int:
        """K."""
        return len(self.models)

    @property
    def pass_width(self) -> int:
        """Models that go through a pass together."""
        return 1 if self.chains else self.num_models

    def train(self, mode: bool = True) -> None:
        """Train mode of the shared forward pass (dropout)."""
        self._forward.train(mode)

    def forward_backward(
        self, features: Tensor, labels: Tensor, weights: Tensor, record_loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Losses (N,) of rows (N, ...), model after model, and on the tape (or, for plain arms, in `gradient`) what the
        backward pass of the loss summed with `weights` (N,) leaves."""
        self.tape.clear()
        losses = record_loss(self._forward(features), labels)
        check_losses(losses, len(features))
        torch.autograd.backward(losses, weights)
        return losses.detach()

    def _template(self, model: nn.Module, slots: dict[str, Slot]) -> nn.Module:
        """The architecture without parameters of its own: whoever reads one past its layer fails loudly."""
        template = copy.deepcopy(model).to("meta").train()
        rectified = rectified_norms(template)
        for name, module in template.named_modules():
            own = [key for key, _ in module.named_parameters(recurse=False)]
            if own:
                parts = {key: slots[f"{name}.{key}" if name else key] for key in own}
                rule = RULES[type(module)](name, module, parts, self.tape)
                rule.rectifies = name in rectified
                module.forward = rule
            elif type(module) is nn.ReLU:
                pass_rectified(module)
        return template
