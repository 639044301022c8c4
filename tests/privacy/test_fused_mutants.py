"""Broken fused engines: each breaks the guarantee in one way, and the preflight or the ledger must notice.

The defects are those that this engine could have and a one-model engine could not (padding, neighbours, norms that are
never built), and the classic ones again, because the code is another.
"""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from dptrain.privacy.fused import chain as chain_module
from dptrain.privacy.fused import chain_kernels, linear, norms, tape
from dptrain.privacy.fused import engine as fused_engine
from dptrain.privacy.fused.chain import ChainEntry
from dptrain.privacy.fused.engine import FusedEngine, Given, UnitBatch
from dptrain.privacy.fused.single import BlockProbe, GpuProbe, LonelyProbe
from dptrain.privacy.fused.stack import Stack
from dptrain.privacy.ledger import shared_noise
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.noise_stream import NoiseStream
from dptrain.privacy.preflight import CHECKS, preflight
from dptrain.training.engines import EngineChoice
from dptrain.training.losses import binary_loss

MECHANISM = Mechanism("patient", 0.3, 1.3, 0.7, 40, 60.0, 1e-5)
NUM_UNITS = 200


def stacked() -> nn.Module:
    """Its models go through a pass together."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 1))


def chain() -> nn.Module:
    """Its models go one after another, through compiled loops."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 1))


def records(num: int = 8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 6, generator=generator), (torch.rand(num, generator=generator) < 0.5).long()


def look(probe=BlockProbe, checks=None, model=stacked):
    return preflight(model(), binary_loss, MECHANISM, *records(), engine=probe, checks=checks)


def broken(**changes):
    """A probe whose engine has other methods."""
    engine = type("Broken", (FusedEngine,), changes)
    return type("BrokenProbe", (BlockProbe,), {"engine_type": engine})


@pytest.mark.parametrize("model", [stacked, chain])
@pytest.mark.parametrize("probe", [BlockProbe, LonelyProbe])
def test_the_sound_engine_passes_every_check(probe, model):
    assert len(Stack([model(), model()]).chains) == (2 if model is chain else 0)
    report = look(probe, model=model)
    assert report.passed, [str(finding) for finding in report.findings]
    assert set(report.measured) == set(CHECKS) - {"units"}
    assert report.measured["sensitivity"] > 0.5, "clipping was never active: the check looked at nothing"


def _init(change):
    def build(self, *args, **kwargs):
        FusedEngine.__init__(self, *args, **kwargs)
        change(self)

    return build


def _halves(self):
    self.noise_multiplier *= 0.5


def _shares(self):
    self._noises = [NoiseStream(7)] * len(self._noises)


def _neighbours_noise(self, model, sums, noised):
    """All models share one array of noise."""
    if model == 0:
        self.shared = torch.empty_like(sums)
        self._noises[0].fill(self.shared, self.noise_multiplier * self.clipping_norm)
    torch.add(sums, self.shared, out=noised).div_(self.divisor)


def _only_every_other(self, model, sums, noised):
    """One of the two numbers of each pair is forgotten."""
    FusedEngine._release(self, model, sums, noised)
    half = (len(sums) + 1) // 2
    noised[half:] = sums[half:] / self.divisor


def _patch_clip(change):
    """A probe whose clip weights are changed by `change(entries, norm, segments, squares_to_weights)`; those of chains
    where some unit has several records."""

    def clipped_pass(self, batches, ranges):
        sound = fused_engine.clip_weights
        for module in (fused_engine, chain_module):
            module.clip_weights = lambda *args: change(sound, *args)
        try:
            return FusedEngine._clipped_pass(self, batches, ranges)
        finally:
            fused_engine.clip_weights = chain_module.clip_weights = sound

    return broken(_clipped_pass=clipped_pass)


def _nothing_clipped(sound, entries, norm, segments, always):
    weights, finite = sound(entries, norm, segments, always)
    return torch.ones_like(weights), finite


def _whole_batch(sound, entries, norm, segments, always):
    weights, finite = sound(entries, norm, segments, always)
    return weights.min().expand_as(weights), finite


def _twice_c(sound, entries, norm, segments, always):
    return sound(entries, 2 * norm, segments, always)


def _records(sound, entries, norm, segments, always):
    return sound(entries, norm, None, always)


def _a_layer_less(sound, entries, norm, segments, always):
    return sound(entries[:-1], norm, segments, always)


def _rolled(sound, entries, norm, segments, always):
    """A record gets its neighbour's clip weight."""
    weights, finite = sound(entries, norm, segments, always)
    return weights.roll(1), finite


