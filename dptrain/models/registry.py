"""Models by name. A new one is one file with an options dataclass and a builder, and one line in `BUILDERS`.

Every model maps (B, *input_shape) to (B, num_outputs) logits, keeps records apart (no BatchNorm) and owns no buffers,
so that a patient's gradient is the patient's alone. Weights come from torch's current RNG: the caller seeds.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dptrain.config import ModelConfig
from dptrain.errors import ConfigError
from dptrain.models.ecg_transformer import build_ecg_transformer
from dptrain.models.linear import build_linear
from dptrain.models.linear_probe import build_linear_probe
from dptrain.models.mlp import build_mlp
from dptrain.models.monai_nets import build_monai
from dptrain.models.resnet1d import build_resnet1d
from dptrain.models.small_cnn import build_small_cnn
from dptrain.models.tab_resnet import build_tab_resnet
from dptrain.models.vit import build_vit
from dptrain.models.wrn import build_wrn
from dptrain.options import near_miss

Builder = Callable[[Mapping[str, Any], tuple[int, ...], int], nn.Module]

BUILDERS: dict[str, Builder] = {
    "ecg_transformer": build_ecg_transformer,
    "linear": build_linear,
    "linear_probe": build_linear_probe,
    "mlp": build_mlp,
    "monai": build_monai,
    "resnet1d": build_resnet1d,
    "small_cnn": build_small_cnn,
    "tab_resnet": build_tab_resnet,
    "vit": build_vit,
    "wrn": build_wrn,
}


def build_model(model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """The network `model` describes for records of `input_shape`; raises ConfigError with every problem of its options.

    `model.name` is one of `BUILDERS` or the import path of a user's own class, `package.module:Class`, which is called
    with `input_shape`, `num_outputs` and the options by name.
    """
    if ":" in model.name:
        return _build_own(model, input_shape, num_outputs)
    if model.name not in BUILDERS:
        raise ConfigError(
            f"model.name={model.name!r} is not a model{near_miss(model.name, BUILDERS)}; expected one of "
            f"{', '.join(sorted(BUILDERS))}, or the import path of your own class (my_package.my_module:MyNet)."
        )
    return BUILDERS[model.name](model.options, input_shape, num_outputs)


def num_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _build_own(model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    module_name, _, class_name = model.name.partition(":")
    where = f"model.name={model.name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ConfigError(
            f"{where}: there is no module {module_name!r}. Install the package it is in, or start dptrain with its "
            "folder on PYTHONPATH."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{where} must look like my_package.my_module:MyNet.") from error
    own = getattr(module, class_name, None)
    if own is None or not callable(own):
        known = [n for n, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)]
        raise ConfigError(f"{where}: {module_name} has no class {class_name!r}{near_miss(class_name, known)}.")
    try:
        inspect.signature(own).bind(input_shape=input_shape, num_outputs=num_outputs, **model.options)
    except TypeError as error:
        raise ConfigError(
            f"{where}: {error}. It is called with input_shape, num_outputs and the options "
            f"({', '.join(model.options) or 'none'}) by name."
        ) from error
    network = own(input_shape=input_shape, num_outputs=num_outputs, **model.options)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{where} must give a torch.nn.Module, but gave {type(network).__name__}.")
    return network
