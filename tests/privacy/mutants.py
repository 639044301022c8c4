"""Deliberately broken mechanisms. Each one breaks the guarantee in one way that was seen in real code.

Three kinds: engines (what a step does), models and losses (what a gradient is), and runs (which steps are walked).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.ledger import Ledger
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream
from dptrain.training.losses import binary_loss, multiclass_loss

FEATURES = 6
MECHANISM = Mechanism(
    unit="patient",
    sampling_rate=0.3,
    noise_multiplier=1.3,
    clipping_norm=0.7,
    num_steps=40,
    expected_batch_size=60.0,
    delta=1e-5,
)
NUM_UNITS = 200


def sound_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 1))


def records(num: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, FEATURES, generator=generator), (torch.rand(num, generator=generator) < 0.5).long()


# --- engines ---


class NoiseTooSmall(PrivateEngine):
    """Half of the noise that is accounted."""

    def __init__(self, *args):
        super().__init__(*args)
        self._optimizer.noise_multiplier *= 0.5


class NoNoise(PrivateEngine):
    """Clips, but forgets the noise."""

    def __init__(self, *args):
        super().__init__(*args)
        self._optimizer.noise_multiplier = 0.0


class NoiseDrawnOnce(PrivateEngine):
    """The generator is seeded again before every step."""

    def step(self, *args):
        self._optimizer._stream = NoiseStream(7)
        return super().step(*args)


class NoiseOfOneSeed(PrivateEngine):
    """Every model uses the same noise, whatever generator it was given."""

    def __init__(self, *args):
        super().__init__(*args)
        self._optimizer._stream = NoiseStream(7)


class NoiseNotScaledWithC(PrivateEngine):
    """Standard deviation sigma instead of sigma C."""

    def __init__(self, *args):
        super().__init__(*args)
        if self.mechanism.clipping_norm == MECHANISM.clipping_norm:
            self._optimizer.noise_multiplier *= 0.1 / self.mechanism.clipping_norm


class NoiseOnTheLastLayerOnly(PrivateEngine):
    """First layers are released without noise."""

    def __init__(self, *args):
        super().__init__(*args)
        add_noise = self._optimizer.add_noise

        def partly():
            clean = [param.summed_grad.clone() for param in self.params]
            add_noise()
            for param, value in list(zip(self.params, clean, strict=True))[:-2]:
                param.grad = value

        self._optimizer.add_noise = partly


class NoiseSquared(PrivateEngine):
    """Right spread, but one-sided noise: not a Gaussian."""

    def __init__(self, *args):
        super().__init__(*args)
        add_noise = self._optimizer.add_noise

        def one_sided():
            clean = [param.summed_grad.clone() for param in self.params]
            add_noise()
            for param, value in zip(self.params, clean, strict=True):
                param.grad = value + (param.grad - value).abs()

        self._optimizer.add_noise = one_sided


class _OwnClipping(PrivateEngine):
    """Replaces the clip-and-sum of the optimizer."""

    def __init__(self, *args):
        super().__init__(*args)
        self._optimizer.clip_and_accumulate = self._clip_and_accumulate

    def clipped_sum(self, samples: list[Tensor], norm: float) -> list[Tensor]:
        raise NotImplementedError

    def _clip_and_accumulate(self):
        samples = [param.grad_sample for param in self.params]
        sums = self.clipped_sum(samples, self.mechanism.clipping_norm)
        for param, value in zip(self.params, sums, strict=True):
            param.summed_grad = value if param.summed_grad is None else param.summed_grad + value


def _norms(samples: list[Tensor]) -> Tensor:
    return torch.stack([sample.flatten(1).norm(dim=1) for sample in samples]).norm(dim=0)


def _scale(sample: Tensor, factor: Tensor) -> Tensor:
    return (sample * factor.view(-1, *[1] * (sample.dim() - 1))).sum(0)


class NoClipping(_OwnClipping):
    """Sums gradients as they are."""

    def clipped_sum(self, samples, norm):
        return [sample.sum(0) for sample in samples]


class ClipsTheBatch(_OwnClipping):
    """One clip of the batch's mean, as for exploding gradients."""

    def clipped_sum(self, samples, norm):
        if not len(samples[0]):
            return [sample.sum(0) for sample in samples]
        means = [sample.mean(0) for sample in samples]
        total = torch.cat([mean.flatten() for mean in means]).norm()
        return [mean * min(1.0, norm / float(total + 1e-6)) * len(samples[0]) for mean in means]


