"""Residual network for tables: pre-activation blocks x + W2 act(W1 norm(x)) (ResNet of Gorishniy et al., NeurIPS 2021,
eq. "ResNetBlock"), with LayerNorm or GroupNorm instead of BatchNorm and no dropout.

The reference study's tabular ResNet is width 300, depth 6: `model=tab_resnet_300x6`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dptrain.errors import ConfigError
from dptrain.models.activation import ACTIVATIONS, activation_problems
from dptrain.options import parse_options


@dataclass(frozen=True)
class TabResnetOptions:
    """Options of model=tab_resnet."""

    width: int = 128
    """Units of the residual stream and of each block's hidden layer."""
    depth: int = 3
    """Number of residual blocks (two linear layers each)."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""
    norm: str = "layer"
    """layer or group. Both look at one record only."""
    num_groups: int = 4
    """Groups of norm=group; must divide the width. Ignored by norm=layer."""

    def __post_init__(self) -> None:
        problems = activation_problems(self.activation)
        for name in ("width", "depth", "num_groups"):
            if getattr(self, name) < 1:
                problems.append(f"model.{name}={getattr(self, name)} must be >= 1.")
        if self.norm not in ("layer", "group"):
            problems.append(
                f"model.norm={self.norm!r} must be layer or group (BatchNorm mixes patients: no per-patient gradient)."
            )
        elif self.norm == "group" and self.num_groups >= 1 and self.width % self.num_groups:
            problems.append(f"model.num_groups={self.num_groups} must divide model.width={self.width}.")
        if problems:
            raise ConfigError(problems)


class ResidualBlock(nn.Module):
    """(B, width) -> (B, width)."""

    def __init__(self, options: TabResnetOptions) -> None:
        super().__init__()
        self.norm = _norm(options)
        self.expand = nn.Linear(options.width, options.width)
        self.activation = ACTIVATIONS[options.activation]()
        self.project = nn.Linear(options.width, options.width)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs + project(activation(expand(norm(inputs))))."""
        update: Tensor = self.project(self.activation(self.expand(self.norm(inputs))))
        return inputs + update


def build_tab_resnet(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, *input_shape) -> (B, num_outputs)."""
    parsed = parse_options(TabResnetOptions, options, "model")
    return nn.Sequential(
        *([nn.Flatten()] if len(input_shape) != 1 else []),
        nn.Linear(math.prod(input_shape), parsed.width),
        *(ResidualBlock(parsed) for _ in range(parsed.depth)),
        _norm(parsed),
        ACTIVATIONS[parsed.activation](),
        nn.Linear(parsed.width, num_outputs),
    )


def _norm(options: TabResnetOptions) -> nn.Module:
    if options.norm == "group":
        return nn.GroupNorm(options.num_groups, options.width)
    return nn.LayerNorm(options.width)
