"""Classification networks of MONAI by name: `model=monai model.network=DenseNet121`. Optional: `dptrain[monai]`.

The network is built for the cohort's records (2-D images, 3-D volumes or signals) and made fit for private training:
BatchNorm becomes GroupNorm, nothing works in place, stochastic depth (which draws one random number per record outside
of dropout layers) is off, and nothing is downloaded. Whether its per-record gradients are right is for the preflight
to say, as with any model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dptrain.errors import ConfigError
from dptrain.models.checks import at_least_one, raise_if
from dptrain.models.group_norm import nothing_in_place, replace_batch_norm
from dptrain.options import near_miss, parse_options


@dataclass(frozen=True)
class MonaiOptions:
    """Options of model=monai."""

    network: str = "DenseNet121"
    """Name in monai.networks.nets: DenseNet121, resnet18, SEResNet50, Classifier, ..."""
    num_groups: int = 8
    """Groups of the GroupNorms that stand in for BatchNorm; lowered where they do not divide the channels."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the network by name, for example {init_features: 32}. Shapes are filled in from the data."""

    def __post_init__(self) -> None:
        problems = at_least_one(self, "num_groups")
        if self.arguments.get("pretrained") or self.arguments.get("weights"):
            problems.append(
                "model.arguments asks for pretrained weights, and dptrain downloads nothing. For weights that you have "
                "as a file take model=linear_probe model.encoder=FILE."
            )
        raise_if(problems)


def build_monai(options: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """(B, channels, ...) -> (B, num_outputs); ConfigError if MONAI is missing or the network does not fit."""
    parsed = parse_options(MonaiOptions, options, "model")
    model = make_monai(parsed.network, parsed.arguments, input_shape, num_outputs)
    model = nothing_in_place(replace_batch_norm(model, parsed.num_groups))
    for module in model.modules():
        if hasattr(module, "drop_connect_rate"):
            module.drop_connect_rate = 0.0  # type: ignore[assignment]
    _try_out(parsed.network, model, input_shape, num_outputs)
    return model


def make_monai(network: str, arguments: Mapping[str, Any], input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """The network as MONAI builds it, with its BatchNorms: for frozen encoders."""
    where = f"model.network={network}"
    if len(input_shape) < 2:
        raise ConfigError(f"{where} takes images, volumes or signals; these records have shape {input_shape}.")
    nets = _networks()
    make = getattr(nets, network, None)
    if not callable(make):
        known = [name for name, value in vars(nets).items() if inspect.isclass(value)]
        raise ConfigError(f"{where}: monai.networks.nets has no such network{near_miss(network, known)}.")
    accepted = _parameters(make)
    unknown = [name for name in arguments if name not in accepted]
    raise_if(
        [
            f"model.arguments.{name} is not an argument of {network}{near_miss(name, accepted)}; expected some of "
            f"{', '.join(accepted)}."
            for name in unknown
        ]
    )
    shapes: dict[str, Any] = {
        "spatial_dims": len(input_shape) - 1,
        "in_channels": input_shape[0],
        "n_input_channels": input_shape[0],
        "in_shape": input_shape,
        "img_size": input_shape[1:],
        "out_channels": num_outputs,
        "num_classes": num_outputs,
        "classes": num_outputs,
        "pretrained": False,
    }
    filled = {name: value for name, value in shapes.items() if name in accepted}
    try:
        model = make(**{**filled, **arguments})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{where}: {_first_line(error)}. Set what it needs in model.arguments.") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{where} must give a torch.nn.Module, but gave {type(model).__name__}.")
    return model


def _networks() -> Any:
    try:
        return importlib.import_module("monai.networks.nets")
    except ImportError as error:
        raise ConfigError(
            f"model=monai needs the Python package monai, which is not installed ({error}). "
            "Run: pip install 'dptrain[monai]'"
        ) from error


def _parameters(make: Callable[..., Any]) -> list[str]:
    """Names that `make` takes, through **kwargs to its base class or, for a function, to the class it returns."""
    names: list[str] = []
    todo: list[Callable[..., Any]] = list(make.__mro__) if inspect.isclass(make) else [make]
    for step in todo:
        if step in (nn.Module, object):
            break
        signature = inspect.signature(step)
        names += [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            break
        if not inspect.isclass(step):
            returned = getattr(inspect.getmodule(step), str(signature.return_annotation), None)
            todo += list(returned.__mro__) if inspect.isclass(returned) else []
    return list(dict.fromkeys(names))


@torch.no_grad()
def _try_out(network: str, model: nn.Module, input_shape: tuple[int, ...], num_outputs: int) -> None:
    where = f"model.network={network}"
    try:
        out = model.eval()(torch.zeros(2, *input_shape))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{where} cannot take records of shape {input_shape}: {_first_line(error)}.") from error
    finally:
        model.train()
    if not isinstance(out, torch.Tensor) or out.shape != (2, num_outputs):
        got = f"shape {tuple(out.shape)}" if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
        raise ConfigError(
            f"{where} gives {got} for 2 records, expected logits of shape (2, {num_outputs}). Take a classification "
            "network of MONAI; for a vision transformer take model=vit."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
