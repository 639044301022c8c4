"""Transformer for ECGs and other signals: `patch` consecutive samples of all leads become one token.

The blocks are those of `model=vit`. 1000 samples x 12 leads with patches of 25 samples (a quarter of a second at
100 Hz) are 40 tokens. Capacity: `width`, `depth`, `num_heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dptrain.models.checks import patch_problem, raise_if, signal_shape
from dptrain.models.transformer import Tokens, build_transformer, transformer_problems
from dptrain.options import parse_options


@dataclass(frozen=True)
class EcgTransformerOptions:
    """Options of model=ecg_transformer."""

    patch: int = 25
    """Samples per token; must divide the length of a record."""
    width: int = 64
    """Size of a token."""
    depth: int = 4
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; must divide the width."""
    mlp_ratio: int = 2
    """Hidden units of a block's MLP per unit of width."""
    activation: str = "gelu"
    """relu, tanh, gelu or silu."""
    dropout: float = 0.0
    """Fraction of values dropped on each residual path while training."""
    pool: str = "mean"
    """What the last layer sees: the mean over tokens, or a class token (class)."""

    def __post_init__(self) -> None:
        raise_if(transformer_problems(self))


def build_ecg_transformer(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, leads, samples) -> (B, num_outputs)."""
    parsed = parse_options(EcgTransformerOptions, options, "model")
    leads, samples = signal_shape("ecg_transformer", input_shape)
    raise_if(patch_problem("patch", parsed.patch, (samples,), "the number of samples"))
    patches = nn.Conv1d(leads, parsed.width, parsed.patch, stride=parsed.patch)
    return build_transformer(
        Tokens(patches, samples // parsed.patch, parsed.pool == "class"), parsed, parsed.depth, num_outputs
    )
