"""DP-SGD steps by Opacus: per-record gradients, one mean per unit, one clip, one sum, one noise. The only file that
imports the Opacus engine.

Opacus supplies the per-record gradients (`GradSampleModule`, hooks) and the clip-sum-noise step (`DPOptimizer`). What
dptrain does itself, because Opacus gets it wrong or leaves it to the caller:

* the unit. The gradient of a patient is the mean of the gradients of the patient's records in the batch; it is clipped
  once. `DPOptimizer` then sees patients where it would see records.
* the divisor and q come from the `Mechanism`, never from a data loader.
* the loss is per record and summed; nothing is normalised over the batch.
* a record whose gradient is not finite contributes 0 (it would turn all weights into NaN).
* an empty batch is a step like any other: zero plus noise.
* batches larger than memory are cut at unit borders; their clipped sums add up before the one noise.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.errors import PrivacyError
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream
from dptrain.privacy.secure_random import SecureStream

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

RecordLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (R, K), labels (R, ...)) -> one loss per record (R,)."""


class _StreamOptimizer(DPOptimizer):
    """Opacus's optimizer with noise from a stream of ours, added in float64 and rounded once."""

    def __init__(self, *args: Any, stream: SecureStream | NoiseStream, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stream = stream

    def add_noise(self) -> None:
        scale = float(self.noise_multiplier) * float(self.max_grad_norm)
        for param in self.params:
            _check_processed_flag(param.summed_grad)
            noise = torch.from_numpy(self._stream.normal(param.numel()) * scale).view_as(param)
            total = param.summed_grad.view_as(param).double() + noise.to(param.device)
            param.grad = total.to(param.dtype)
            _mark_as_processed(param.summed_grad)


class PrivateEngine:
    """Turns Poisson batches into noisy updates of `model` through `optimizer`, and keeps the ledger.

    Parameters
    ----------
    model: trained in place; a module whose output for a record depends on that record alone.
    record_loss: one loss per record.
    optimizer: any torch optimizer over `model.parameters()`; it receives (clipped sum + noise) / expected_batch_size.
    mechanism: what is accounted.
    noise: a stream that nothing else uses. A `SecureStream` for a model that may be released; a `NoiseStream` or a
        generator for the models of an audit, whose noise anybody with the seed can redraw.
    is_member: (U,) units that can be sampled, for the ledger.
    """

    def __init__(
        self,
        model: nn.Module,
        record_loss: RecordLoss,
        optimizer: torch.optim.Optimizer,
        mechanism: Mechanism,
        noise: torch.Generator | SecureStream | NoiseStream,
        is_member: NDArray[np.bool_],
    ) -> None:
        # Per-sample gradients need no gradient of the inputs; torch warns at every such model.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        self.mechanism = mechanism
        self.ledger = Ledger(is_member, stream_name(noise))
        self._record_loss = record_loss
        self._module = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=True)
        settings: dict[str, Any] = {
            "noise_multiplier": mechanism.noise_multiplier,
            "max_grad_norm": mechanism.clipping_norm,
            "expected_batch_size": mechanism.expected_batch_size,
            "loss_reduction": "mean",
        }
        if isinstance(noise, (SecureStream, NoiseStream)):
            self._optimizer: DPOptimizer = _StreamOptimizer(optimizer, stream=noise, **settings)
        else:
            self._optimizer = DPOptimizer(optimizer, generator=noise, **settings)
        self._optimizer.attach_step_hook(self._measure)
        self._noise_norm = self._sum_norm = math.nan
        self._is_inside_step = False

    @property
    def params(self) -> list[nn.Parameter]:
        """Trainable parameters."""
        return list(self._optimizer.params)

    def step(
        self, features: Tensor, labels: Tensor, owner: Tensor, units: NDArray[np.int64], max_records: int
    ) -> float:
        """One noisy step on a Poisson batch; returns the sum of record losses divided by the records (a diagnostic
        that is not private: it is shown in the restricted curves of audit fleets only).

        Shapes: features (R, ...), labels (R, ...), owner (R,) position of each record's unit in `units`, ascending;
        units (B,) sampled units. `max_records` bounds the records of one forward pass; a unit is never split, so a
        unit with more records than that gets a pass of its own.
        """
        if self._is_inside_step:
            raise PrivacyError(
                "The last step failed half-way, and its clipped sums may still be in memory: a further step would add "
                "them to its own. This engine cannot go on; start the training again."
            )
        check_ascending(owner.numpy(force=True))
        self._is_inside_step = True
        self._optimizer.zero_grad(set_to_none=True)
        passes = list(_cut_at_units(owner, max_records)) if len(units) else []
        loss_sum = 0.0
        for index, (start, stop) in enumerate(passes):
            loss_sum += self._unit_gradients(features[start:stop], labels[start:stop], owner[start:stop])
            last = index == len(passes) - 1
            if not last:
                self._optimizer.signal_skip_step(True)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
        if not passes:
            for param in self.params:
                param.grad_sample = param.new_zeros((0, *param.shape))
        self._optimizer.signal_skip_step(False)
        self._optimizer.step()
        self.ledger.enter(
            units,
            self._optimizer.noise_multiplier,
            self._optimizer.max_grad_norm,
            float(self._optimizer.expected_batch_size or 0),
            self._noise_norm,
            self._sum_norm,
            sum(param.numel() for param in self.params),
        )
        self._is_inside_step = False
        return loss_sum / max(len(owner), 1)

    def _measure(self, optimizer: DPOptimizer) -> None:
        """Called when `grad` is final and before weights change: what noise is really in it?"""
        divisor = float(optimizer.expected_batch_size or 0)
        noise = [param.grad.double() * divisor - param.summed_grad.double() for param in self.params]
        self._noise_norm = math.sqrt(sum(float(part.square().sum()) for part in noise))
        self._sum_norm = math.sqrt(sum(float(param.summed_grad.double().square().sum()) for param in self.params))

    def close(self) -> nn.Module:
        """Remove the hooks and hand the trained model back."""
        self._optimizer.zero_grad(set_to_none=True)
        for param in self.params:
            for name in ("grad_sample", "summed_grad"):
                if hasattr(param, name):
                    delattr(param, name)
        model: nn.Module = self._module.to_standard_module()
        return model

    def _unit_gradients(self, features: Tensor, labels: Tensor, owner: Tensor) -> float:
        """Forward and backward; leaves one mean gradient per unit in `param.grad_sample`."""
        losses = self._record_loss(self._module(features), labels)
        if losses.shape != (len(features),):
            raise ValueError(
                f"record_loss gave shape {tuple(losses.shape)}, expected one loss per record ({len(features)},)."
            )
        losses.sum().backward()
        samples = [param.grad_sample for param in self.params]
        finite = torch.stack([sample.flatten(1).abs().sum(1) for sample in samples]).sum(0).isfinite()
        if not bool(finite.all()):
            self.ledger.num_nonfinite += int((~finite).sum())
            samples = [sample.masked_fill(~finite.view(-1, *[1] * (sample.dim() - 1)), 0.0) for sample in samples]
        _, position, counts = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)
        if len(counts) < len(owner):
            # Weighted first and added then: the mean of finite numbers is finite, their sum may not be.
            weight = (1.0 / counts.to(samples[0].dtype))[position]
            samples = [
                sample.new_zeros((len(counts), *sample.shape[1:])).index_add_(
                    0, position, sample * weight.view(-1, *[1] * (sample.dim() - 1))
                )
                for sample in samples
            ]
        for param, sample in zip(self.params, samples, strict=True):
            param.grad_sample = sample
        return float(losses.detach().nan_to_num(0.0, 0.0, 0.0).sum())


def check_ascending(owner: NDArray[np.int64]) -> None:
    """Records of a unit stand together: what is apart would be clipped apart, and the unit count twice."""
    if (owner[1:] < owner[:-1]).any():
        raise PrivacyError(
            "The records of a batch must be ordered by their units: a unit in two places is clipped twice."
        )


def stream_name(noise: torch.Generator | SecureStream | NoiseStream) -> str:
    """Equal for two streams if and only if they draw the same numbers."""
    if isinstance(noise, (SecureStream, NoiseStream)):
        return noise.name
    return hashlib.sha256(noise.get_state().numpy().tobytes()).hexdigest()[:32]


def _cut_at_units(owner: Tensor, max_records: int) -> Iterator[tuple[int, int]]:
    """Consecutive [start, stop) ranges of at most `max_records` records that never split a unit."""
    ends = torch.cat([torch.nonzero(owner[1:] != owner[:-1]).flatten() + 1, torch.tensor([len(owner)])]).tolist()
    start, stop = 0, 0
    for end in ends:
        if end - start > max_records and stop > start:
            yield start, stop
            start = stop
        stop = end
    yield start, stop
