"""Pieces of the transformers: positions, self-attention and pre-norm blocks, of standard layers only.

Every learned number sits in a Linear, LayerNorm, Embedding or convolution that is called once per pass with the batch
first, so that the per-record gradients of hooks are right: positions are an Embedding that is looked up for every
record (a bare nn.Parameter would give one gradient for the whole batch), the class token is its row 0 (a token of its
own would only be added to that row), and attention is one Linear and plain matrix products, because
nn.MultiheadAttention owns its parameters and takes three inputs. (PyTorch's scaled_dot_product_attention has no
batching rule on a CPU: under vmap it falls back to one record after another.)
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dptrain.models.activation import ACTIVATIONS, activation_problems
from dptrain.models.checks import at_least_one, fraction_problems

INIT_STD = 0.02


class TransformerOptions(Protocol):
    """What a block needs to know."""

    @property
    def width(self) -> int:
        """D: size of a token."""

    @property
    def num_heads(self) -> int:
        """Attention heads."""

    @property
    def mlp_ratio(self) -> int:
        """Hidden units of a block's MLP per unit of width."""

    @property
    def activation(self) -> str:
        """Activation of the MLP."""

    @property
    def dropout(self) -> float:
        """Fraction of values dropped on each residual path."""

    @property
    def pool(self) -> str:
        """mean or class."""


def transformer_problems(options: TransformerOptions) -> list[str]:
    """Problems of the common options."""
    problems = activation_problems(options.activation) + at_least_one(
        options, "patch", "width", "depth", "num_heads", "mlp_ratio"
    )
    problems += fraction_problems(options, "dropout")
    if options.num_heads >= 1 and options.width >= 1 and options.width % options.num_heads:
        problems.append(f"model.num_heads={options.num_heads} must divide model.width={options.width}.")
    if options.pool not in ("mean", "class"):
        problems.append(f"model.pool={options.pool!r} must be mean (over tokens) or class (a token of its own).")
    return problems


class Tokens(nn.Module):
    """(B, in, ...) -> (B, T, D): a strided convolution cuts the record into patches; positions are added.

    With `class_token` row 0 of the positions comes first, as a token that belongs to no patch.
    """

    def __init__(self, patches: nn.Conv1d | nn.Conv2d, num_patches: int, class_token: bool) -> None:
        super().__init__()
        width = patches.out_channels
        self.class_token = class_token
        self.patches = patches
        self.positions = nn.Embedding(num_patches + class_token, width)
        nn.init.trunc_normal_(self.positions.weight, std=INIT_STD)

    def forward(self, inputs: Tensor) -> Tensor:
        """The positions are looked up once per record, which gives each record a gradient of its own."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        index = torch.arange(self.positions.num_embeddings, device=inputs.device)
        positions: Tensor = self.positions(index.expand(inputs.shape[0], -1))
        if self.class_token:
            return torch.cat([positions[:, :1], positions[:, 1:] + tokens], dim=1)
        return positions + tokens


class SelfAttention(nn.Module):
    """(B, T, D) -> (B, T, D): every token attends to all tokens of its own record."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(D / heads)) V for each head (Vaswani et al. 2017, eq. 1)."""
        query, key, value = self.qkv(inputs).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1), dim=-1)
        out: Tensor = self.project((weights @ value).transpose(1, 2).flatten(2))
        return out


class TransformerBlock(nn.Module):
    """(B, T, D) -> (B, T, D): attention and MLP, each after a norm and around a shortcut (Dosovitskiy et al. 2021)."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        width, hidden = options.width, options.mlp_ratio * options.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, options.num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[options.activation]()
        self.project = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Attention, then MLP."""
        tokens = inputs + self.dropout(self.attention(self.norm1(inputs)))
        update: Tensor = self.dropout(self.project(self.activation(self.expand(self.norm2(tokens)))))
        return tokens + update


class Pool(nn.Module):
    """(B, T, D) -> (B, D): the class token, or the mean over tokens."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, tokens: Tensor) -> Tensor:
        """Position 0, or the mean."""
        return tokens[:, 0] if self.pool == "class" else tokens.mean(dim=1)


def build_transformer(tokens: Tokens, options: TransformerOptions, depth: int, num_outputs: int) -> nn.Sequential:
    """Tokens, `depth` blocks, LayerNorm, pooling and a linear layer that starts near zero."""
    head = nn.Linear(options.width, num_outputs)
    nn.init.trunc_normal_(head.weight, std=INIT_STD)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        tokens,
        *(TransformerBlock(options) for _ in range(depth)),
        nn.LayerNorm(options.width),
        Pool(options.pool),
        head,
    )
