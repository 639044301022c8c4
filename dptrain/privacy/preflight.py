"""The preflight: does a private step of this model, loss and data do what is accounted? Asked before every DP training.

Each check drives the real engine through whole steps and looks only at what reaches the optimizer, so it does not
matter in which layer, loss or wrapper a defect sits. Three clipping norms are tried: one so large that nothing is
clipped (the sum must then be autograd's), one so small that everything is (a unit then moves the sum by C at most),
and the mechanism's own. Weights, buffers and random state of the caller are left alone: everything runs on copies.

The preflight reads a handful of private records. Its outcome (passed, or refused) is not covered by epsilon; nothing
but the outcome is kept of a run that passed.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dptrain.errors import PrivacyError
from dptrain.privacy.engine import PrivateEngine, RecordLoss
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.preflight_checks import RUNS
from dptrain.privacy.preflight_probe import EngineFactory, Probe, ProbeBatch, without_dropout

UNIT_SIZES = (3, 2, 1, 1, 1)
"""Records per unit in the probe: units with several records, whatever the data look like."""
NUM_RECORDS = sum(UNIT_SIZES)


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
        model = without_dropout(model)
        sizes = torch.tensor(UNIT_SIZES)
        batch = ProbeBatch(
            features[:NUM_RECORDS],
            labels[:NUM_RECORDS],
            torch.repeat_interleave(torch.arange(len(UNIT_SIZES)), sizes),
            np.arange(len(UNIT_SIZES)),
        )
        probe = Probe(model, record_loss, mechanism, engine, NUM_RECORDS)
        for name, run in RUNS.items():
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


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else "no message"
