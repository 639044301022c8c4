"""Multilayer perceptron: `depth` hidden layers of `width` units, no normalisation.

A plain nn.Sequential of Linear and activation (after a Flatten if a record is not a vector), which is what the fused
fleet engine stacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dptrain.errors import ConfigError
from dptrain.models.activation import ACTIVATIONS, activation_problems
from dptrain.options import parse_options


@dataclass(frozen=True)
class MlpOptions:
    """Options of model=mlp."""

    width: int = 32
    """Units per hidden layer."""
    depth: int = 2
    """Number of hidden layers."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""

    def __post_init__(self) -> None:
        problems = activation_problems(self.activation)
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                hint = " For no hidden layer take model=linear." if name == "depth" else ""
                problems.append(f"model.{name}={getattr(self, name)} must be >= 1.{hint}")
        if problems:
            raise ConfigError(problems)


def build_mlp(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, *input_shape) -> (B, num_outputs)."""
    parsed = parse_options(MlpOptions, options, "model")
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) != 1 else []
    size = math.prod(input_shape)
    for _ in range(parsed.depth):
        layers += [nn.Linear(size, parsed.width), ACTIVATIONS[parsed.activation]()]
        size = parsed.width
    return nn.Sequential(*layers, nn.Linear(size, num_outputs))