def _nan(sound, entries, norm, segments, always):
    squares = torch.stack([entry.record_norms() for entry in entries]).sum(0)
    return (norm / (squares.sqrt() + 1e-6)).clamp(max=1.0), torch.ones_like(squares, dtype=torch.bool)


def _pack_with(change):
    def clipped_pass(self, batches, ranges):
        sound = fused_engine.pack
        fused_engine.pack = lambda *args: change(sound(*args))
        try:
            return FusedEngine._clipped_pass(self, batches, ranges)
        finally:
            fused_engine.pack = sound

    return broken(_clipped_pass=clipped_pass)


def _padding_counts(packed):
    packed.weights[packed.weights == 0] = 1.0
    return packed


def _summed(packed):
    packed.weights[packed.weights > 0] = 1.0
    return packed


def _truncates(packed):
    """A hard cap on the batch: rows past it are dropped."""
    rows = packed.weights.view(packed.num_models, -1)
    rows[:, 6:] = 0.0
    return packed


def _shortens(self, batches, ranges):
    """A hard cap on the batch: records past it are dropped."""
    return FusedEngine._clipped_pass(self, batches, [(start, min(stop, start + 6)) for start, stop in ranges])


def _stale_tape(self, batches, ranges):
    """The entries of the pass before are weighted once more."""
    old = getattr(self, "old", [])
    result = FusedEngine._clipped_pass(self, batches, ranges)
    for total in old:
        self.stack.gradient.add_(total)
    self.old = [self.stack.gradient.clone()]
    return result


def _carried(self, batches, max_records):
    """The gradient sum is not emptied between steps."""
    before = self.stack.gradient.clone()
    result, losses = FusedEngine.step(self, batches, max_records)
    return result + before / self.divisor, losses


def _skips_empty(self, batches, max_records):
    if not len(batches[1].units):
        return torch.zeros_like(self.stack.gradient), torch.zeros(len(batches))
    return FusedEngine.step(self, batches, max_records)


def _other_models_batch(self, batches, max_records):
    return FusedEngine.step(self, [batches[0]] * len(batches), max_records)


def _splits_units(self, batches, ranges):
    rows = [(start, stop) for start, stop in ranges]
    total = torch.zeros(2, len(batches))
    for first in range(0, max(stop for _, stop in rows), 2):
        total += FusedEngine._clipped_pass(self, batches, [(min(first, end), min(first + 2, end)) for _, end in rows])
    return total


MUTANTS = {
    "half of the noise": (broken(__init__=_init(_halves)), "noise"),
    "one stream of noise for all models": (broken(__init__=_init(_shares)), "noise"),
    "one array of noise for all models": (broken(_release=_neighbours_noise), "noise"),
    "half of the values without noise": (broken(_release=_only_every_other), "noise"),
    "no clipping": (_patch_clip(_nothing_clipped), "sensitivity"),
    "one clip weight per batch": (_patch_clip(_whole_batch), "independence"),
    "clips to 2 C": (_patch_clip(_twice_c), "sensitivity"),
    "clips records instead of units": (_patch_clip(_records), "sensitivity"),
    "a layer is not in the norm": (_patch_clip(_a_layer_less), "sensitivity"),
    "clip weights of other rows": (_patch_clip(_rolled), "sensitivity"),
    "0 times NaN": (_patch_clip(_nan), "nonfinite"),
    "padding counts": (_pack_with(_padding_counts), "gradients"),
    "sums a unit's records": (_pack_with(_summed), "gradients"),
    "drops rows that do not fit": (_pack_with(_truncates), "gradients"),
    "drops records that do not fit": (broken(_clipped_pass=_shortens), "gradients"),
    "entries of the pass before": (broken(_clipped_pass=_stale_tape), "memory"),
    "sums carried over": (broken(step=_carried), "memory"),
    "empty batches are skipped": (broken(step=_skips_empty), "empty"),
    "another model's batch": (broken(step=_other_models_batch), "gradients"),
    "units split between passes": (broken(_clipped_pass=_splits_units), "sensitivity"),
}


OF_STACKS = {"a layer is not in the norm", "padding counts", "sums a unit's records", "drops rows that do not fit"}
"""A chain's batch is not padded, and its layers are one entry; what corresponds is among the broken loops."""


