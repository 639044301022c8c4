"""The preflight: does a private step of this model, loss and data do what is accounted? Asked before every DP training.

Each check drives the real engine through whole steps and looks only at what reaches the optimizer, so it does not
matter in which layer, loss or wrapper a defect sits. Three clipping norms are tried: one so large that nothing is
clipped (the sum must then be autograd's), one so small that everything is (a unit then moves the sum by C at most),
and the mechanism's own. Weights, buffers and random state of the caller are left alone: everything runs on copies.

The preflight reads a handful of private records. Its outcome (passed, or refused) is not covered by epsilon; nothing
but the outcome is kept of a run that passed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from dptrain.errors import PrivacyError
from dptrain.privacy.engine import PrivateEngine, RecordLoss
from dptrain.privacy.ledger import NOISE_P, Ledger, noise_range
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream


class StepEngine(Protocol):
    """What the preflight drives: `PrivateEngine`, or a model of a block of the fused engine (`BlockProbe`)."""

    @property
    def ledger(self) -> Ledger:
        """What was entered."""

    def step(
        self, features: Tensor, labels: Tensor, owner: Tensor, units: NDArray[np.int64], max_records: int
    ) -> float:
        """One step; the optimizer's own `step` is called with the gradient in place."""


EngineFactory = Callable[..., StepEngine]
SENSITIVITY_SLACK = 1e-5
"""Adding or removing a unit may move the clipped sum by C (1 + this): rounding of float32."""
EQUAL = 5e-5
"""Two ways to compute the same gradient in float32 may differ by this, relative to its norm."""
NOISE_VALUES = 2048
"""Noise values that are looked at, at least."""
UNIT_SIZES = (3, 2, 1, 1, 1)
"""Records per unit in the probe: units with several records, whatever the data look like."""
NUM_RECORDS = sum(UNIT_SIZES)
CROWD = 64
"""Records of the one large batch that the preflight tries."""
CROWD_VALUES = 2**27
"""Per-record gradient values (512 MiB) that this batch may need; it is made smaller, or left out, for larger models."""


@dataclass(frozen=True)
class Finding:
    """One way in which the guarantee does not hold."""

    check: str
    """Name of the check in `CHECKS`."""
    what: str
    """What was measured."""
    why: str
    """Why this breaks the guarantee."""
    advice: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.check}: {self.what} {self.why} {self.advice}"