class ClipsTheSum(_OwnClipping):
    """Clips after summing the units: the sum is bounded, a unit's share of it is not that of a sum."""

    def clipped_sum(self, samples, norm):
        sums = [sample.sum(0) for sample in samples]
        total = torch.cat([value.flatten() for value in sums]).norm()
        return [value * min(1.0, norm / float(total + 1e-6)) for value in sums]


class ClipsToTwiceC(_OwnClipping):
    """Sensitivity doubled."""

    def clipped_sum(self, samples, norm):
        factor = (2 * norm / (_norms(samples) + 1e-6)).clamp(max=1)
        return [_scale(sample, factor) for sample in samples]


class ClipsEachLayer(_OwnClipping):
    """Every parameter to C by itself: sensitivity C times the root of the number of parameters."""

    def clipped_sum(self, samples, norm):
        return [_scale(s, (norm / (s.flatten(1).norm(dim=1) + 1e-6)).clamp(max=1)) for s in samples]


class ClipsByLargestEntry(_OwnClipping):
    """Bounds entries instead of the L2 norm."""

    def clipped_sum(self, samples, norm):
        largest = torch.stack([sample.flatten(1).abs().amax(1) for sample in samples]).amax(0)
        return [_scale(sample, (norm / (largest + 1e-6)).clamp(max=1)) for sample in samples]


class ForgetsALayerInTheNorm(_OwnClipping):
    """The norm leaves out the first weight matrix."""

    def clipped_sum(self, samples, norm):
        factor = (norm / (_norms(samples[1:]) + 1e-6)).clamp(max=1)
        return [_scale(sample, factor) for sample in samples]


class NormalisesInsteadOfClipping(_OwnClipping):
    """Blows small gradients up above C: divides by a norm that was computed in float16."""

    def clipped_sum(self, samples, norm):
        halves = [sample.half().float() for sample in samples]
        return [_scale(half, (norm / (_norms(halves) + 1e-6)).clamp(max=1)) for half in halves]


class DividesByTheRealisedBatch(PrivateEngine):
    """The divisor tells how many units were sampled."""

    def step(self, features, labels, owner, units, max_records):
        self._optimizer.expected_batch_size = max(len(units), 1)
        return super().step(features, labels, owner, units, max_records)


class ClipsRecords(PrivateEngine):
    """Every record is a unit: a patient with k records moves the sum by k C."""

    def step(self, features, labels, owner, units, max_records):
        return super().step(features, labels, torch.arange(len(owner)), units, max_records)


class SumsRecords(PrivateEngine):
    """Adds up a patient's records instead of averaging them."""

    def _unit_gradients(self, features, labels, owner):
        loss = super()._unit_gradients(features, labels, owner)
        counts = torch.unique_consecutive(owner, return_counts=True)[1]
        for param in self.params:
            param.grad_sample = param.grad_sample * counts.view(-1, *[1] * (param.grad_sample.dim() - 1))
        return loss


class SkipsEmptyBatches(PrivateEngine):
    """No units, no step."""

    def step(self, features, labels, owner, units, max_records):
        return super().step(features, labels, owner, units, max_records) if len(units) else 0.0


class KeepsStaleGradients(PrivateEngine):
    """The clipped sum of the step before is still there when the next one is added."""

    stale = None

    def step(self, *args):
        accumulate = type(self._optimizer).clip_and_accumulate

        def on_top():
            accumulate(self._optimizer)
            if self.stale is not None:
                for param, value in zip(self.params, self.stale, strict=True):
                    param.summed_grad = param.summed_grad + value
                self.stale = None

        self._optimizer.clip_and_accumulate = on_top
        result = super().step(*args)
        self.stale = [param.summed_grad.clone() for param in self.params]
        return result


