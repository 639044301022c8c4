"""Logistic regression: one linear layer from all inputs to the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dptrain.options import parse_options


@dataclass(frozen=True)
class LinearOptions:
    """Options of model=linear."""

    zero_init: bool = True
    """Start at zero: the problem is convex, and few private steps should not be spent on undoing a random start."""


def build_linear(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, *input_shape) -> (B, num_outputs)."""
    parsed = parse_options(LinearOptions, options, "model")
    layer = nn.Linear(math.prod(input_shape), num_outputs)
    if parsed.zero_init:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*([nn.Flatten()] if len(input_shape) != 1 else []), layer)