@dataclass(frozen=True)
class PreflightReport:
    """Outcome of all checks."""

    findings: tuple[Finding, ...]
    measured: dict[str, float] = field(default_factory=dict)
    """What each check measured, in units of its limit (at most 1 if it passed)."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.findings

    def check(self) -> None:
        """Raise PrivacyError with all findings."""
        if self.findings:
            raise PrivacyError(
                [
                    "The preflight refuses this training: its steps are not the mechanism that is accounted. Nothing "
                    "was trained and there is no epsilon.",
                    *(f"  {finding}" for finding in self.findings),
                ]
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "passed": self.passed,
            "checks": list(CHECKS),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


CHECKS: dict[str, str] = {
    "loss": "the loss is one number per record",
    "randomness": "nothing but dropout layers draws random numbers in a forward pass",
    "gradients": "unclipped, the sum of unit gradients is autograd's, divided by the public divisor",
    "independence": "a unit contributes the same alone and inside a batch",
    "sensitivity": "adding or removing a unit moves the clipped sum by at most C",
    "nonfinite": "a record with NaN or infinite values contributes 0",
    "empty": "an empty batch is a finite, entered, noised step",
    "split": "cutting a batch into passes changes nothing",
    "memory": "a step does not depend on the steps before it",
    "buffers": "a forward pass changes no buffer, no parameter and no later output of the model",
    "noise": "every parameter gets fresh noise of standard deviation sigma C in every step",
    "units": "every training record is in exactly one unit of privacy",
}
"""Checks by name, with what each one asks."""

_WHY = {
    "loss": "Anything that averages over the batch ties patients together, and ghost or per-record gradients of it are "
    "wrong.",
    "randomness": "The other checks compare repeated passes, and random numbers shared inside a batch can tie patients "
    "together.",
    "gradients": "Clipping bounds these gradients; if they are not the model's, the bound holds for something else.",
    "independence": "One patient then changes what others contribute, and clipping no longer bounds one patient's "
    "influence.",
    "sensitivity": "The noise is scaled to C: a patient who can move the sum further is protected by a larger epsilon "
    "than the one reported.",
    "nonfinite": "One broken record would make all weights NaN and so show its presence.",
    "empty": "Whether a batch is empty depends on who is in the data; skipping or crashing on it is visible.",
    "split": "Clipping, noise or division then depend on memory limits.",
    "memory": "A patient's influence then reaches into later steps without being clipped or noised.",
    "buffers": "Such state holds statistics of the patients and leaves with the model without any noise.",
    "noise": "The noise is the protection: less of it, or the same again, is a larger epsilon.",
}
_ADVICE = {
    "loss": "Return losses of shape (records,): reduction='none', no class weights that are normalised over the batch.",
    "randomness": "Use torch.nn.Dropout modules, or draw random numbers before training.",
    "gradients": "Layers that own parameters must be called once per pass with the batch first; replace custom layers "
    "by standard ones that Opacus supports (no shared optional inputs, no float16).",
    "independence": "Replace BatchNorm and other operations over the batch by GroupNorm or LayerNorm, in each disguise "
    "(frozen, without affine parameters, functional).",
    "sensitivity": "Clip one gradient per patient, after averaging over the patient's records and before summing.",
    "nonfinite": "Remove operations that spread NaN over a batch (means or maxima over the batch).",
    "empty": "Let the engine handle empty batches; do not skip them.",
    "split": "Sum clipped gradients over passes, and add noise once.",
    "memory": "Do not keep gradients, activations or hidden states from step to step.",
    "buffers": "Use GroupNorm or LayerNorm. A layer may keep statistics only if they were public before training and "
    "training leaves them alone.",
    "noise": "Do not touch the noise multiplier, the generator or the gradients after the engine's step.",
}


class _Capture(Optimizer):
    """An optimizer that keeps the gradient it is handed and leaves the weights alone."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {})
        self.seen: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> None:
        self.seen.append(
            [
                torch.zeros_like(param) if param.grad is None else param.grad.detach().clone()
                for group in self.param_groups
                for param in group["params"]
            ]
        )


@dataclass(frozen=True)
class _Batch:
    features: Tensor
    labels: Tensor
    owner: Tensor
    units: NDArray[np.int64]

    def keep(self, units: list[int]) -> _Batch:
        """The same batch with these units only."""
        rows = torch.cat([torch.nonzero(self.owner == unit).flatten() for unit in units]) if units else self.owner[:0]
        owner = torch.cat([torch.full((int((self.owner == u).sum()),), i) for i, u in enumerate(units)] or [rows])
        return _Batch(self.features[rows], self.labels[rows], owner, self.units[units])

    def apart(self) -> _Batch:
        """The same records, each a unit of its own: engines may go another way where no unit has several."""
        every = torch.arange(len(self.owner))
        return dataclasses.replace(self, owner=every, units=every.numpy())

    def repeat(self, copies: int) -> _Batch:
        """So many copies of every unit, each a unit of its own."""
        num_units = len(self.units)
        shift = torch.arange(copies).repeat_interleave(len(self.owner)) * num_units
        return _Batch(
            torch.cat([self.features] * copies),
            torch.cat([self.labels] * copies),
            self.owner.repeat(copies) + shift,
            np.tile(self.units, copies),
        )


