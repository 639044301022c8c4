"""Networks of MONAI, made fit for private training; skipped where MONAI is not installed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from dptrain.config import ModelConfig
from dptrain.errors import ConfigError
from dptrain.models.group_norm import BATCH_NORMS, nothing_in_place, replace_batch_norm
from dptrain.models.registry import build_model
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight import NUM_RECORDS, preflight
from dptrain.training.losses import multiclass_loss

MECHANISM = Mechanism("patient", 0.5, 1.0, 1.0, 10, 4.0, 1e-3)
DENSE = {"init_features": 16, "growth_rate": 8, "block_config": [2, 2]}
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "DenseNet121": (DENSE, (1, 32, 32)),
    "DenseNet": (DENSE, (2, 64)),
    "resnet10": ({"widen_factor": 0.125}, (3, 32, 32)),
    "ResNet": (
        {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 4, 4], "no_max_pool": True},
        (1, 16, 16, 16),
    ),
    "Classifier": ({"channels": [8, 16], "strides": [2, 2]}, (1, 16, 16)),
}
"""Images, signals and volumes."""


@pytest.fixture
def monai() -> None:
    pytest.importorskip("monai", reason="MONAI is not installed (pip install 'dptrain[monai]')")


def build(network: str, arguments: dict[str, Any], shape: tuple[int, ...], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig("monai", {"network": network, "arguments": arguments, **options}), shape, 3)


@pytest.mark.usefixtures("monai")
@pytest.mark.parametrize(
    "network", [pytest.param(n, marks=[pytest.mark.slow] if n == "ResNet" else []) for n in NETWORKS]
)
def test_the_preflight_passes(network: str) -> None:
    arguments, shape = NETWORKS[network]
    model = build(network, arguments, shape)
    assert not [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    assert list(model.buffers()) == []
    torch.manual_seed(1)
    features, labels = torch.randn(NUM_RECORDS, *shape), torch.randint(0, 3, (NUM_RECORDS,))
    report = preflight(model, multiclass_loss, MECHANISM, features, labels)
    assert report.passed, [str(finding) for finding in report.findings]


@pytest.mark.slow
@pytest.mark.usefixtures("monai")
@pytest.mark.parametrize(
    "network, arguments",
    [("SEResNet50", {"layers": [1, 1, 1, 1]}), ("EfficientNetBN", {"model_name": "efficientnet-b0"})],
)
def test_larger_networks_pass_too(network: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(1)
    features, labels = torch.randn(NUM_RECORDS, 1, 32, 32), torch.randint(0, 3, (NUM_RECORDS,))
    model = build(network, arguments, (1, 32, 32))
    checks = ("randomness", "gradients", "independence", "buffers")
    report = preflight(model, multiclass_loss, MECHANISM, features, labels, checks=checks)
    assert report.passed, [str(finding) for finding in report.findings]


@pytest.mark.usefixtures("monai")
def test_initialisation_follows_the_seed() -> None:
    first, again = (build("DenseNet121", DENSE, (1, 32, 32)) for _ in range(2))
    torch.manual_seed(1)
    other = build_model(ModelConfig("monai", {"network": "DenseNet121", "arguments": DENSE}), (1, 32, 32), 3)
    flat = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in (first, again, other)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


@pytest.mark.usefixtures("monai")
@pytest.mark.parametrize("network, arguments, shape, details", [
    ("DenseNet12", {}, (1, 32, 32), ["has no such network (did you mean 'DenseNet121'?)"]),
    ("DenseNet121", {"init_feature": 8, "depth": 3}, (1, 32, 32),
     ["model.arguments.init_feature is not an argument of DenseNet121 (did you mean 'init_features'?)",
      "model.arguments.depth is not an argument"]),
    ("Classifier", {}, (1, 32, 32), ["missing 2 required positional arguments: 'channels' and 'strides'"]),
    ("DenseNet121", {}, (1, 8, 8), ["cannot take records of shape (1, 8, 8)"]),
    ("BasicUNet", {}, (1, 32, 32), ["gives shape (2, 3, 32, 32) for 2 records, expected logits of shape (2, 3)"]),
    ("DenseNet121", {}, (30,), ["takes images, volumes or signals; these records have shape (30,)"]),
    ("resnet18", {"pretrained": True}, (1, 32, 32), ["dptrain downloads nothing", "model=linear_probe"]),
])  # fmt: skip
def test_bad_settings(network: str, arguments: dict[str, Any], shape: tuple[int, ...], details: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(network, arguments, shape)
    for detail in details:
        assert detail in str(caught.value)


def test_without_monai_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(ConfigError, match=r"pip install 'dptrain\[monai\]'"):
        build("DenseNet121", {}, (1, 32, 32))


@pytest.mark.parametrize("channels, num_groups, expected", [(64, 8, 8), (8, 8, 4), (12, 8, 6), (7, 8, 1), (1, 8, 1)])
def test_groups_fit_the_channels_and_never_hold_one_channel(channels: int, num_groups: int, expected: int) -> None:
    model = replace_batch_norm(nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels)), num_groups)
    (norm,) = (module for module in model.modules() if isinstance(module, nn.GroupNorm))
    assert norm.num_groups == expected
    assert norm.num_channels == channels


def test_nothing_works_in_place() -> None:
    model = nothing_in_place(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Dropout(inplace=True)))
    inputs = torch.tensor([[-1.0, 2.0]])
    hidden = model[0](inputs)
    kept = hidden.clone()
    model[1:](hidden)
    assert torch.equal(hidden, kept)
