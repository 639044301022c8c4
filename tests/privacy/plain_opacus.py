"""Plain Opacus and dptrain side by side: the same model, loss and records through one noiseless step of each.

Used by the tests of pitfalls. Sensitivity is always the change of the noiseless clipped sum when one record (or
patient) is removed, in units of the clipping norm C; the noise is made for 1.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight import Finding, preflight
from dptrain.training.losses import binary_loss

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import PrivacyEngine

FEATURES = 6


def records(num: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, FEATURES, generator=generator), (torch.rand(num, generator=generator) < 0.5).long()


def network(*middle: nn.Module, outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), *middle, nn.Tanh(), nn.Linear(16, outputs))


def mechanism(**changes: object) -> Mechanism:
    values: dict = {"unit": "patient", "sampling_rate": 0.5, "noise_multiplier": 1.0, "clipping_norm": 1.0}
    values |= {"num_steps": 1, "expected_batch_size": 10.0, "delta": 1e-3}
    return Mechanism(**(values | changes))


def make_private(model, features, labels, *, sigma=0.0, clipping_norm=1.0, mode="hooks", batch_size=None, **settings):
    """`PrivacyEngine.make_private` with as little around it as it takes: (engine, model, optimizer, ..., loader)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loader = DataLoader(TensorDataset(features, labels), batch_size=batch_size or max(len(features), 1))
    engine = PrivacyEngine()
    return engine, *engine.make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=sigma, max_grad_norm=clipping_norm,
        grad_sample_mode=mode, **settings,
    )  # fmt: skip


def opacus_sum(model, loss, features, labels, **settings) -> Tensor:
    """Noiseless clipped sum of one step of plain Opacus on the whole batch."""
    if settings.get("mode") == "ghost":
        _, model, optimizer, loss, _ = make_private(model, features, labels, criterion=loss, **settings)
    else:
        _, model, optimizer, _ = make_private(model, features, labels, **settings)
    loss(model(features), labels).backward()
    optimizer.step()
    return torch.cat([param.summed_grad.flatten() for param in optimizer.params]).detach()


def opacus_sensitivity(build, loss, features, labels, **settings) -> float:
    """Largest change of the sum, in units of C, when one of the first eight records is removed."""
    everyone = opacus_sum(build(), loss(), features, labels, **settings)
    largest = 0.0
    for index in range(8):
        kept = torch.arange(len(features)) != index
        fewer = opacus_sum(build(), loss(), features[kept], labels[kept], **settings)
        largest = max(largest, float((everyone - fewer).norm()))
    return largest / settings.get("clipping_norm", 1.0)


def ours(model, features, labels, owner, mech, *, loss=binary_loss, max_records=10**6) -> tuple[Tensor, PrivateEngine]:
    """(weights after minus before, times the divisor, engine) of one step of dptrain with learning rate 1."""
    before = torch.cat([param.detach().flatten() for param in model.parameters()])
    units = np.arange(len(np.unique(owner)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    noise = torch.Generator().manual_seed(1)
    engine = PrivateEngine(model, loss, optimizer, mech, noise, np.ones(max(len(units), 1), dtype=bool))
    engine.step(features, labels, torch.as_tensor(owner, dtype=torch.long), units, max_records)
    after = torch.cat([param.detach().flatten() for param in engine.close().parameters()])
    return (before - after) * mech.expected_batch_size, engine


def findings(model, loss=binary_loss, **data) -> dict[str, Finding]:
    """What the preflight of dptrain finds, by check."""
    features, labels = data.get("records") or records(8)
    report = preflight(model, loss, mechanism(), features, labels)
    return {name: finding for finding in report.findings for name in finding.check.split(", ")}
