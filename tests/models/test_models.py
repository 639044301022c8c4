"""What every model must hold, and the registry's answers to bad input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from dptrain.config import ModelConfig
from dptrain.errors import ConfigError
from dptrain.models.registry import BUILDERS, build_model, num_parameters

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "custom")
MODELS = {
    "linear": ModelConfig("linear"),
    "linear_random": ModelConfig("linear", {"zero_init": False}),
    "mlp": ModelConfig("mlp"),
    "mlp_tanh": ModelConfig("mlp", {"width": 8, "depth": 1, "activation": "tanh"}),
    "tab_resnet": ModelConfig("tab_resnet", {"width": 16, "depth": 2}),
    "tab_resnet_group": ModelConfig("tab_resnet", {"width": 16, "depth": 2, "norm": "group", "activation": "gelu"}),
}
"""Add yours here and it inherits the contract."""


def build(config: ModelConfig, shape: tuple[int, ...] = (7,), outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(config, shape, outputs)


@pytest.fixture(params=sorted(MODELS))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return MODELS[request.param]


@pytest.mark.parametrize("shape", [(7,), (2, 5), (1, 4, 4)])
@pytest.mark.parametrize("outputs", [1, 4])
def test_shape_also_of_an_empty_batch(config: ModelConfig, shape: tuple[int, ...], outputs: int) -> None:
    model = build(config, shape, outputs)
    for batch in (5, 1, 0):
        assert model(torch.randn(batch, *shape)).shape == (batch, outputs)


def test_per_sample_gradients_are_those_of_each_record_alone(config: ModelConfig) -> None:
    torch.manual_seed(1)
    inputs, labels = torch.randn(6, 7), torch.randint(0, 3, (6,))
    alone = build(config)
    hooked = GradSampleModule(build(config), loss_reduction="sum", strict=True)
    nn.functional.cross_entropy(hooked(inputs), labels, reduction="sum").backward()
    per_sample = [parameter.grad_sample for parameter in hooked.parameters()]
    for index in range(len(inputs)):
        loss = nn.functional.cross_entropy(alone(inputs[index : index + 1]), labels[index : index + 1])
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        for mine, expected in zip(per_sample, gradients, strict=True):
            torch.testing.assert_close(mine[index], expected, rtol=1e-4, atol=1e-6)


def test_vmap_agrees_too(config: ModelConfig) -> None:
    model, inputs = build(config), torch.randn(4, 7)
    mapped = torch.func.vmap(lambda x: torch.func.functional_call(model, dict(model.named_parameters()), x[None])[0])
    torch.testing.assert_close(mapped(inputs), model(inputs), rtol=1e-4, atol=1e-6)


def test_initialisation_follows_the_seed(config: ModelConfig) -> None:
    first, again, other = (torch.nn.utils.parameters_to_vector(build(config, seed=s).parameters()) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (config.name == "linear" and config.options.get("zero_init", True))


def test_no_buffers_and_opacus_has_no_complaint(config: ModelConfig) -> None:
    model = build(config).train()
    assert list(model.buffers()) == []
    assert ModuleValidator.validate(model, strict=False) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_records_of_a_batch_do_not_see_each_other(config: ModelConfig) -> None:
    model, inputs = build(config).train(), torch.randn(5, 7)
    changed = inputs.clone()
    changed[1:] = 100
    torch.testing.assert_close(model(inputs)[0], model(changed)[0])


def test_num_parameters() -> None:
    assert num_parameters(build(ModelConfig("linear"), (30,), 1)) == 31
    assert num_parameters(build(ModelConfig("mlp"), (30,), 1)) == 31 * 32 + 33 * 32 + 33
    frozen = build(ModelConfig("linear"), (30,), 1)
    next(iter(frozen.parameters())).requires_grad = False
    assert num_parameters(frozen) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset: str) -> None:
    raw = yaml.safe_load((CONF / f"{preset}.yaml").read_text())
    model = build(ModelConfig(raw.pop("name"), raw), (30,), 1)
    assert model(torch.zeros(2, 30)).shape == (2, 1)
    if preset == "tab_resnet_300x6":
        assert num_parameters(model) == 31 * 300 + 6 * (2 * 301 * 300 + 600) + 600 + 301


def test_every_model_has_a_preset_of_its_name() -> None:
    assert set(BUILDERS) <= set(PRESETS)


@pytest.mark.parametrize("config, details", [
    (ModelConfig("mpl"), ["model.name='mpl' is not a model (did you mean 'mlp'?)", "my_package.my_module:MyNet"]),
    (ModelConfig("mlp", {"widht": 3, "depth": 2.5}),
     ["model.widht=3 is not a setting here (did you mean 'width'?); expected width, depth, activation",
      "model.depth=2.5 must be a whole number"]),
    (ModelConfig("mlp", {"width": 0, "depth": 0, "activation": "swish"}),
     ["model.width=0 must be >= 1", "take model=linear", "model.activation='swish' must be one of"]),
    (ModelConfig("linear", {"zero_init": "maybe"}), ["model.zero_init='maybe' must be true or false"]),
    (ModelConfig("tab_resnet", {"norm": "batch"}), ["model.norm='batch' must be layer or group (BatchNorm mixes"]),
    (ModelConfig("tab_resnet", {"norm": "group", "width": 30}), ["model.num_groups=4 must divide model.width=30"]),
])  # fmt: skip
def test_bad_settings(config: ModelConfig, details: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config)
    for detail in details:
        assert detail in str(caught.value)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "hospital_nets.py").write_text(
        "from torch import nn\n"
        "class Small(nn.Sequential):\n"
        "    def __init__(self, input_shape, num_outputs, hidden=4):\n"
        "        super().__init__(nn.Linear(input_shape[0], hidden), nn.Tanh(), nn.Linear(hidden, num_outputs))\n"
        "def not_a_net(input_shape, num_outputs): return 3\n"
    )
    (tmp_path / "hospital_broken.py").write_text("import no_such_library_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "hospital_nets"
    sys.modules.pop("hospital_nets", None)


def test_own_class_by_import_path(own_module: str) -> None:
    model = build(ModelConfig(f"{own_module}:Small", {"hidden": 6}))
    assert num_parameters(model) == 8 * 6 + 7 * 3


@pytest.mark.parametrize("name, options, detail", [
    ("hospital_nets:Smal", {}, r"has no class 'Smal' \(did you mean 'Small'\?\)"),
    ("hospital_net:Small", {}, "there is no module 'hospital_net'"),
    (":Small", {}, "must look like my_package.my_module:MyNet"),
    ("hospital_nets:Small", {"depth": 3}, "unexpected keyword argument 'depth'"),
    ("hospital_nets:not_a_net", {}, "must give a torch.nn.Module, but gave int"),
])  # fmt: skip
@pytest.mark.usefixtures("own_module")
def test_own_class_with_a_mistake(name: str, options: dict[str, Any], detail: str) -> None:
    with pytest.raises(ConfigError, match=detail):
        build(ModelConfig(name, options))


@pytest.mark.usefixtures("own_module")
def test_an_own_module_that_lacks_a_library_keeps_its_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library_anywhere"):
        build(ModelConfig("hospital_broken:Net"))
