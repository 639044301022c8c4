"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) of layers whose per-record gradients are right.

Capacity: `width`, `depth`, `num_heads`; `patch` is the side of a patch in pixels. Presets: vit_tiny (5.5 M parameters),
vit_small (21.7 M), vit_b_16 (85.8 M) and vit_l_16 (303 M, the largest of the reference study), all with 16-pixel
patches and a class token; model=vit itself is made for small images and few patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dptrain.models.checks import image_shape, patch_problem, raise_if
from dptrain.models.transformer import Tokens, build_transformer, transformer_problems
from dptrain.options import parse_options


@dataclass(frozen=True)
class VitOptions:
    """Options of model=vit."""

    patch: int = 8
    """Side of a square patch in pixels; must divide height and width."""
    width: int = 64
    """Size of a token."""
    depth: int = 4
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; must divide the width."""
    mlp_ratio: int = 4
    """Hidden units of a block's MLP per unit of width."""
    activation: str = "gelu"
    """relu, tanh, gelu or silu."""
    dropout: float = 0.0
    """Fraction of values dropped on each residual path while training."""
    pool: str = "mean"
    """What the last layer sees: the mean over patches, or a class token (class)."""

    def __post_init__(self) -> None:
        raise_if(transformer_problems(self))


def build_vit(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, channels, height, width) -> (B, num_outputs)."""
    parsed = parse_options(VitOptions, options, "model")
    channels, height, width = image_shape("vit", input_shape)
    raise_if(patch_problem("patch", parsed.patch, (height, width), "the image of"))
    patches = nn.Conv2d(channels, parsed.width, parsed.patch, stride=parsed.patch)
    num_patches = (height // parsed.patch) * (width // parsed.patch)
    return build_transformer(Tokens(patches, num_patches, parsed.pool == "class"), parsed, parsed.depth, num_outputs)
