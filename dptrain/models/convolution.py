"""Convolution with weight standardisation, for networks of small channels per group in private training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STANDARDIZATION_EPS = 1e-4


def standardize(weight: Tensor) -> Tensor:
    """(out, in / groups, kh, kw) -> the same, each filter centred and scaled to variance 1 / fan-in."""
    fan_in = weight[0].numel()
    centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    return centred * torch.rsqrt((variance * fan_in).clamp_min(STANDARDIZATION_EPS))


class WSConv2d(nn.Conv2d):
    """Conv2d whose filters have mean 0 and variance 1 / fan-in at every forward pass (Qiao et al. 2019, arXiv
    1903.10520, in the scaled form of Brock et al. 2021, arXiv 2101.08692, eq. 1, without gain; used for DP-SGD by De
    et al. 2022, arXiv 2204.13650).

    The weights are standardised, not the activations, so records stay apart; the parameter is the raw weight. Opacus
    has no rule for this class and differentiates its forward pass record by record (functorch), which is exact.
    """

    def standardized_weight(self) -> Tensor:
        """(out, in / groups, kh, kw): each filter centred and scaled."""
        return standardize(self.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        return F.conv2d(
            inputs, self.standardized_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, standardized: bool = False) -> nn.Conv2d:
    """3 x 3 convolution without bias (a norm follows), initialised after He et al. 2015 (fan-in)."""
    kind = WSConv2d if standardized else nn.Conv2d
    layer = kind(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, standardized: bool = False) -> nn.Conv2d:
    """1 x 1 convolution without bias, for shortcuts between stages."""
    kind = WSConv2d if standardized else nn.Conv2d
    layer = kind(in_channels, out_channels, 1, stride=stride, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer
