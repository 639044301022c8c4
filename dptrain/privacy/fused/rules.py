"""Which layers the fused engine knows, and how a layer hands over what its backward pass saw.

A rule is one class per family of layers: `forward` computes the layer for N = K B rows with the parameters of K models,
`backward` gives the gradient of the inputs and either writes one `Entry` to the tape (private) or adds the plain sum of
gradients (plain arms). Rules are looked up by the exact class of a layer: a subclass may compute something else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.errors import PrivacyError
from dptrain.privacy.fused.tape import Entry


@dataclass(frozen=True)
class Slot:
    """One parameter of K models."""

    value: Tensor
    """(K, *shape), a view of the stacked parameters."""
    gradient: Tensor
    """(K, *shape), a view of the stacked gradient sums."""


class Tape:
    """Entries of the pass that is going on; `private` says whether layers write entries or plain sums."""

    def __init__(self) -> None:
        self.private = True
        self.entries: list[Entry] = []
        self._seen: set[int] = set()

    def clear(self) -> None:
        """Forget the last pass."""
        self.entries = []
        self._seen = set()

    def visit(self, rule: Rule) -> None:
        """A layer's backward pass begins. Its gradient is that of one call: a second one in the same pass would leave
        their product out of the norm."""
        if id(rule) in self._seen:
            raise PrivacyError(
                f"Layer {rule.name!r} is called twice in one forward pass; per-record norms of it would be wrong."
            )
        self._seen.add(id(rule))


class Rule(ABC):
    """A layer of K models. Shapes: inputs and outputs (K B, ...), model after model."""

    rectifies = False
    """Whether a ReLU is all that reads the outputs; they may then leave rectified (`rectified.py`)."""

    def __init__(self, name: str, module: nn.Module, slots: dict[str, Slot], tape: Tape) -> None:
        self.name, self.slots, self.tape = name, slots, tape
        self.models = len(next(iter(slots.values())).value)
        self.read(module)

    @staticmethod
    def problem(module: nn.Module) -> str:
        """Why this very layer cannot be done; empty if it can."""
        return ""

    def read(self, module: nn.Module) -> None:
        """Keep the settings of the layer; the parameters' shapes say everything unless a rule overrides this."""
        del module

    @abstractmethod
    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Outputs, and what the backward pass needs."""

    @abstractmethod
    def backward(self, saved: tuple[Any, ...], grads: Tensor, need_inputs: bool) -> Tensor | None:
        """Gradient of the inputs, if needed; leaves the parameters' on the tape."""

    def per_model(self, rows: Tensor) -> Tensor:
        """(K B, ...) -> (K, B, ...)."""
        return rows.reshape(self.models, -1, *rows.shape[1:])

    def __call__(self, inputs: Tensor) -> Tensor:
        # The token requires a gradient, so that the first layer's backward pass runs.
        output: Tensor = _Layer.apply(inputs, torch.empty(0, requires_grad=True), self)
        return output


class _Layer(torch.autograd.Function):
    """A rule as a step of autograd."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, token: Tensor, rule: Rule) -> Tensor:
        output, saved = rule.forward(inputs)
        ctx.rule, ctx.saved = rule, saved
        return output

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, None, None]:
        ctx.rule.tape.visit(ctx.rule)
        result = ctx.rule.backward(ctx.saved, grads, ctx.needs_input_grad[0])
        ctx.saved = None
        return result, None, None


RuleFactory = Callable[[str, nn.Module, dict[str, Slot], Tape], Rule]
RULES: dict[type[nn.Module], type[Rule]] = {}
"""Layer class -> rule. Everything with parameters that is not here goes to the Opacus engine."""


def handles(*layers: type[nn.Module]) -> Callable[[type[Rule]], type[Rule]]:
    """Class decorator: this rule is for layers of exactly these classes."""

    def enter(rule: type[Rule]) -> type[Rule]:
        for layer in layers:
            RULES[layer] = rule
        return rule

    return enter


def unsupported_layers(model: nn.Module) -> list[str]:
    """What no rule covers, layer by layer, in words; empty if the fused engine can train the model."""
    found = []
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        label = f"{name or 'the model itself'} ({type(module).__name__})"
        if "forward" in vars(module):
            found.append(f"{label} has a forward pass of its own")
        own = dict(module.named_parameters(recurse=False))
        if list(module.buffers(recurse=False)):
            found.append(f"{label} has buffers")
        if not own:
            continue
        rule = RULES.get(type(module))
        if rule is None:
            found.append(f"{label} has parameters and no rule")
            continue
        if not all(param.requires_grad for param in own.values()):
            found.append(f"{label} has frozen parameters")
        if rule.problem(module):
            found.append(f"{label} {rule.problem(module)}")
        for param in own.values():
            if id(param) in owners:
                found.append(f"{label} shares a parameter with {owners[id(param)]}")
            owners[id(param)] = label
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            found.append(f"{label} has hooks")
    return found