class CarriesMomentumBeforeNoise(_OwnClipping):
    """Adds half of the last clipped sum to the next: one patient counts in many steps."""

    last = None

    def clipped_sum(self, samples, norm):
        factor = (norm / (_norms(samples) + 1e-6)).clamp(max=1)
        sums = [_scale(sample, factor) for sample in samples]
        if self.last is not None:
            sums = [value + 0.5 * old for value, old in zip(sums, self.last, strict=True)]
        self.last = [value.clone() for value in sums]
        return sums


class LetsNanThrough(PrivateEngine):
    """One broken record makes all weights NaN."""

    def _unit_gradients(self, features, labels, owner):
        losses = self._record_loss(self._module(features), labels)
        losses.sum().backward()
        samples = [param.grad_sample for param in self.params]
        position, counts = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)[1:]
        for param, sample in zip(self.params, samples, strict=True):
            total = sample.new_zeros((len(counts), *sample.shape[1:])).index_add_(0, position, sample)
            param.grad_sample = total / counts.view(-1, *[1] * (sample.dim() - 1))
        return float(losses.sum())


class DropsTheBatchOfANan(LetsNanThrough):
    """A broken record empties the whole batch: everybody else's contribution depends on it."""

    def _unit_gradients(self, features, labels, owner):
        loss = super()._unit_gradients(features, labels, owner)
        if not all(bool(param.grad_sample.isfinite().all()) for param in self.params):
            for param in self.params:
                param.grad_sample = torch.zeros_like(param.grad_sample)
        return loss


class NoiseForEveryPass(PrivateEngine):
    """Noise is drawn for every pass over part of a batch: more than accounted, by the size of memory."""

    def step(self, features, labels, owner, units, max_records):
        for unit in range(max(len(units), 1)):
            rows = torch.nonzero(owner == unit).flatten()
            part = units[unit : unit + 1]
            result = super().step(features[rows], labels[rows], torch.zeros(len(rows), dtype=torch.long), part, 10**9)
        return result


ENGINES: dict[str, type[PrivateEngine]] = {
    cls.__name__: cls
    for cls in (
        NoiseTooSmall,
        NoNoise,
        NoiseDrawnOnce,
        NoiseOfOneSeed,
        NoiseNotScaledWithC,
        NoiseOnTheLastLayerOnly,
        NoiseSquared,
        NoClipping,
        ClipsTheBatch,
        ClipsTheSum,
        ClipsToTwiceC,
        ClipsEachLayer,
        ClipsByLargestEntry,
        ForgetsALayerInTheNorm,
        NormalisesInsteadOfClipping,
        DividesByTheRealisedBatch,
        ClipsRecords,
        SumsRecords,
        SkipsEmptyBatches,
        KeepsStaleGradients,
        CarriesMomentumBeforeNoise,
        LetsNanThrough,
        DropsTheBatchOfANan,
        NoiseForEveryPass,
    )
}


# --- models ---


class Around(nn.Module):
    """A sound head and tail around something in the middle."""

    def __init__(self, middle: nn.Module, width: int = 16):
        super().__init__()
        self.head, self.middle, self.tail = nn.Linear(FEATURES, width), middle, nn.Linear(width, 1)

    def forward(self, x):
        return self.tail(torch.tanh(self.middle(self.head(x))))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


class RunningMean(nn.Module):
    """Subtracts a running mean that it keeps in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class RemembersTheLastBatch(nn.Module):
    """Keeps an activation of the batch before, in an attribute and not in a buffer."""

    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, x):
        out = x if self.last is None else x + self.last
        self.last = x.detach().mean(0)
        return out


class StatisticsForLater(nn.Module):
    """Collects a running mean in training and uses it in eval mode only; `kind` says where it is kept."""

    def __init__(self, kind: str):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(16), requires_grad=False) if kind == "parameter" else [torch.zeros(16)]

    def forward(self, x):
        kept = self.mean[0] if isinstance(self.mean, list) else self.mean.data
        if not self.training:
            return x - kept
        kept.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x


class OptionalInput(nn.Module):
    """Owns a parameter and takes an optional second input: Opacus's hooks see one input only."""

    def __init__(self):
        super().__init__()
        self.inner = _Gate()

    def forward(self, x):
        return self.inner(x, x.flip(1))


