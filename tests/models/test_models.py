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
from dptrain.models.checks import KINDS
from dptrain.models.convolution import WSConv2d
from dptrain.models.registry import BUILDERS, build_model, num_parameters
from dptrain.models.transformer import SelfAttention
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight import NUM_RECORDS, preflight
from dptrain.training.losses import multiclass_loss

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "custom")
ANY_SHAPE = ((7,), (2, 5), (1, 4, 4))
IMAGE, SIGNAL = ((1, 16, 16), (3, 16, 24)), ((2, 50), (3, 75))
MODELS: dict[str, tuple[ModelConfig, tuple[tuple[int, ...], ...]]] = {
    "linear": (ModelConfig("linear"), ANY_SHAPE),
    "linear_random": (ModelConfig("linear", {"zero_init": False}), ANY_SHAPE),
    "mlp": (ModelConfig("mlp"), ANY_SHAPE),
    "mlp_tanh": (ModelConfig("mlp", {"width": 8, "depth": 1, "activation": "tanh"}), ANY_SHAPE),
    "tab_resnet": (ModelConfig("tab_resnet", {"width": 16, "depth": 2}), ANY_SHAPE),
    "tab_resnet_group": (
        ModelConfig("tab_resnet", {"width": 16, "depth": 2, "norm": "group", "activation": "gelu"}),
        ANY_SHAPE,
    ),
    "small_cnn": (ModelConfig("small_cnn", {"width": 8, "depth": 2}), IMAGE),
    "wrn": (ModelConfig("wrn", {"depth": 10, "num_groups": 4}), IMAGE),
    "wrn_standardized": (
        ModelConfig("wrn", {"depth": 10, "num_groups": 16, "weight_standardization": True}),
        IMAGE,
    ),
    "vit": (ModelConfig("vit", {"width": 12, "depth": 2, "num_heads": 3}), IMAGE),
    "vit_class": (ModelConfig("vit", {"width": 8, "depth": 1, "num_heads": 2, "pool": "class"}), IMAGE),
    "resnet1d": (ModelConfig("resnet1d", {"maps": 8, "depth": 2, "num_groups": 4}), SIGNAL),
    "resnet1d_full_length": (ModelConfig("resnet1d", {"maps": 8, "stride": 1, "activation": "silu"}), SIGNAL),
    "ecg_transformer": (ModelConfig("ecg_transformer", {"width": 12, "depth": 2, "num_heads": 2}), SIGNAL),
    "ecg_transformer_class": (
        ModelConfig("ecg_transformer", {"width": 12, "depth": 1, "pool": "class", "mlp_ratio": 1}),
        SIGNAL,
    ),
    "linear_probe": (ModelConfig("linear_probe", {"zero_init": False}), ((7,),)),
    "linear_probe_raw": (ModelConfig("linear_probe", {"normalize": False}), ((7,),)),
}
"""Add yours here, with the shapes of record that it takes, and it inherits the contract."""
STARTS_AT_ZERO = {"linear", "linear_probe_raw"}
MECHANISM = Mechanism("patient", 0.5, 1.0, 1.0, 10, 4.0, 1e-3)


