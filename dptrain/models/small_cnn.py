"""Small convolutional network for images: `depth` stages of convolution (stride 2), GroupNorm and activation, the mean
over what is left of the image, and one linear layer. Each stage halves the image and doubles the maps.

A plain nn.Sequential of standard layers. Capacity: `width` (maps of the first stage) and `depth`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dptrain.models.activation import ACTIVATIONS, activation_problems
from dptrain.models.checks import at_least_one, group_problems, image_shape, raise_if
from dptrain.models.convolution import conv3x3
from dptrain.options import parse_options


@dataclass(frozen=True)
class SmallCnnOptions:
    """Options of model=small_cnn."""

    width: int = 16
    """Maps of the first stage; every further stage has twice as many."""
    depth: int = 3
    """Stages; each halves the image."""
    num_groups: int = 4
    """Groups of GroupNorm; must divide the width."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""

    def __post_init__(self) -> None:
        raise_if(
            activation_problems(self.activation)
            + at_least_one(self, "width", "depth", "num_groups")
            + group_problems(self.num_groups, self.width, "model.width")
        )


def build_small_cnn(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, channels, height, width) -> (B, num_outputs)."""
    parsed = parse_options(SmallCnnOptions, options, "model")
    channels, _, _ = image_shape("small_cnn", input_shape, min_side=2**parsed.depth + 1)
    layers: list[nn.Module] = []
    for stage in range(parsed.depth):
        maps = parsed.width * 2**stage
        layers += [
            conv3x3(channels, maps, stride=2),
            nn.GroupNorm(parsed.num_groups, maps),
            ACTIVATIONS[parsed.activation](),
        ]
        channels = maps
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_outputs))