class _Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, x, other=None):
        return x * self.weight + (0 if other is None else torch.tanh(other) * self.weight)


class OneMaskForTheBatch(nn.Module):
    """Dropout drawn outside a dropout layer, the same mask for all patients of a batch."""

    def forward(self, x):
        return x * (torch.rand(1, x.shape[1]) < 0.5) if self.training else x


class MixesCrowds(nn.Module):
    """Normalises over the batch, but only from 32 records on: a handful of records looks sound."""

    def forward(self, x):
        return x - x.mean(0) if len(x) >= 32 else x


class BatchAttention(nn.Module):
    """Records of a batch look at each other."""

    def forward(self, x):
        return torch.softmax(x @ x.T / 4, dim=-1) @ x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": lambda: Around(nn.BatchNorm1d(16)),
    "BatchNorm without affine parameters": lambda: Around(nn.BatchNorm1d(16, affine=False)),
    "BatchNorm with frozen parameters": lambda: Around(_frozen(nn.BatchNorm1d(16))),
    "BatchNorm without running statistics": lambda: Around(nn.BatchNorm1d(16, affine=False, track_running_stats=False)),
    "functional batch_norm": lambda: Around(Apply(lambda x: functional.batch_norm(x, None, None, training=True))),
    "batch mean subtracted": lambda: Around(Apply(lambda x: x - x.mean(0))),
    "batch standard deviation": lambda: Around(Apply(lambda x: x / (x.std(0, unbiased=False) + 1e-3))),
    "running mean in a buffer": lambda: Around(RunningMean()),
    "frozen layer with buffers": lambda: Around(_frozen(RunningMean())),
    "InstanceNorm with running statistics": lambda: Around(
        Apply(_Instance(nn.InstanceNorm1d(4, affine=False, track_running_stats=True)))
    ),
    "state carried from batch to batch": lambda: Around(RemembersTheLastBatch()),
    "statistics in a frozen parameter": lambda: Around(StatisticsForLater("parameter")),
    "statistics in an attribute": lambda: Around(StatisticsForLater("attribute")),
    "optional second input": lambda: Around(OptionalInput()),
    "one dropout mask for the batch": lambda: Around(OneMaskForTheBatch()),
    "attention over the batch": lambda: Around(BatchAttention()),
    "batch mean in large batches only": lambda: Around(MixesCrowds()),
}


class _Instance(nn.Module):
    """(B, 16) through an InstanceNorm over (B, 4, 4)."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.view(-1, 4, 4)).flatten(1)


# --- losses ---

_WEIGHT = torch.tensor([1.0, 6.0])


def _two_logits(z: Tensor) -> Tensor:
    return torch.cat([z, -z], dim=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "class weights normalised over the batch": lambda z, y: (
        multiclass_loss(_two_logits(z), y) * _WEIGHT[y] / _WEIGHT[y].sum() * len(y)
    ),
    "class-weighted cross-entropy with reduction mean": lambda z, y: functional.cross_entropy(
        _two_logits(z), y, weight=_WEIGHT
    ),
    "loss of shape (B, 1)": lambda z, y: binary_loss(z, y)[:, None],
    "logits centred over the batch": lambda z, y: binary_loss(z - z.mean(0), y),
    "Dice over the batch": lambda z, y: (
        1 - 2 * (torch.sigmoid(z[:, 0]) * y).sum() / (torch.sigmoid(z[:, 0]).sum() + y.sum() + 1)
    ).expand(len(y)),
}


# --- runs ---

Batches = Iterator[np.ndarray]


def sound_batches(rng: np.random.Generator, mechanism: Mechanism = MECHANISM) -> Batches:
    """Poisson."""
    for _ in range(mechanism.num_steps):
        yield np.flatnonzero(rng.random(NUM_UNITS) < mechanism.sampling_rate)


def shuffled(rng: np.random.Generator) -> Batches:
    """Epochs of shuffled, disjoint batches."""
    batches: list[np.ndarray] = []
    while len(batches) < MECHANISM.num_steps:
        batches += np.array_split(rng.permutation(NUM_UNITS), round(1 / MECHANISM.sampling_rate))
    yield from batches[: MECHANISM.num_steps]


def fixed_size(rng: np.random.Generator) -> Batches:
    """Always exactly q N units."""
    for _ in range(MECHANISM.num_steps):
        yield np.sort(rng.choice(NUM_UNITS, round(MECHANISM.sampling_rate * NUM_UNITS), replace=False))


def with_replacement(rng: np.random.Generator) -> Batches:
    """A unit may enter a step several times."""
    for _ in range(MECHANISM.num_steps):
        yield np.sort(rng.integers(0, NUM_UNITS, rng.binomial(NUM_UNITS, MECHANISM.sampling_rate)))


def same_coins(rng: np.random.Generator) -> Batches:
    """The first step's coins, again and again."""
    first = next(sound_batches(rng))
    for _ in range(MECHANISM.num_steps):
        yield first


