"""Frozen encoders: what they give, when they are computed anew, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dptrain.config import ModelConfig
from dptrain.errors import ConfigError
from dptrain.models import encode as encode_module
from dptrain.models.encode import encode, encoded_features
from dptrain.models.encoder import Encoder
from dptrain.models.registry import build_model
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight import NUM_RECORDS, preflight
from dptrain.training.losses import binary_loss

VIT = {"patch": 4, "width": 8, "depth": 1, "num_heads": 2}


class MeanOverBatch(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - inputs.mean(dim=0)).flatten(1)


class Noisy(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) + torch.rand_like(inputs.flatten(1))


class LogOf(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1).log()


def records(num: int = 150, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, *shape)).astype(np.float32)


def vit(outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig("vit", VIT), (1, 8, 8), outputs).eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A vision transformer of dptrain, with the head of another task."""
    path = tmp_path / "vit.safetensors"
    save_file(vit().state_dict(), path)
    return path


def script(module: nn.Module, path: Path, shape: tuple[int, ...] = (1, 8, 8)) -> Path:
    torch.jit.save(torch.jit.trace(module.eval(), torch.ones(2, *shape), check_trace=False), str(path))
    return path


def probe(path: Path, **options: Any) -> ModelConfig:
    return ModelConfig("linear_probe", {"encoder": str(path), "cache_dir": str(path.parent / "cache"), **options})


def features_of(path: Path, x: np.ndarray, **options: Any) -> np.ndarray:
    outcome = encoded_features(x, probe(path, **options))
    assert outcome is not None
    return outcome[0]


def test_features_are_the_inputs_of_the_head(weights: Path) -> None:
    x = records()
    with torch.no_grad():
        expected = vit()[:-1](torch.from_numpy(x)).numpy()
    ours = features_of(weights, x, network="vit", network_options=VIT)
    assert ours.dtype == np.float32
    assert ours.shape == (150, 8)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    one_by_one = features_of(weights, x, network="vit", network_options=VIT, encode_batch=1)
    np.testing.assert_allclose(ours, one_by_one, rtol=1e-5, atol=1e-6)


def test_torchscript_gives_the_same(weights: Path, tmp_path: Path) -> None:
    scripted = script(vit()[:-1], tmp_path / "vit.pt")
    np.testing.assert_allclose(
        features_of(scripted, records()), features_of(weights, records(), network="vit", network_options=VIT), rtol=1e-5
    )