class _Probe:
    """Runs engine steps on copies of the model."""

    def __init__(
        self, model: nn.Module, record_loss: RecordLoss, mechanism: Mechanism, engine: EngineFactory, num_units: int
    ) -> None:
        self.model, self.record_loss, self.mechanism = model, record_loss, mechanism
        self._engine, self._num_units = engine, num_units
        self._gradients: Tensor | None = None

    def steps(
        self, batches: list[_Batch], clipping_norm: float, sigma: float = 0.0, seed: int = 0, max_records: int = 10**9
    ) -> tuple[list[Tensor], Ledger]:
        """What reaches the optimizer in each step, flat and times the divisor: (clipped sum + noise)."""
        model = copy.deepcopy(self.model).train()
        params = [param for param in model.parameters() if param.requires_grad]
        mechanism = dataclasses.replace(
            self.mechanism, clipping_norm=clipping_norm, noise_multiplier=sigma, num_steps=len(batches)
        )
        capture = _Capture(params)
        members = np.ones(self._num_units, dtype=bool)
        engine = self._engine(model, self.record_loss, capture, mechanism, NoiseStream(seed), members)
        for batch in batches:
            engine.step(batch.features, batch.labels, batch.owner, batch.units, max_records)
        if len(capture.seen) != len(batches):
            raise RuntimeError(f"{len(capture.seen)} updates reached the weights in {len(batches)} steps")
        divisor = self.mechanism.expected_batch_size
        return [torch.cat([part.double().flatten() for part in seen]) * divisor for seen in capture.seen], engine.ledger

    def sum(self, batch: _Batch, clipping_norm: float, max_records: int = 10**9) -> Tensor:
        """Noiseless clipped sum of one step."""
        return self.steps([batch], clipping_norm, max_records=max_records)[0][-1]

    def sums(self, batches: list[_Batch], clipping_norm: float) -> list[Tensor]:
        """Noiseless clipped sums of several steps of one engine."""
        return self.steps(batches, clipping_norm)[0]

    def autograd(self, batch: _Batch) -> Tensor:
        """(units, d) mean gradient of each unit of the whole batch, by plain autograd, record by record, no hooks."""
        if self._gradients is None:
            self._gradients = self._autograd(batch)
        return self._gradients

    def _autograd(self, batch: _Batch) -> Tensor:
        model = copy.deepcopy(self.model).train()
        params = [param for param in model.parameters() if param.requires_grad]
        rows = []
        for unit in range(len(batch.units)):
            mine = torch.nonzero(batch.owner == unit).flatten()
            total = torch.zeros(sum(param.numel() for param in params), dtype=torch.float64)
            for row in mine.tolist():
                loss = self.record_loss(model(batch.features[row : row + 1]), batch.labels[row : row + 1]).sum()
                grads = torch.autograd.grad(loss, params, allow_unused=True)
                total += torch.cat(
                    [
                        (torch.zeros_like(param) if grad is None else grad).double().flatten()
                        for param, grad in zip(params, grads, strict=True)
                    ]
                )
            rows.append(total / len(mine))
        return torch.stack(rows)


def preflight(
    model: nn.Module,
    record_loss: RecordLoss,
    mechanism: Mechanism,
    features: Tensor,
    labels: Tensor,
    engine: EngineFactory = PrivateEngine,
    checks: Collection[str] | None = None,
) -> PreflightReport:
    """Run every check of `CHECKS` (or only those named in `checks`) and collect all findings.

    `features` (R, ...) and `labels` (R, ...) are at least `NUM_RECORDS` of the records that will be trained on,
    different ones if possible; `mechanism` is the accounted one. Never raises for a defect of model, loss or engine:
    an exception inside a check is a finding.
    """
    start = time.perf_counter()
    if len(features) < NUM_RECORDS:
        raise ValueError(f"The preflight needs {NUM_RECORDS} records, got {len(features)}.")
    findings: list[Finding] = []
    measured: dict[str, float] = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = _without_dropout(model)
        sizes = torch.tensor(UNIT_SIZES)
        batch = _Batch(
            features[:NUM_RECORDS],
            labels[:NUM_RECORDS],
            torch.repeat_interleave(torch.arange(len(UNIT_SIZES)), sizes),
            np.arange(len(UNIT_SIZES)),
        )
        probe = _Probe(model, record_loss, mechanism, engine, NUM_RECORDS)
        for name, run in _RUNS.items():
            if checks is not None and name not in checks:
                continue
            problems: list[str] = []
            try:
                worst = 0.0
                for share, sentence in run(probe, batch):
                    worst = max(worst, share if math.isfinite(share) else math.inf)
                    if not share <= 1:
                        problems.append(sentence)
                measured[name] = worst
            except Exception as error:
                problems.append(f"it failed with {type(error).__name__}: {_first_line(error)}.")
                measured[name] = math.inf
            findings += [Finding(name, problem, _WHY[name], _ADVICE[name]) for problem in problems[:1]]
    findings = _without_echoes(findings)
    return PreflightReport(tuple(findings), measured, time.perf_counter() - start)