def rate_of_a_loader(rng: np.random.Generator) -> Batches:
    """q is forced to 1 / len(loader): 0.3 becomes 0.25 (or 1/3) whatever was asked for."""
    yield from sound_batches(rng, dataclasses.replace(MECHANISM, sampling_rate=1 / 3))


def stops_early(rng: np.random.Generator) -> Batches:
    """`break` after the loss looks good."""
    yield from list(sound_batches(rng))[:-1]


def one_step_more(rng: np.random.Generator) -> Batches:
    """Off by one."""
    yield from sound_batches(rng, dataclasses.replace(MECHANISM, num_steps=MECHANISM.num_steps + 1))


def strangers(rng: np.random.Generator) -> Batches:
    """Units that are not members of this model."""
    for batch in sound_batches(rng):
        yield np.append(batch, NUM_UNITS + 1)


SAMPLERS: dict[str, Callable[[np.random.Generator], Batches]] = {
    "shuffled batches": shuffled,
    "fixed batch size": fixed_size,
    "sampling with replacement": with_replacement,
    "reused coins": same_coins,
    "sampling rate of a data loader": rate_of_a_loader,
    "early break": stops_early,
    "one step too many": one_step_more,
    "units that are not members": strangers,
}


def run(batches: Batches, engine: type[PrivateEngine] = PrivateEngine, during: Callable | None = None) -> Ledger:
    """A short training of one record per unit; `during(engine, step)` may break things on the way."""
    model = sound_model()
    features, labels = records(NUM_UNITS + 2)
    member = np.ones(NUM_UNITS, dtype=bool)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = engine(model, binary_loss, optimizer, MECHANISM, NoiseStream(3), member)
    for step, units in enumerate(batches):
        if during is not None:
            during(trainer, step)
        rows = torch.from_numpy(units)
        trainer.step(features[rows], labels[rows], torch.arange(len(units)), units, 10**9)
    return trainer.ledger


def _one_step_without_noise(engine: PrivateEngine, step: int) -> None:
    add_noise = type(engine._optimizer).add_noise

    def none():
        for param in engine.params:
            param.grad = param.summed_grad.clone()

    engine._optimizer.add_noise = none if step == 11 else lambda: add_noise(engine._optimizer)


def _noise_decays(engine: PrivateEngine, step: int) -> None:
    engine._optimizer.noise_multiplier = MECHANISM.noise_multiplier * (1 - step / 100)


def _clipping_is_switched_off(engine: PrivateEngine, step: int) -> None:
    if step == 5:
        engine._optimizer.max_grad_norm = 1e6


def _clips_nothing_but_says_so(engine: PrivateEngine, step: int) -> None:
    engine._optimizer.clip_and_accumulate = lambda: _OwnClipping._clip_and_accumulate(engine)
    engine.clipped_sum = lambda samples, norm: [sample.sum(0) * 50 for sample in samples]


DURING: dict[str, Callable[[PrivateEngine, int], None]] = {
    "one step without noise": _one_step_without_noise,
    "noise that decays": _noise_decays,
    "clipping switched off half-way": _clipping_is_switched_off,
    "sums that were never clipped": _clips_nothing_but_says_so,
}
