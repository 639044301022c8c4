"""Logistic regression on the features of a frozen encoder: `model=linear_probe model.encoder=WEIGHTS`.

The encoder (`dptrain.models.encoder`) turns every record into a vector once, before the study; what is trained, with
or without privacy, is one linear layer on these vectors, so a fleet costs what it costs on tables. Without an encoder
the records must be vectors already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dptrain.errors import ConfigError
from dptrain.models.checks import at_least_one, raise_if, vector_length
from dptrain.options import parse_options


@dataclass(frozen=True)
class LinearProbeOptions:
    """Options of model=linear_probe."""

    encoder: str | None = None
    """File with the encoder's weights: .safetensors (with `network`), TorchScript (.pt, .pth, .ts, .torchscript) or an
    exported program (.pt2). null: the data are features already."""
    network: str | None = None
    """Architecture of a .safetensors file: a model of dptrain (wrn, vit, ...), monai:DenseNet121, or the import path of
    your own class (package.module:Class)."""
    network_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that architecture."""
    head: str | None = None
    """Name of the layer that is taken off; null takes the last linear layer. Its inputs are the features."""
    repeat_channels: int = 1
    """Copies of every channel that the encoder sees: 3 for an RGB encoder on grey images."""
    size: int | None = None
    """Images are resized to this height and width (bilinear) for the encoder; null leaves them as they are."""
    encode_batch: int = 64
    """Records per pass through the encoder. Changes speed, memory and rounding."""
    cache_dir: str | None = None
    """Folder of encoded records; null takes `dptrain` in $XDG_CACHE_HOME (~/.cache). Holds patients' data."""
    normalize: bool = True
    """Scale each record's features to mean 0 and variance 1 (of that record alone, nothing is learned)."""
    zero_init: bool = True
    """Start at zero: the problem is convex, and few private steps should not be spent on undoing a random start."""

    def __post_init__(self) -> None:
        problems = at_least_one(self, "repeat_channels", "encode_batch")
        if self.size is not None and self.size < 1:
            problems.append(f"model.size={self.size} must be >= 1 pixel, or null.")
        if self.encoder is None:
            given = [name for name in ("network", "head", "size") if getattr(self, name) is not None]
            problems += [
                f"model.{name}={getattr(self, name)} is about an encoder, but model.encoder is null. Set "
                "model.encoder to the file with its weights."
                for name in given
            ]
        raise_if(problems)


def build_linear_probe(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Sequential:
    """(B, features) -> (B, num_outputs)."""
    parsed = parse_options(LinearProbeOptions, options, "model")
    if len(input_shape) != 1 and parsed.encoder is None:
        raise ConfigError(
            f"model=linear_probe takes features, and the records of these data have shape {tuple(input_shape)}. Name a "
            "frozen encoder that makes features of them (model.encoder=WEIGHTS.safetensors model.network=vit, or "
            "model.encoder=MODEL.pt for TorchScript), or take model=linear on the raw values."
        )
    size = vector_length("linear_probe", input_shape)
    layer = nn.Linear(size, num_outputs)
    if parsed.zero_init:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    norm = [nn.LayerNorm(size, elementwise_affine=False)] if parsed.normalize else []
    return nn.Sequential(*norm, layer)
