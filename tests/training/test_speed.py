"""Speed settings cannot change epsilon: nothing that accounts, samples or noises reads them."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dptrain.privacy.mechanism import Mechanism
from dptrain.training import speed as module
from dptrain.training.fleet import train_fleet_block
from dptrain.training.speed import SpeedConfig, onednn_is_accurate, set_libraries, tune

_spec = importlib.util.spec_from_file_location("speed_cases", Path(__file__).with_name("test_fleet.py"))
cases = importlib.util.module_from_spec(_spec)
sys.modules["speed_cases"] = cases
_spec.loader.exec_module(cases)
PACKAGE = Path(module.__file__).parent.parent
FIELDS = {field.name for field in dataclasses.fields(SpeedConfig)}


def names_in(path: Path) -> set[str]:
    """Every name, attribute and argument in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        found
        for node in ast.walk(tree)
        for found in (
            getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "arg", None),
            *(alias.name.rpartition(".")[2] for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)),
        )
        if isinstance(found, str)
    }  # fmt: skip


def test_it_is_unknown_where_epsilon_is_made():
    for path in [*PACKAGE.rglob("privacy/*.py"), PACKAGE / "training/arms.py", PACKAGE / "account_command.py"]:
        assert not {"SpeedConfig", "speed"} & names_in(path), path
    assert not FIELDS & {field.name for field in dataclasses.fields(Mechanism)}


@pytest.mark.parametrize("change", [{"width": 1}, {"max_rows": 7}, {"width": 2, "matmul": "onednn"}])
def test_what_runs_is_the_same_mechanism(change):
    """Same coins, same counts, same noise stream; the weights differ by rounding."""
    data, rows = cases.FleetData.build(cases.small_cohort(), "patient"), cases.draw_membership(0, 4, 45)
    mechanism, arm = cases.mechanism(noise_multiplier=1.0), cases.arm_from_label("eps=8")
    results = [
        train_fleet_block(cases.small_config(), data, arm, mechanism, range(4), rows, speed)
        for speed in (SpeedConfig(), SpeedConfig(**change))
    ]
    for one, other in zip(*results, strict=True):
        close = {"noise_sd", "largest_share"}
        assert {k: v for k, v in one.ledger.items() if k not in close} == {
            k: v for k, v in other.ledger.items() if k not in close
        }
        assert one.ledger["noise_sd"] == pytest.approx(other.ledger["noise_sd"], rel=1e-4)
        assert np.allclose(one.logits, other.logits, atol=1e-4)


def test_the_mechanism_of_an_arm_does_not_see_them():
    """`build_mechanism` gets the configuration alone; every speed setting in it leaves the mechanism as it is."""
    config = cases.small_config()
    arm = cases.arms_of_run(config.privacy)[-1]
    expected = cases.build_mechanism(config, arm, 22.5)
    for change in ({"block_size": 9}, {"device": "cuda"}, {"tune": True}, {"tf32": True}, {"workers": 3},
                   {"engine": "opacus"}):  # fmt: skip
        other = dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, **change))
        assert cases.build_mechanism(other, arm, 22.5) == expected


def test_tf32_is_for_plain_arms_only():
    wanted = SpeedConfig(tf32_plain=True)
    try:
        set_libraries(wanted, is_plain=True)
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        set_libraries(wanted, is_plain=False)
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    finally:
        set_libraries(SpeedConfig(), is_plain=False)


def test_the_fastest_setting_of_a_trial_is_kept():
    cost = {1: 5.0, 2: 2.0, 4: 3.0}
    best = tune(SpeedConfig(), lambda speed: cost[speed.width] + (speed.matmul == "onednn"), (1, 2, 4))
    assert (best.width, best.matmul) == (2, "default")


def test_a_library_that_is_not_float32_is_never_tried(monkeypatch):
    monkeypatch.setattr(module, "onednn_is_accurate", lambda: False)
    best = tune(SpeedConfig(), lambda speed: 1.0 - (speed.matmul == "onednn"), (1, 2))
    assert best.matmul == "default"
    monkeypatch.undo()
    product = torch.Tensor.__matmul__

    def rounded(a, b):
        return product(a, b) * (1 + 1e-3 * (a.dtype == torch.float32))

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not onednn_is_accurate()


@pytest.mark.parametrize("stored", [None, {"width": 8, "max_rows": 64, "matmul": "onednn", "device": "cpu",
                                           "tf32_plain": False}])  # fmt: skip
def test_settings_are_read_back_from_a_study(stored):
    speed = SpeedConfig.read(stored)
    assert SpeedConfig.read(speed.to_dict()) == speed


def test_bad_settings_are_refused():
    for bad in ({"width": 0}, {"matmul": "mkl"}, {"device": "tpu"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SpeedConfig(**bad)


def test_rows_of_a_pass_keep_memory_bounded():
    speed = SpeedConfig(max_rows=2048)
    assert speed.rows_for(1000, keeps_gradients=True) == 2048
    assert speed.rows_for(1_500_000, keeps_gradients=True) * 1_500_000 <= module.STORED_VALUES
    assert speed.rows_for(10**9, keeps_gradients=True) == 1
    assert speed.rows_for(10**9, keeps_gradients=False) == 2048


def test_a_chain_does_not_depend_on_its_neighbours():
    """Models of a block, rows of a pass: the same bits."""
    data, rows = cases.FleetData.build(cases.small_cohort(), "patient"), cases.draw_membership(0, 4, 45)
    mechanism, arm = cases.mechanism(noise_multiplier=1.0), cases.arm_from_label("eps=8")
    together, alone = (
        train_fleet_block(cases.small_config(), data, arm, mechanism, range(4), rows, SpeedConfig(width, max_rows=24))
        for width in (4, 1)
    )
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.logits, other.logits)


def test_blas_has_one_thread_where_models_are_trained():
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(limits=2, user_api="blas"):
        set_libraries(SpeedConfig(), is_plain=False)
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; test_fused_fleet runs the code")
@pytest.mark.parametrize("model", ["mlp", "small_cnn", "vit"])
def test_a_gpu_gives_the_same_sums(model):
    from dptrain.config import ModelConfig
    from dptrain.models.registry import build_model
    from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
    from dptrain.privacy.fused.stack import Stack
    from dptrain.training.losses import binary_loss

    owner, results = np.array([0, 0, 1, 2, 3]), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        models = [build_model(ModelConfig(model), (1, 16, 16), 1).double().to(device) for _ in range(3)]
        features = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
        batches = [UnitBatch(Given(features, torch.ones(5, device=device)), owner, np.arange(4))] * 3
        mechanism = Mechanism("patient", 0.5, 0.0, 0.1, 1, 4.0, 1e-3)
        noises = [torch.Generator(device) for _ in models]
        engine = FusedEngine(Stack(models), binary_loss, mechanism, noises, np.ones((3, 4), dtype=bool))
        results.append(engine.step(batches, 100)[0].cpu())
    assert torch.allclose(*results, rtol=1e-9, atol=1e-12)
