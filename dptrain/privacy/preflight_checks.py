"""The checks of the preflight. Each yields what it measured, divided by its limit, and a sentence for the case that
this is above 1.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from dptrain.privacy.ledger import NOISE_P, noise_range
from dptrain.privacy.preflight_probe import Probe, ProbeBatch

SENSITIVITY_SLACK = 1e-5
"""Adding or removing a unit may move the clipped sum by C (1 + this): rounding of float32."""
EQUAL = 5e-5
"""Two ways to compute the same gradient in float32 may differ by this, relative to its norm."""
NOISE_VALUES = 2048
"""Noise values that are looked at, at least."""
CROWD = 64
"""Records of the one large batch that the preflight tries."""
CROWD_VALUES = 2**27
"""Per-record gradient values (512 MiB) that this batch may need; it is made smaller, or left out, for larger models."""

Outcome = Iterator[tuple[float, str]]
"""Measured value divided by its limit, and the sentence for the case that it is above 1."""


def _loss(probe: Probe, batch: ProbeBatch) -> Outcome:
    logits = copy.deepcopy(probe.model).train()(batch.features)
    losses = probe.record_loss(logits, batch.labels)
    expected = (len(batch.features),)
    yield (
        0.0 if tuple(losses.shape) == expected else math.inf,
        f"the loss has shape {tuple(losses.shape)} for {expected[0]} records, expected {expected}.",
    )


def _randomness(probe: Probe, batch: ProbeBatch) -> Outcome:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        outputs.append(copy.deepcopy(probe.model).train()(batch.features))
    yield _difference(outputs[0], outputs[1]), "two forward passes on the same records with dropout off differ."


def _independence(probe: Probe, batch: ProbeBatch) -> Outcome:
    gradients = probe.autograd(batch)
    batches = [batch, *(batch.keep([unit]) for unit in range(len(batch.units)))]
    for clipping_norm, how in ((_unclipped(gradients), "without"), (0.1 * _smallest(gradients), "with")):
        everyone, *alone = probe.sums(batches, clipping_norm)
        share = _difference(everyone, torch.stack(alone).sum(0))
        yield (
            share,
            f"{how} clipping, the step of {len(alone)} units differs from the sum of the units' own steps by "
            f"{share * EQUAL:.2g} of its norm.",
        )
    # A layer may mix records only where there are many: a step of as many copies as memory allows.
    num_values = sum(param.numel() for param in probe.model.parameters() if param.requires_grad) * len(batch.features)
    copies = min(CROWD // len(batch.features), CROWD_VALUES // max(num_values, 1))
    sizes = torch.bincount(batch.owner)[:, None]
    for crowd, one in ((batch, gradients.sum(0)), (batch.apart(), (sizes * gradients).sum(0))):
        if copies > 1:
            share = _difference(probe.sum(crowd.repeat(copies), _unclipped(gradients)), copies * one)
            yield (
                share,
                f"with {copies} copies of every unit, the step differs from as many times one copy by "
                f"{share * EQUAL:.2g} of its norm.",
            )


def _gradients(probe: Probe, batch: ProbeBatch) -> Outcome:
    obvious = probe.autograd(batch)
    for kept in (list(range(len(batch.units))), [0, 1]):
        part = batch.keep(kept)
        ours = probe.sum(part, _unclipped(obvious))
        share = _difference(ours, obvious[kept].sum(0))
        yield (
            share,
            f"with {len(kept)} units and clipping out of reach, the step differs from autograd's gradient by "
            f"{share * EQUAL:.2g} of its norm.",
        )
    sizes = torch.bincount(batch.owner)
    share = _difference(probe.sum(batch.apart(), _unclipped(obvious)), (sizes[:, None] * obvious).sum(0))
    yield (
        share,
        "with every record a unit of its own and clipping out of reach, the step differs from autograd's gradient by "
        f"{share * EQUAL:.2g} of its norm.",
    )


def _sensitivity(probe: Probe, batch: ProbeBatch) -> Outcome:
    own, apart = probe.mechanism.clipping_norm, batch.apart()
    # Nothing guarantees that these records are the worst: larger values stress the bound.
    for clipping_norm, scale in ((0.1 * _smallest(probe.autograd(batch)), 1.0), (own, 1.0), (own, 30.0)):
        for whole, removed in ((batch, range(len(batch.units))), (apart, (0, len(apart.units) - 1))):
            stressed, units = whole, range(len(whole.units))
            if batch.features.is_floating_point():
                stressed = dataclasses.replace(whole, features=whole.features * scale)
            fewer = [stressed.keep([other for other in units if other != unit]) for unit in removed]
            everyone, *without = probe.sums([stressed, *fewer], clipping_norm)
            for part in without:
                ratio = float((everyone - part).norm()) / clipping_norm
                # The difference of two float32 sums of norm up to units * C.
                yield (
                    ratio / (1 + SENSITIVITY_SLACK * len(units)),
                    f"removing one unit moves the clipped sum by {ratio:.4g} C (C={clipping_norm:.3g}).",
                )


def _nonfinite(probe: Probe, batch: ProbeBatch) -> Outcome:
    if not batch.features.is_floating_point():
        return
    values = (math.nan, math.inf)
    for whole in (batch, batch.apart()):
        last = len(whole.units) - 1  # a unit with one record
        broken = []
        for value in values:
            features = whole.features.clone()
            features[-1] = value
            broken.append(dataclasses.replace(whole, features=features))
        expected, *sums = probe.sums([whole.keep(list(range(last))), *broken], _unclipped(probe.autograd(batch)))
        for value, result in zip(values, sums, strict=True):
            share = _difference(result, expected)
            yield share, f"a record full of {value} changes the step by {share * EQUAL:.2g} of its norm."


def _empty(probe: Probe, batch: ProbeBatch) -> Outcome:
    empty = batch.keep([])
    sums, ledger = probe.steps([empty, empty], probe.mechanism.clipping_norm)
    entered = (ledger.num_steps, ledger.num_empty) == (2, 2)
    yield (0.0 if entered else math.inf), f"of 2 empty steps {ledger.num_steps} are in the ledger."
    worst = max(float(part.abs().max()) for part in sums)
    yield (0.0 if worst == 0 else math.inf), f"an empty step without noise moved the weights by {worst:.2g}."
    if probe.mechanism.noise_multiplier > 0:
        noised = probe.steps([empty], probe.mechanism.clipping_norm, probe.mechanism.noise_multiplier)[0][0]
        fine = bool(noised.isfinite().all()) and float(noised.abs().max()) > 0
        yield (0.0 if fine else math.inf), "an empty step got no finite noise."


def _split(probe: Probe, batch: ProbeBatch) -> Outcome:
    norms = probe.autograd(batch).norm(dim=1)
    clipping_norm = float(norms.median()) or probe.mechanism.clipping_norm
    for records, sizes in ((batch, (1, 3)), (batch.apart(), (3,))):
        whole = probe.sum(records, clipping_norm)
        for max_records in sizes:
            share = _difference(probe.sum(records, clipping_norm, max_records), whole)
            yield share, f"passes of at most {max_records} records change the step by {share * EQUAL:.2g} of its norm."


def _memory(probe: Probe, batch: ProbeBatch) -> Outcome:
    first, second = batch.keep([0, 1]), batch.keep([2, 3, 4])
    norms = probe.autograd(batch).norm(dim=1)
    clipping_norm = float(norms.median()) or probe.mechanism.clipping_norm
    fresh = [probe.sum(first, clipping_norm), probe.sum(second, clipping_norm)]
    fresh += [torch.zeros_like(fresh[0]), fresh[0]]
    steps = probe.sums([first, second, batch.keep([]), first], clipping_norm)
    for index, (step, alone) in enumerate(zip(steps, fresh, strict=True)):
        share = _difference(step, alone, float(norms.median()))
        yield (
            share,
            f"step {index + 1} of four differs from the same step taken first by {share * EQUAL:.2g} of its norm.",
        )


def _buffers(probe: Probe, batch: ProbeBatch) -> Outcome:
    model = copy.deepcopy(probe.model)
    before = {name: value.clone() for name, value in _state(model)}
    outputs = [_eval_output(model, batch.features)]
    model.train()(batch.features)
    changed = [name for name, value in _state(model) if name not in before or not torch.equal(before[name], value)]
    yield (
        math.inf if changed else 0.0,
        f"a forward pass in train mode changes buffers or parameters: {', '.join(changed)}.",
    )
    # Statistics can also sit in plain attributes; then only what the model says afterwards gives them away.
    outputs.append(_eval_output(model, batch.features))
    share = _difference(outputs[0], outputs[1])
    yield share, f"a forward pass in train mode changes later outputs in eval mode by {share * EQUAL:.2g} of the norm."


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_buffers(), *((name, param.detach()) for name, param in model.named_parameters())]


def _eval_output(model: nn.Module, features: Tensor) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        output: Tensor = model.eval()(features)
    return output.clone()


def _noise(probe: Probe, batch: ProbeBatch) -> Outcome:
    sigma, clipping_norm = probe.mechanism.noise_multiplier, probe.mechanism.clipping_norm
    if sigma == 0:
        return
    scale = sigma * clipping_norm
    clean = probe.sum(batch, clipping_norm)
    pairs = math.ceil(NOISE_VALUES / (2 * len(clean)))
    noises = []
    for seed in (0, 1):
        steps, _ = probe.steps([batch, batch.keep([])] * pairs, clipping_norm, sigma, seed, max_records=3)
        noises.append(torch.stack([s - clean if i % 2 == 0 else s for i, s in enumerate(steps)]) / scale)
    yield from _spread("all parameters", noises[0], scale)
    start = 0
    for name, param in probe.model.named_parameters():
        if param.requires_grad:
            yield from _spread(f"parameter {name}", noises[0][:, start : start + param.numel()], scale)
            start += param.numel()
    for what, a, b in (
        ("two steps", noises[0][:-1], noises[0][1:]),
        ("two runs with different generators", noises[0], noises[1]),
    ):
        correlation = float((a * b).mean()) * math.sqrt(a.numel())
        yield abs(correlation) / 8, f"the noise of {what} is the same or correlated (z = {correlation:.3g})."


def _spread(what: str, noise: Tensor, scale: float) -> Outcome:
    ratio = float(noise.square().mean())
    low, high = noise_range(noise.numel(), NOISE_P)
    # A mean hides in the mean square: values must also be centred.
    centre = abs(float(noise.mean())) * math.sqrt(noise.numel())
    fine = low <= ratio <= high and centre < 8
    yield (
        0.0 if fine else math.inf,
        f"the noise on {what} has standard deviation {math.sqrt(ratio) * scale:.4g} and mean "
        f"{float(noise.mean()) * scale:.2g}; {scale:.4g} and 0 are accounted.",
    )


RUNS: dict[str, Callable[[Probe, ProbeBatch], Outcome]] = {
    "loss": _loss,
    "randomness": _randomness,
    "independence": _independence,
    "gradients": _gradients,
    "sensitivity": _sensitivity,
    "nonfinite": _nonfinite,
    "empty": _empty,
    "split": _split,
    "memory": _memory,
    "buffers": _buffers,
    "noise": _noise,
}


def _unclipped(gradients: Tensor) -> float:
    """A clipping norm that nothing reaches."""
    finite = gradients[gradients.isfinite().all(dim=1)]
    return 1e4 * max(float(finite.norm(dim=1).max()) if len(finite) else 0.0, 1e-3)


def _smallest(gradients: Tensor) -> float:
    """Smallest norm of a unit's gradient that is not 0."""
    norms = gradients.norm(dim=1)
    positive = norms[(norms > 0) & norms.isfinite()]
    return float(positive.min()) if len(positive) else 1.0


def _difference(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference relative to the larger norm (or `floor`), in units of `EQUAL`; inf if not finite."""
    scale = max(float(a.double().norm()), float(b.double().norm()), floor)
    if scale == 0:
        return 0.0
    share = float((a.double() - b.double()).norm()) / scale / EQUAL
    return share if math.isfinite(share) else math.inf
