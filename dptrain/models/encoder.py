"""Frozen encoders: a user's local weights, described by the configuration and loaded as a network without its head.

The encoder is taken as public. Epsilon covers the training of the probe, not what the encoder was trained on: if
patients of the cohort were in its training data, nothing here protects them (`Encoder.statement` says so in the
privacy statement). Nothing is downloaded. TorchScript and exported files are programs: take only those that you would
run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.config import ModelConfig
from dptrain.errors import ConfigError
from dptrain.models.linear_probe import LinearProbeOptions
from dptrain.models.monai_nets import make_monai
from dptrain.models.registry import build_model
from dptrain.options import parse_options

EXPORTED = ".pt2"
PROGRAMS = (".pt", ".pth", ".ts", ".torchscript", EXPORTED)
"""TorchScript, and what torch.export.save writes: files that bring their own architecture."""
MONAI = "monai:"
"""Prefix of the name of a MONAI network."""


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder as the configuration describes it."""

    weights: Path
    """File with the weights."""
    network: str | None = None
    """Architecture of a safetensors file; None for TorchScript."""
    network_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that architecture."""
    head: str | None = None
    """Layer that is taken off; None takes the last linear layer."""
    repeat_channels: int = 1
    """Copies of every channel."""
    size: int | None = None
    """Height and width that the encoder sees."""
    batch: int = 64
    """Records per pass."""
    cache_dir: Path | None = None
    """Folder of encoded records; None for the default."""

    @classmethod
    def of(cls, model: ModelConfig) -> Encoder | None:
        """The encoder that `model=linear_probe` names, or None; raises ConfigError with every problem of its options.

        Anything but a linear probe has none.
        """
        if model.name != "linear_probe":
            return None
        options = parse_options(LinearProbeOptions, model.options, "model")
        if options.encoder is None:
            return None
        encoder = cls(
            Path(options.encoder).expanduser(),
            options.network,
            options.network_options,
            options.head,
            options.repeat_channels,
            options.size,
            options.encode_batch,
            None if options.cache_dir is None else Path(options.cache_dir).expanduser(),
        )
        problems = _problems(encoder)
        if problems:
            raise ConfigError(problems)
        return encoder

    def statement(self) -> str:
        """What the privacy statement must say (`Cohort.outside_dp`)."""
        kind = f"architecture {self.network}" if self.network else "a program of PyTorch"
        return (
            f"Records were turned into features by the frozen encoder {self.weights.name} ({kind}, SHA-256 "
            f"{file_digest(self.weights)[:16]}), which is taken as public: epsilon does not cover the data that it was "
            "trained on. If patients of this cohort were among them, nothing here protects them."
        )


def load_encoder(encoder: Encoder, input_shape: tuple[int, ...], device: str = "cpu") -> nn.Module:
    """The frozen network in eval mode, on `device`, without its head if it came from a state dict."""
    if encoder.network is not None:
        return _from_state_dict(encoder, input_shape).to(device).eval()
    try:
        if encoder.weights.suffix.lower() == EXPORTED:
            exported: nn.Module = torch.export.load(encoder.weights).module()
            return exported.to(device)  # it was exported in one mode and knows no eval()
        return torch.jit.load(str(encoder.weights), map_location=device).eval()
    except (RuntimeError, ValueError, OSError, BadZipFile) as error:
        raise ConfigError(
            f"model.encoder={encoder.weights} is no program of PyTorch ({first_line(error)}). Make one with "
            "torch.jit.save(torch.jit.trace(model.eval(), example), FILE.pt) or torch.export.save(..., FILE.pt2), or "
            "save a state dict as .safetensors and name its model.network."
        ) from error


def _from_state_dict(encoder: Encoder, input_shape: tuple[int, ...]) -> nn.Module:
    assert encoder.network is not None
    where = f"model.encoder={encoder.weights}"
    try:
        state = load_file(str(encoder.weights))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{where} is no safetensors file: {first_line(error)}.") from error
    with torch.random.fork_rng():
        network = _architecture(encoder, _seen_shape(encoder, input_shape))
    head = encoder.head or _last_linear(network, where)
    try:
        parent = network.get_submodule(head.rpartition(".")[0])
        network.get_submodule(head)
    except AttributeError as error:
        known = [name for name, _ in network.named_modules() if name]
        raise ConfigError(
            f"model.head={head} is no layer of {encoder.network}; its last layers are {', '.join(known[-5:])}."
        ) from error
    setattr(parent, head.rpartition(".")[2], nn.Identity())
    state = {name: value for name, value in state.items() if not name.startswith(head + ".")}
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(expected[name].shape)} in the architecture"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{where} does not fit model.network={encoder.network}: {len(names)} {what}, for example "
        f"{'; '.join(names[:3])}. Check model.network_options, model.repeat_channels and model.size."
        for names, what in (
            (missing, "weights are missing in the file"),
            (unknown, "weights of the file are not in the architecture"),
            (shapes, "weights have another shape"),
        )
        if names
    ]
    if problems:
        raise ConfigError(problems)
    network.load_state_dict(state)
    return network


def _architecture(encoder: Encoder, shape: tuple[int, ...]) -> nn.Module:
    assert encoder.network is not None
    if encoder.network.startswith(MONAI):
        return make_monai(encoder.network.removeprefix(MONAI), encoder.network_options, shape, 1)
    return build_model(ModelConfig(encoder.network, encoder.network_options), shape, 1)


def _last_linear(network: nn.Module, where: str) -> str:
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    if not linear:
        raise ConfigError(
            f"{where}: the architecture has no linear layer to take off. Name its last layer: model.head."
        )
    return linear[-1]


def as_seen(inputs: Tensor, encoder: Encoder) -> Tensor:
    """Records as the encoder wants them: resized, channels repeated."""
    if encoder.size is not None:
        if inputs.dim() != 4:
            raise ConfigError(f"model.size={encoder.size} resizes images; these records have shape {inputs.shape[1:]}.")
        inputs = F.interpolate(
            inputs, size=(encoder.size, encoder.size), mode="bilinear", align_corners=False, antialias=True
        )
    if encoder.repeat_channels > 1:
        inputs = inputs.repeat(1, encoder.repeat_channels, *[1] * (inputs.dim() - 2))
    return inputs


def _seen_shape(encoder: Encoder, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(as_seen(torch.zeros(1, *shape), encoder).shape[1:])


def _problems(encoder: Encoder) -> list[str]:
    where, suffix = f"model.encoder={encoder.weights}", encoder.weights.suffix.lower()
    problems = []
    if not encoder.weights.is_file():
        problems.append(f"{where} is not a file. Give the path of weights on this machine; nothing is downloaded.")
    if suffix == ".safetensors":
        if encoder.network is None:
            problems.append(
                f"{where} holds weights only: name their architecture, model.network=vit (or wrn, ..., "
                "monai:DenseNet121, package.module:Class)."
            )
    elif suffix in PROGRAMS:
        problems += [
            f"model.{name}={getattr(encoder, name)} does not go with {encoder.weights.name}, which brings its own "
            "architecture. Leave it out, or give a .safetensors file."
            for name in ("network", "head")
            if getattr(encoder, name) is not None
        ]
    else:
        problems.append(f"{where} must be .safetensors, or a program of PyTorch: {', '.join(PROGRAMS)}.")
    return problems


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """What an error says, in one line; TorchScript says it last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0].rstrip(".")