def test_an_exported_program_gives_the_same(weights: Path, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(vit()[:-1], (torch.ones(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "vit.pt2")
    np.testing.assert_allclose(
        features_of(tmp_path / "vit.pt2", records()),
        features_of(weights, records(), network="vit", network_options=VIT),
        rtol=1e-5,
    )


def test_batch_norm_of_an_encoder_uses_its_running_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.train()(torch.randn(64, 1, 8, 8) * 3 + 1)
    path = script(network, tmp_path / "bn.pt")
    with torch.no_grad():
        expected = network(torch.from_numpy(records())).numpy()
    np.testing.assert_allclose(features_of(path, records()), expected, rtol=1e-4, atol=1e-6)


def test_a_monai_network_as_encoder(tmp_path: Path) -> None:
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed (pip install 'dptrain[monai]')")
    torch.manual_seed(0)
    arguments = {"init_features": 8, "growth_rate": 4, "block_config": [1, 1]}
    network = nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=14, **arguments)
    network.train()(torch.randn(8, 3, 16, 16))
    save_file(network.state_dict(), tmp_path / "dense.safetensors")
    network.class_layers.out = nn.Identity()
    with torch.no_grad():
        inputs = nn.functional.interpolate(
            torch.from_numpy(records()).repeat(1, 3, 1, 1), size=(16, 16), mode="bilinear", antialias=True
        )
        expected = network.eval()(inputs).numpy()
    ours = features_of(
        tmp_path / "dense.safetensors", records(), network="monai:DenseNet121", network_options=arguments,
        repeat_channels=3, size=16,
    )  # fmt: skip
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_features_are_computed_once_and_kept_private(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = features_of(weights, records(), network="vit", network_options=VIT)
    assert isinstance(first, np.memmap)
    (file,) = (weights.parent / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (weights.parent / "cache").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(encode_module, "load_encoder", lambda *_: pytest.fail("encoded again"))
    again = features_of(weights, records(), network="vit", network_options=VIT)
    np.testing.assert_array_equal(first, again)


def test_the_cache_knows_what_changed(weights: Path, tmp_path: Path) -> None:
    x = records()
    before = np.array(features_of(weights, x, network="vit", network_options=VIT))
    other = x.copy()
    other[-1, 0, 0, 0] += 1
    changed = features_of(weights, other, network="vit", network_options=VIT)
    np.testing.assert_array_equal(changed[:-1], before[:-1])
    assert np.abs(changed[-1] - before[-1]).max() > 0
    state = vit().state_dict()
    save_file({name: value * 2 for name, value in state.items()}, weights)
    assert np.abs(features_of(weights, x, network="vit", network_options=VIT) - before).max() > 0
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_truncated_cache_file_is_made_anew(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = np.array(features_of(weights, records(), network="vit", network_options=VIT))
    (file,) = (weights.parent / "cache").iterdir()
    os.truncate(file, 300)
    np.testing.assert_array_equal(features_of(weights, records(), network="vit", network_options=VIT), before)
    assert "cannot be read" in caplog.text


def test_own_class_is_encoded_anew_when_its_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, input_shape, num_outputs):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 4), nn.{}(), nn.Linear(4, num_outputs))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict(),
              tmp_path / "own.safetensors")  # fmt: skip
    for name, activation in (("encoder_net_a", "ReLU"), ("encoder_net_b", "Tanh")):
        (tmp_path / f"{name}.py").write_text(code.format(activation))
    one = features_of(tmp_path / "own.safetensors", records(), network="encoder_net_a:Net")
    two = features_of(tmp_path / "own.safetensors", records(), network="encoder_net_b:Net")
    assert one.min() == 0
    assert two.min() < 0


def test_the_statement_names_the_encoder_and_says_that_it_is_public(weights: Path) -> None:
    outcome = encoded_features(records(), probe(weights, network="vit", network_options=VIT))
    assert outcome is not None
    for part in ("frozen encoder vit.safetensors", "architecture vit", "SHA-256", "taken as public", "not cover"):
        assert part in outcome[1]
    assert str(weights.parent) not in outcome[1]


@pytest.mark.parametrize("model", [ModelConfig("linear_probe"), ModelConfig("mlp", {"encoder": "x.pt"})])
def test_without_an_encoder_there_is_nothing_to_do(model: ModelConfig) -> None:
    assert encoded_features(records(), model) is None


def test_the_caller_may_name_the_cache(weights: Path, tmp_path: Path) -> None:
    encoder = Encoder.of(probe(weights, network="vit", network_options=VIT))
    assert encoder is not None
    encode(records(), encoder, tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_the_random_state_is_left_alone(weights: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    features_of(weights, records(), network="vit", network_options=VIT)
    assert torch.equal(torch.rand(1), expected)


def test_the_probe_passes_the_preflight_on_encoded_records(weights: Path) -> None:
    model = probe(weights, network="vit", network_options=VIT)
    x = torch.from_numpy(np.array(features_of(weights, records(), network="vit", network_options=VIT)[:NUM_RECORDS]))
    network = build_model(model, (8,), 1)
    mechanism = Mechanism("patient", 0.5, 1.0, 1.0, 10, 4.0, 1e-3)
    report = preflight(network, binary_loss, mechanism, x, torch.arange(NUM_RECORDS) % 2)
    assert report.passed, [str(finding) for finding in report.findings]


@pytest.mark.parametrize("module, detail", [
    (MeanOverBatch(), "other features alone than inside a batch"),
    (Noisy(), "other features alone than inside a batch"),
    (LogOf(), "NaN or infinite"),
    (nn.Conv2d(1, 2, 3), r"gives shape \(8, 2, 6, 6\) for 8 records, expected features of shape \(8, D\)"),
    (nn.Flatten(0), "for 8 records, expected features"),
])  # fmt: skip
def test_unfit_encoders_are_refused(module: nn.Module, detail: str, tmp_path: Path) -> None:
    path = script(module, tmp_path / "unfit.pt")
    with pytest.raises(ConfigError, match=detail):
        features_of(path, records())
    assert not list(tmp_path.glob("cache/*"))


def test_records_of_another_shape(tmp_path: Path) -> None:
    path = script(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), tmp_path / "flat.pt")
    with pytest.raises(ConfigError, match=r"cannot take records of shape \(1, 9, 9\)"):
        features_of(path, records(shape=(1, 9, 9)))
    with pytest.raises(ConfigError, match=r"model\.size=8 resizes images"):
        features_of(path, records(shape=(12, 100)), size=8)


def test_problems_of_the_options_come_together(tmp_path: Path, weights: Path) -> None:
    for path, options, details in (
        (tmp_path / "no.pt", {"network": "vit", "head": "fc"},
         ["is not a file", "model.network=vit does not go with no.pt", "model.head=fc does not go with"]),
        (weights, {}, ["holds weights only: name their architecture"]),
        (tmp_path / "model.bin", {}, ["is not a file", "must be .safetensors, or a program of PyTorch: .pt"]),
        (weights, {"encode_batch": 0, "size": 0}, ["model.encode_batch=0 must be >= 1", "model.size=0 must be >= 1"]),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            Encoder.of(probe(path, **options))
        for detail in details:
            assert detail in str(caught.value)


@pytest.mark.parametrize("options, details", [
    ({"network_options": {**VIT, "depth": 2}}, ["weights are missing in the file, for example 2.norm1"]),
    ({"network_options": {**VIT, "depth": 1, "width": 16}}, ["another shape", "is (8, 1, 4, 4) in the file"]),
    ({"network_options": VIT, "head": "9"}, ["model.head=9 is no layer of vit; its last layers are"]),
    ({"network_options": {**VIT, "widht": 1}}, ["model.widht=1 is not a setting here"]),
    ({"network_options": VIT, "network": "vitt"}, ["model.name='vitt' is not a model (did you mean 'vit'?)"]),
])  # fmt: skip
def test_weights_that_do_not_fit(weights: Path, options: dict[str, Any], details: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        features_of(weights, records(), **{"network": "vit", **options})
    for detail in details:
        assert detail in str(caught.value)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    for name, options in (("a.pt", {}), ("a.pt2", {}), ("a.safetensors", {"network": "vit"})):
        (tmp_path / name).write_bytes(b"not weights at all, but long enough to look at")
        with pytest.raises(ConfigError, match=r"is no (program of PyTorch|safetensors file)"):
            features_of(tmp_path / name, records(), **options)