def build(config: ModelConfig, shape: tuple[int, ...] = (7,), outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(config, shape, outputs)


@pytest.fixture(params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def config(name: str) -> ModelConfig:
    return MODELS[name][0]


@pytest.fixture
def shape(name: str) -> tuple[int, ...]:
    """The first of the shapes that the model takes."""
    return MODELS[name][1][0]


@pytest.mark.parametrize("outputs", [1, 4])
def test_shape_also_of_an_empty_batch(name: str, config: ModelConfig, outputs: int) -> None:
    for shape in MODELS[name][1]:
        model = build(config, shape, outputs)
        for batch in (5, 1, 0):
            assert model(torch.randn(batch, *shape)).shape == (batch, outputs)


def test_per_sample_gradients_are_those_of_each_record_alone(config: ModelConfig, shape: tuple[int, ...]) -> None:
    """In float64: a ReLU whose input is within rounding of zero would show as a difference in float32."""
    torch.manual_seed(1)
    inputs, labels = torch.randn(4, *shape, dtype=torch.float64), torch.randint(0, 3, (4,))
    alone = build(config, shape).double()
    hooked = GradSampleModule(build(config, shape).double(), loss_reduction="sum", strict=True)
    nn.functional.cross_entropy(hooked(inputs), labels, reduction="sum").backward()
    per_sample = [parameter.grad_sample for parameter in hooked.parameters()]
    for index in range(len(inputs)):
        loss = nn.functional.cross_entropy(alone(inputs[index : index + 1]), labels[index : index + 1])
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
        for mine, expected in zip(per_sample, gradients, strict=True):
            torch.testing.assert_close(mine[index], expected, rtol=1e-9, atol=1e-12)


def test_the_preflight_passes(name: str, config: ModelConfig, shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    features, labels = torch.randn(NUM_RECORDS, *shape), torch.randint(0, 3, (NUM_RECORDS,))
    report = preflight(build(config, shape), multiclass_loss, MECHANISM, features, labels)
    assert report.passed, [str(finding) for finding in report.findings]
    assert report.measured["sensitivity"] > 0.5


def test_vmap_agrees_too(config: ModelConfig, shape: tuple[int, ...]) -> None:
    model, inputs = build(config, shape), torch.randn(4, *shape)
    mapped = torch.func.vmap(lambda x: torch.func.functional_call(model, dict(model.named_parameters()), x[None])[0])
    torch.testing.assert_close(mapped(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_initialisation_follows_the_seed(name: str, config: ModelConfig, shape: tuple[int, ...]) -> None:
    first, again, other = (
        torch.nn.utils.parameters_to_vector(build(config, shape, seed=s).parameters()) for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in STARTS_AT_ZERO)


def test_no_buffers_and_opacus_has_no_complaint(config: ModelConfig, shape: tuple[int, ...]) -> None:
    model = build(config, shape).train()
    assert list(model.buffers()) == []
    assert ModuleValidator.validate(model, strict=False) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_records_of_a_batch_do_not_see_each_other(config: ModelConfig, shape: tuple[int, ...]) -> None:
    model, inputs = build(config, shape).train(), torch.randn(5, *shape)
    changed = inputs.clone()
    changed[1:] = 100
    torch.testing.assert_close(model(inputs)[0], model(changed)[0])


def test_no_module_owns_a_bare_parameter(config: ModelConfig, shape: tuple[int, ...]) -> None:
    """Linear, Embedding, convolutions and norms: no module owns a bare nn.Parameter."""
    known = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, WSConv2d, nn.GroupNorm, nn.LayerNorm)
    owners = [m for m in build(config, shape).modules() if list(m.parameters(recurse=False))]
    assert {type(module) for module in owners} <= set(known)


def test_num_parameters() -> None:
    assert num_parameters(build(ModelConfig("linear"), (30,), 1)) == 31
    assert num_parameters(build(ModelConfig("mlp"), (30,), 1)) == 31 * 32 + 33 * 32 + 33
    frozen = build(ModelConfig("linear"), (30,), 1)
    next(iter(frozen.parameters())).requires_grad = False
    assert num_parameters(frozen) == 1


SHAPES_OF = {
    "small_cnn": (1, 64, 64), "wrn": (1, 64, 64), "vit": (3, 224, 224), "monai": (1, 64, 64),
    "resnet1d": (12, 1000), "ecg_transformer": (12, 1000),
}  # fmt: skip
NUM_PARAMETERS = {
    "tab_resnet_300x6": 31 * 300 + 6 * (2 * 301 * 300 + 600) + 600 + 301,
    "wrn_10_1": 77_000, "wrn_16_1": 175_000, "wrn_28_2": 1_470_000, "wrn_40_4": 8_950_000,
    "vit_tiny": 5_500_000, "vit_small": 21_700_000, "vit_b_16": 85_800_000, "vit_l_16": 303_000_000,
    "resnet1d_32": 128_000, "resnet1d_128": 1_985_000, "ecg_transformer": 156_000, "ecg_transformer_small": 28_000,
    "small_cnn_8": 1_300, "small_cnn": 23_500, "small_cnn_32": 390_000,
}  # fmt: skip
"""As their YAML files and the reference study say; WRN at 64 px, ViT at 224 px."""


SMALL_SHAPES = {"small_cnn": (1, 20, 20), "wrn": (1, 16, 16), "vit": (1, 32, 32), "resnet1d": (12, 200),
                "ecg_transformer": (12, 200)}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset: str) -> None:
    raw = yaml.safe_load((CONF / f"{preset}.yaml").read_text())
    config = ModelConfig(raw.pop("name"), raw)
    shape = SHAPES_OF.get(config.name, (30,))
    if config.name == "monai":
        pytest.importorskip("monai", reason="MONAI is not installed (pip install 'dptrain[monai]')")
        model = build(config, shape, 1)
    else:
        with torch.device("meta"):
            model = build(config, shape, 1)
            assert model(torch.zeros(2, *shape)).shape == (2, 1)
    if preset in NUM_PARAMETERS:
        assert num_parameters(model) == pytest.approx(NUM_PARAMETERS[preset], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith(tuple(SMALL_SHAPES))])
def test_every_preset_for_images_and_ecgs_passes_the_preflight(preset: str) -> None:
    """At full width and depth, on small records; the larger transformers differ from vit_tiny in size alone."""
    if preset in ("vit_small", "vit_b_16", "vit_l_16"):
        pytest.skip("22 to 303 million parameters: minutes, and gigabytes of per-record gradients")
    raw = yaml.safe_load((CONF / f"{preset}.yaml").read_text())
    config = ModelConfig(raw.pop("name"), raw)
    torch.manual_seed(3)
    shape = SMALL_SHAPES[next(start for start in SMALL_SHAPES if preset.startswith(start))]
    features, labels = torch.randn(NUM_RECORDS, *shape), torch.randint(0, 2, (NUM_RECORDS,))
    report = preflight(build(config, shape, 2), multiclass_loss, MECHANISM, features, labels)
    assert report.passed, [str(finding) for finding in report.findings]


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


@pytest.mark.parametrize("config, shape, details", [
    (ModelConfig("small_cnn"), (30,),
     ["model.name=small_cnn takes images (channels, height, width)", "data=images, npz, medmnist and sim_imaging give",
      "have shape (30,): vectors (features,)", "take model=linear or mlp or tab_resnet or linear_probe"]),
    (ModelConfig("wrn"), (12, 1000), ["takes images", "shape (12, 1000): signals", "take model=resnet1d or"]),
    (ModelConfig("vit"), (12, 1000), ["takes images", "take model=resnet1d or ecg_transformer"]),
    (ModelConfig("resnet1d"), (1, 64, 64), ["takes signals", "data=ecg", "model=small_cnn or wrn or vit or monai"]),
    (ModelConfig("ecg_transformer"), (1, 8, 8, 8), ["takes signals", "model=custom"]),
    (ModelConfig("small_cnn", {"depth": 4}), (1, 16, 28), ["16 x 28 is too small, it needs 17 x 17", "data.size"]),
    (ModelConfig("wrn"), (1, 4, 64), ["4 x 64 is too small"]),
    (ModelConfig("resnet1d", {"depth": 6}), (2, 100), ["needs at least 128 samples per record; these have 100"]),
    (ModelConfig("vit", {"patch": 16}), (1, 28, 28),
     ["model.patch=16 must divide the image of 28 x 28: take one of 2, 4, 7, 14, 28"]),
    (ModelConfig("ecg_transformer"), (12, 250 * 4 + 1), ["model.patch=25 must divide the number of samples 1001"]),
    (ModelConfig("vit", {"patch": 0, "width": 10, "num_heads": 3, "dropout": 1, "pool": "max", "activation": "x"}),
     (1, 28, 28),
     ["model.patch=0 must be >= 1", "model.num_heads=3 must divide model.width=10",
      "model.dropout=1.0 must be in [0, 1)", "model.pool='max' must be mean", "model.activation='x' must be one of"]),
    (ModelConfig("wrn", {"depth": 12, "width": 0, "num_groups": 3}), (1, 32, 32),
     ["model.depth=12 must be 10, 16, 22, 28", "model.width=0 must be >= 1",
      "model.num_groups=3 must divide the maps of the first convolution=16: take one of 1, 2, 4, 8, 16"]),
    (ModelConfig("small_cnn", {"width": 6, "num_groups": 4}), (1, 32, 32),
     ["model.num_groups=4 must divide model.width=6: take one of 1, 2, 3, 6"]),
    (ModelConfig("resnet1d", {"maps": 12, "stride": 0}), (12, 100),
     ["model.stride=0 must be >= 1", "model.num_groups=8 must divide model.maps=12"]),
    (ModelConfig("linear_probe"), (1, 28, 28), ["takes features", "model.encoder=WEIGHTS", "model=linear on the raw"]),
    (ModelConfig("linear_probe", {"head": "fc", "repeat_channels": 0}), (30,),
     ["model.head=fc is about an encoder, but model.encoder is null", "model.repeat_channels=0 must be >= 1"]),
])  # fmt: skip
def test_records_or_options_that_do_not_fit(config: ModelConfig, shape: tuple[int, ...], details: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config, shape)
    for detail in details:
        assert detail in str(caught.value)


def test_messages_name_models_that_exist() -> None:
    assert {name for _, _, names in KINDS.values() for name in names} <= set(BUILDERS)


@pytest.mark.parametrize("axes", KINDS)
def test_models_that_a_message_recommends_take_such_records(axes: int) -> None:
    shape = {1: (30,), 2: (12, 100), 3: (1, 64, 64)}[axes]
    for name in KINDS[axes][2]:
        if name != "monai":
            assert build(ModelConfig(name), shape)(torch.zeros(2, *shape)).shape == (2, 3)


def test_weights_are_standardised() -> None:
    torch.manual_seed(0)
    layer = WSConv2d(5, 7, 3)
    for filters in layer.standardized_weight():
        assert float(filters.mean()) == pytest.approx(0, abs=1e-6)
        assert float(filters.var(correction=0)) * filters.numel() == pytest.approx(1, rel=1e-5)
    inputs = torch.randn(2, 5, 6, 6)
    plain = nn.Conv2d(5, 7, 3)
    plain.bias = layer.bias
    with torch.no_grad():
        plain.weight.copy_(layer.standardized_weight())
    torch.testing.assert_close(layer(inputs), plain(inputs))
    with torch.no_grad():
        layer.weight.mul_(3).add_(1)
    torch.testing.assert_close(layer(inputs), plain(inputs), rtol=1e-4, atol=1e-5)


def test_constant_filters_have_finite_gradients() -> None:
    layer = WSConv2d(1, 1, 3)
    nn.init.constant_(layer.weight, 0.5)
    layer(torch.randn(1, 1, 4, 4)).sum().backward()
    assert bool(layer.weight.grad.isfinite().all())


def test_attention_equals_that_of_pytorch() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.project.state_dict())
    inputs = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(inputs), theirs(inputs, inputs, inputs)[0])


def test_a_transformer_knows_where_a_patch_lies() -> None:
    """Without positions the mean over tokens would be the same for patches in any order."""
    model = build(ModelConfig("vit", {"width": 16, "depth": 1}), (1, 16, 16))
    image = torch.randn(1, 1, 16, 16)
    swapped = torch.cat([image[..., 8:], image[..., :8]], dim=-1)
    assert float((model(image) - model(swapped)).abs().max()) > 1e-5


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
