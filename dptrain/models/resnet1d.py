"""1-D residual network for ECGs: blocks of three convolutions with kernels 7, 5 and 3 around a shortcut (after the
ResNet for time series of Wang et al. 2017, arXiv 1611.06455), with GroupNorm instead of BatchNorm.

The first block has `maps` maps, all further ones twice as many. Each block starts by halving the length (`stride=2`,
which costs a tenth of the original's full-length maps on 1000 samples); `stride=1` keeps it. The reference study's
networks have 32 and 128 maps: `model=resnet1d_32`, `model=resnet1d_128`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dptrain.models.activation import ACTIVATIONS, activation_problems
from dptrain.models.checks import at_least_one, group_problems, raise_if, signal_shape
from dptrain.options import parse_options

KERNELS = (7, 5, 3)


@dataclass(frozen=True)
class Resnet1dOptions:
    """Options of model=resnet1d."""

    maps: int = 32
    """Maps of the first block; the others have twice as many."""
    depth: int = 3
    """Residual blocks, three convolutions each."""
    stride: int = 2
    """Factor by which each block shortens the signal at its start; 1 keeps all samples."""
    num_groups: int = 8
    """Groups of GroupNorm; must divide the maps."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""

    def __post_init__(self) -> None:
        raise_if(
            activation_problems(self.activation)
            + at_least_one(self, "maps", "depth", "stride", "num_groups")
            + group_problems(self.num_groups, self.maps, "model.maps")
        )


class ResidualBlock1d(nn.Module):
    """(B, in, L) -> (B, out, L / stride)."""

    def __init__(self, options: Resnet1dOptions, in_maps: int, out_maps: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        maps = in_maps
        for index, kernel in enumerate(KERNELS):
            stride = options.stride if index == 0 else 1
            layers += [_conv(maps, out_maps, kernel, stride), nn.GroupNorm(options.num_groups, out_maps)]
            if index < len(KERNELS) - 1:
                layers.append(ACTIVATIONS[options.activation]())
            maps = out_maps
        self.path = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if in_maps != out_maps or options.stride > 1:
            self.shortcut = nn.Sequential(
                _conv(in_maps, out_maps, 1, options.stride), nn.GroupNorm(options.num_groups, out_maps)
            )
        self.activation = ACTIVATIONS[options.activation]()

    def forward(self, inputs: Tensor) -> Tensor:
        """activation(path + shortcut)."""
        out: Tensor = self.activation(self.path(inputs) + self.shortcut(inputs))
        return out


def build_resnet1d(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, leads, samples) -> (B, num_outputs)."""
    parsed = parse_options(Resnet1dOptions, options, "model")
    leads, _ = signal_shape("resnet1d", input_shape, min_samples=2 * parsed.stride**parsed.depth)
    blocks: list[nn.Module] = []
    maps = leads
    for index in range(parsed.depth):
        wider = parsed.maps * (2 if index else 1)
        blocks.append(ResidualBlock1d(parsed, maps, wider))
        maps = wider
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(maps, num_outputs))


def _conv(in_maps: int, out_maps: int, kernel: int, stride: int) -> nn.Conv1d:
    layer = nn.Conv1d(in_maps, out_maps, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
