"""Wide residual network for images (Zagoruyko and Komodakis 2016, arXiv 1605.07146): WRN-`depth`-`width` with GroupNorm
instead of BatchNorm, as De et al. 2022 (arXiv 2204.13650) train it with DP-SGD; weight standardisation is an option.

Three stages of 16, 32 and 64 times `width` maps at full, half and quarter resolution, (depth - 4) / 6 pre-activation
blocks each. WRN-28-2 (1.5 M parameters) and WRN-40-4 (9 M) are those of the reference study, at 64 x 64 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dptrain.models.activation import ACTIVATIONS, activation_problems
from dptrain.models.checks import at_least_one, group_problems, image_shape, raise_if
from dptrain.models.convolution import conv1x1, conv3x3
from dptrain.options import parse_options

STEM_MAPS = 16
NUM_STAGES = 3


@dataclass(frozen=True)
class WrnOptions:
    """Options of model=wrn."""

    depth: int = 16
    """Convolutions on the longest path: 10, 16, 22, 28, 34, 40, ... (6 n + 4)."""
    width: int = 1
    """Widening factor k: the stages have 16 k, 32 k and 64 k maps."""
    num_groups: int = 8
    """Groups of GroupNorm: 1, 2, 4, 8 or 16."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""
    weight_standardization: bool = False
    """Standardise the filters of every 3 x 3 and 1 x 1 convolution."""

    def __post_init__(self) -> None:
        problems = activation_problems(self.activation) + at_least_one(self, "width", "num_groups")
        if self.depth < 10 or (self.depth - 4) % 6:
            problems.append(f"model.depth={self.depth} must be 10, 16, 22, 28, 34, 40, ... (6 n + 4).")
        raise_if(problems + group_problems(self.num_groups, STEM_MAPS, "the maps of the first convolution"))

    @property
    def blocks_per_stage(self) -> int:
        """n of depth = 6 n + 4."""
        return (self.depth - 4) // 6


class WideBlock(nn.Module):
    """(B, in, H, W) -> (B, out, H / stride, W / stride): norm, activation, convolution, twice, around a shortcut."""

    def __init__(self, options: WrnOptions, in_maps: int, out_maps: int, stride: int) -> None:
        super().__init__()
        standardized = options.weight_standardization
        self.norm1 = nn.GroupNorm(options.num_groups, in_maps)
        self.activation = ACTIVATIONS[options.activation]()
        self.conv1 = conv3x3(in_maps, out_maps, stride, standardized)
        self.norm2 = nn.GroupNorm(options.num_groups, out_maps)
        self.conv2 = conv3x3(out_maps, out_maps, 1, standardized)
        self.shortcut = conv1x1(in_maps, out_maps, stride, standardized) if in_maps != out_maps else None

    def forward(self, inputs: Tensor) -> Tensor:
        """The shortcut of a stage's first block starts after norm and activation."""
        hidden = self.activation(self.norm1(inputs))
        kept = inputs if self.shortcut is None else self.shortcut(hidden)
        update: Tensor = self.conv2(self.activation(self.norm2(self.conv1(hidden))))
        return kept + update


def build_wrn(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, channels, height, width) -> (B, num_outputs)."""
    parsed = parse_options(WrnOptions, options, "model")
    channels, _, _ = image_shape("wrn", input_shape, min_side=8)
    layers: list[nn.Module] = [conv3x3(channels, STEM_MAPS, standardized=parsed.weight_standardization)]
    maps = STEM_MAPS
    for stage in range(NUM_STAGES):
        wide = STEM_MAPS * parsed.width * 2**stage
        for block in range(parsed.blocks_per_stage):
            layers.append(WideBlock(parsed, maps, wide, stride=2 if stage and not block else 1))
            maps = wide
    return nn.Sequential(
        *layers,
        nn.GroupNorm(parsed.num_groups, maps),
        ACTIVATIONS[parsed.activation](),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(maps, num_outputs),
    )