@pytest.mark.parametrize(
    "name, model", [(name, model) for name in MUTANTS for model in (stacked, chain)[: 1 if name in OF_STACKS else 2]]
)
def test_broken_engines_are_refused(name, model):
    probe, check = MUTANTS[name]
    report = look(probe, {check}, model)
    assert [finding.check for finding in report.findings] == [check], report.measured
    assert "it failed with" not in report.findings[0].what, "the mutant only crashes"


@pytest.mark.parametrize(
    ("where", "method", "change", "check"),
    [
        (tape.Outer, "record_norms", lambda self: tape.Outer._sound(self) * 0.25, "sensitivity"),
        (tape.Outer, "unit_norms", lambda self, segments, norms: segments.add_up(norms), "sensitivity"),
        (tape.Stored, "unit_norms", lambda self, segments, norms: segments.add_up(norms) * 0, "gradients"),
        (linear.LinearRule, "backward", lambda self, saved, grads, need: None, "gradients"),
        (norms._AffineRule, "leave", lambda self, scale, shift: None, "gradients"),
    ],
    ids=["norms too small", "no products between records", "norm layers not in the norm", "linear layers forgotten",
         "norm layers forgotten"],
)  # fmt: skip
def test_broken_layers_are_refused(monkeypatch, where, method, change, check):
    monkeypatch.setattr(where, "_sound", getattr(where, method), raising=False)
    monkeypatch.setattr(where, method, change)
    report = look(BlockProbe, {check, "sensitivity"})
    assert report.findings, report.measured
    assert "it failed with" not in report.findings[0].what, "the mutant only crashes"


def _forgets_bias(values, dims, has_bias, relu, outputs, grads, input_squares, squares):
    SOUND["backward"](values, dims, has_bias, relu, outputs, grads, input_squares, squares)
    last = grads.reshape(-1)[-len(squares) :]
    squares -= last**2


def _first_layer_only(values, dims, has_bias, relu, outputs, grads, input_squares, squares):
    """The norm of the first layer alone."""
    SOUND["backward"](values, dims, has_bias, relu, outputs, grads, input_squares, squares)
    first = grads[: len(squares) * dims[1]].reshape(len(squares), -1)
    squares[:] = (input_squares[0] + 1) * (first**2).sum(1)


def _through_dead_units(values, dims, has_bias, relu, outputs, grads, input_squares, squares):
    """ReLU's derivative is forgotten."""
    SOUND["backward"](values, dims, has_bias, np.zeros_like(relu), outputs, grads, input_squares, squares)


def _weighs_twice(dims, has_bias, inputs, outputs, grads, weights, total):
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, weights, total)
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, np.ones_like(weights), total)


def _unweighted(dims, has_bias, inputs, outputs, grads, weights, total):
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, np.ones_like(weights), total)


def _weights_of_others(dims, has_bias, inputs, outputs, grads, weights, total):
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, np.roll(weights, 1), total)


def _one_weight(dims, has_bias, inputs, outputs, grads, weights, total):
    """One clip weight for the batch."""
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, np.full_like(weights, weights.min()), total)


def _drops_rows(dims, has_bias, inputs, outputs, grads, weights, total):
    kept = weights.copy()
    kept[6:] = 0.0
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, kept, total)


def _drops_late_rows(dims, has_bias, inputs, outputs, grads, weights, total):
    """Wrong only in batches that are larger than those in which units are looked at."""
    kept = weights.copy()
    kept[40:] = 0.0
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, kept, total)


def _overwrites(dims, has_bias, inputs, outputs, grads, weights, total):
    """What an earlier pass of the step left is lost."""
    total[:] = 0
    SOUND["add_weighted"](dims, has_bias, inputs, outputs, grads, weights, total)


def _does_not_clip(squares, clipping_norm, factors, finite):
    SOUND["clip_factors"](squares, clipping_norm, factors, finite)
    factors[:] = 1.0
    return True


def _twice_the_norm(squares, clipping_norm, factors, finite):
    return SOUND["clip_factors"](squares, 2 * clipping_norm, factors, finite)


def _all_finite(squares, clipping_norm, factors, finite):
    SOUND["clip_factors"](squares, clipping_norm, factors, finite)
    return True


def _masks_nothing(dims, inputs, outputs, grads, keep):
    pass


def _masks_gradients(dims, inputs, outputs, grads, keep):
    """0 times the infinity of an input is not 0."""
    before, inner = inputs.copy(), outputs.copy()
    SOUND["mask"](dims, inputs, outputs, grads, keep)
    inputs[:], outputs[:] = before, inner