Outcome = Iterator[tuple[float, str]]
"""Measured value divided by its limit, and the sentence for the case that it is above 1."""


def _loss(probe: _Probe, batch: _Batch) -> Outcome:
    logits = copy.deepcopy(probe.model).train()(batch.features)
    losses = probe.record_loss(logits, batch.labels)
    expected = (len(batch.features),)
    yield (
        0.0 if tuple(losses.shape) == expected else math.inf,
        f"the loss has shape {tuple(losses.shape)} for {expected[0]} records, expected {expected}.",
    )


def _randomness(probe: _Probe, batch: _Batch) -> Outcome:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        outputs.append(copy.deepcopy(probe.model).train()(batch.features))
    yield _difference(outputs[0], outputs[1]), "two forward passes on the same records with dropout off differ."


def _independence(probe: _Probe, batch: _Batch) -> Outcome:
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
    if copies > 1:
        crowd = probe.sum(batch.repeat(copies), _unclipped(gradients))
        share = _difference(crowd, copies * gradients.sum(0))
        yield (
            share,
            f"with {copies} copies of every unit, the step differs from as many times one copy by {share * EQUAL:.2g} "
            "of its norm.",
        )


def _gradients(probe: _Probe, batch: _Batch) -> Outcome:
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


def _sensitivity(probe: _Probe, batch: _Batch) -> Outcome:
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


def _nonfinite(probe: _Probe, batch: _Batch) -> Outcome:
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


def _empty(probe: _Probe, batch: _Batch) -> Outcome:
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


def _split(probe: _Probe, batch: _Batch) -> Outcome:
    norms = probe.autograd(batch).norm(dim=1)
    clipping_norm = float(norms.median()) or probe.mechanism.clipping_norm
    for records, sizes in ((batch, (1, 3)), (batch.apart(), (3,))):
        whole = probe.sum(records, clipping_norm)
        for max_records in sizes:
            share = _difference(probe.sum(records, clipping_norm, max_records), whole)
            yield share, f"passes of at most {max_records} records change the step by {share * EQUAL:.2g} of its norm."


def _memory(probe: _Probe, batch: _Batch) -> Outcome:
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


def _buffers(probe: _Probe, batch: _Batch) -> Outcome:
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


def _noise(probe: _Probe, batch: _Batch) -> Outcome:
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


_RUNS: dict[str, Callable[[_Probe, _Batch], Outcome]] = {
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


def _without_echoes(findings: list[Finding]) -> list[Finding]:
    """One exception usually stops several checks; say it once and name the others."""
    kept: dict[str, Finding] = {}
    for finding in findings:
        first = kept.get(finding.what)
        if first is None:
            kept[finding.what] = finding
        else:
            kept[finding.what] = dataclasses.replace(first, check=f"{first.check}, {finding.check}")
    return list(kept.values())


def _without_dropout(model: nn.Module) -> nn.Module:
    """A copy whose dropout layers let everything through in train mode too."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


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


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else "no message"