INNER = ("backward", "add_weighted", "clip_factors", "mask")
SOUND = {name: getattr(chain_kernels, name) for name in INNER}
BROKEN_LOOPS = {
    "a bias is not in the norm": ("backward", _forgets_bias),
    "one layer is in the norm": ("backward", _first_layer_only),
    "dead units have gradients": ("backward", _through_dead_units),
    "everything is added twice": ("add_weighted", _weighs_twice),
    "clip weights are not used": ("add_weighted", _unweighted),
    "clip weights of other rows": ("add_weighted", _weights_of_others),
    "one clip weight per batch": ("add_weighted", _one_weight),
    "rows are dropped": ("add_weighted", _drops_rows),
    "rows of a large batch are dropped": ("add_weighted", _drops_late_rows),
    "a pass overwrites the one before": ("add_weighted", _overwrites),
    "clip weights are 1": ("clip_factors", _does_not_clip),
    "clips to 2 C": ("clip_factors", _twice_the_norm),
    "records that are not finite stay": ("clip_factors", _all_finite),
    "nothing is masked": ("mask", _masks_nothing),
    "only gradients are masked": ("mask", _masks_gradients),
}


HARMLESS = {("units", "a bias is not in the norm"), ("units", "one layer is in the norm")}
"""Norms of units with several records come from `ChainEntry.unit_norms`."""


@pytest.mark.parametrize(
    "path, name", sorted({(path, name) for path in ("records", "units") for name in BROKEN_LOOPS} - HARMLESS)
)
def test_broken_loops_are_refused(monkeypatch, path, name):
    """Where every unit has one record, and where some have several: each path alone is broken."""
    where, change = BROKEN_LOOPS[name]
    if path == "records":
        one_by_one = types.FunctionType(
            chain_kernels.clipped_sum.py_func.__code__, {**vars(chain_kernels), where: change}
        )
        monkeypatch.setattr(chain_kernels, "clipped_sum", one_by_one)
    elif where == "clip_factors":
        monkeypatch.setattr(tape.kernels, where, change)
    else:
        monkeypatch.setattr(chain_kernels, where, change)
    report = look(BlockProbe, model=chain)
    assert report.findings, report.measured
    assert not any("it failed with" in finding.what for finding in report.findings), "the mutant only crashes"


def test_a_pass_in_parts_is_sound(monkeypatch):
    """Without a change, the way in which the loops above are broken changes nothing."""
    one_by_one = types.FunctionType(chain_kernels.clipped_sum.py_func.__code__, dict(vars(chain_kernels)))
    monkeypatch.setattr(chain_kernels, "clipped_sum", one_by_one)
    report = look(BlockProbe, model=chain)
    assert report.passed, [str(finding) for finding in report.findings]


def test_sums_of_a_units_records_are_refused(monkeypatch):
    monkeypatch.setattr(UnitBatch, "shares", property(lambda self: np.ones(len(self.owner))))
    report = look(BlockProbe, {"gradients"}, chain)
    assert [finding.check for finding in report.findings] == ["gradients"]


@pytest.mark.parametrize("entry", ["mask", "unit_norms"])
def test_a_broken_entry_is_refused(monkeypatch, entry):
    changes = {"mask": lambda self, keep: None, "unit_norms": lambda self, segments, norms: segments.add_up(norms)}
    monkeypatch.setattr(ChainEntry, entry, changes[entry])
    report = look(BlockProbe, {"nonfinite", "sensitivity"}, chain)
    assert report.findings, report.measured
    assert "it failed with" not in report.findings[0].what, "the mutant only crashes"


class CopyingProbe(BlockProbe):
    """What `GpuProbe` does, on a CPU."""

    copies = True


@pytest.mark.parametrize("model", [stacked, chain])
def test_a_probe_that_copies_sees_the_same(model):
    report = look(CopyingProbe, model=model)
    assert report.passed, [str(finding) for finding in report.findings]
    assert report.measured["sensitivity"] == look(BlockProbe, model=model).measured["sensitivity"]


def test_a_study_on_a_gpu_is_looked_at_there():
    """Other code computes layers and noise there."""
    assert EngineChoice("fused", stackable=True, on_gpu=True).probe is GpuProbe
    assert EngineChoice("fused", stackable=True).probe is BlockProbe
    assert EngineChoice("fused").probe is LonelyProbe
    assert GpuProbe.device == "cuda"
    assert GpuProbe.copies


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", [stacked, chain])
def test_the_sound_engine_passes_every_check_on_a_gpu(model):
    report = look(GpuProbe, model=model)
    assert report.passed, [str(finding) for finding in report.findings]


def run(sabotage=None, same_stream=False, model=chain):
    """40 steps of two models, one record per unit."""
    features, labels = records(NUM_UNITS)
    streams = [NoiseStream(3 if same_stream else 3 + k) for k in range(2)]
    engine = FusedEngine(
        Stack([model(), model()]), binary_loss, MECHANISM, streams, np.ones((2, NUM_UNITS), dtype=bool)
    )
    rng = np.random.default_rng(0)
    for step in range(MECHANISM.num_steps):
        if sabotage is not None:
            sabotage(engine, step)
        batches = []
        for _ in range(2):
            units = np.flatnonzero(rng.random(NUM_UNITS) < MECHANISM.sampling_rate)
            batches.append(UnitBatch(Given(features[units], labels[units]), np.arange(len(units)), units))
        engine.step(batches, 10**9)
    return engine.ledgers


@pytest.mark.parametrize("model", [stacked, chain])
def test_a_sound_run_checks(model):
    for ledger in run(model=model):
        assert ledger.findings(MECHANISM) == []


def _clipping_off(engine, step):
    if step == 5:
        engine.clipping_norm = 1e6


def _decays(engine, step):
    engine.noise_multiplier = MECHANISM.noise_multiplier * (1 - step / 100)


def _own_divisor(engine, step):
    engine.divisor = 50.0 + step


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [(_clipping_off, "clipping_norm was"), (_decays, "noise_multiplier was"),
     (_own_divisor, "expected_batch_size was")],
)  # fmt: skip
def test_the_ledger_voids_a_run_that_changes_on_the_way(sabotage, words):
    for ledger in run(sabotage):
        assert any(words in sentence for sentence in ledger.findings(MECHANISM))


def test_the_ledger_measures_the_noise_it_finds(monkeypatch):
    """Noise that is asked for and not added."""
    monkeypatch.setattr(NoiseStream, "add", lambda self, sums, scale, divisor, noised: noised.copy_(sums / divisor))
    for ledger in run():
        assert any("noise found" in sentence for sentence in ledger.findings(MECHANISM))


def test_models_that_share_a_stream_are_found():
    assert shared_noise([ledger.to_dict() for ledger in run(same_stream=True)])
    assert not shared_noise([ledger.to_dict() for ledger in run()])


def test_the_noise_has_the_distribution_of_opacus():
    """Kolmogorov and Smirnov on 20,000 values of each engine's empty steps."""
    from scipy.stats import ks_2samp

    from dptrain.privacy.engine import PrivateEngine

    class Capture(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(list(params), {})
            self.seen = []

        def step(self, closure=None):
            self.seen.append(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]))

    features, labels = torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)
    owner, none = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    opacus_model = stacked()
    capture = Capture(opacus_model.parameters())
    theirs = PrivateEngine(
        opacus_model, binary_loss, capture, MECHANISM, torch.Generator().manual_seed(1), np.ones(3, dtype=bool)
    )
    ours = FusedEngine(
        Stack([stacked()]), binary_loss, MECHANISM, [NoiseStream(2)], np.ones((1, 3), dtype=bool)
    )
    fused = []
    while sum(map(len, fused)) < 20_000:
        theirs.step(features, labels, torch.from_numpy(owner), none, 10)
        fused.append(ours.step([UnitBatch(Given(features, labels), owner, none)], 10)[0][0].clone())
    assert ks_2samp(torch.cat(fused).numpy(), torch.cat(capture.seen).numpy()).pvalue > 1e-3


def test_steps_may_wait_to_be_written_down(monkeypatch):
    """40 steps, 32 of them together."""
    in_batches = [ledger.to_dict() for ledger in run()]
    monkeypatch.setattr(fused_engine, "PENDING", 1)
    assert [ledger.to_dict() for ledger in run()] == in_batches


def test_a_ledger_keeps_the_units_that_were_sampled():
    """Also if somebody else goes on with their array."""
    features, labels = records(NUM_UNITS)
    engine = FusedEngine(Stack([chain()]), binary_loss, MECHANISM, [NoiseStream(0)], np.ones((1, NUM_UNITS), bool))
    units = np.arange(5)
    engine.step([UnitBatch(Given(features[:5], labels[:5]), np.arange(5), units)], 10**9)
    units[:] = NUM_UNITS + 7
    assert engine.ledgers[0].num_strangers == 0
    assert engine.ledgers[0].unit_counts[:6].tolist() == [1, 1, 1, 1, 1, 0]
