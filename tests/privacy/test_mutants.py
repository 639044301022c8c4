"""Every broken mechanism of `mutants.py` is caught, and by which check; sound ones pass.

    make test PYTEST_FLAGS="-s -k mutants"     prints the table
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dptrain.privacy.accounting import reported_epsilon
from dptrain.privacy.engine import PrivateEngine
from dptrain.privacy.preflight import CHECKS, preflight
from dptrain.privacy.units import UnitIndex
from dptrain.privacy.verify import void_reasons
from dptrain.training.losses import binary_loss

_spec = importlib.util.spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
mutants = importlib.util.module_from_spec(_spec)
sys.modules["mutants"] = mutants
_spec.loader.exec_module(mutants)

# Who is expected to notice first. A mutant may be caught by more checks; it must be caught by this one.
ENGINE_KILLERS = {
    "NoiseTooSmall": "noise",
    "NoNoise": "noise",
    "NoiseDrawnOnce": "noise",
    "NoiseOfOneSeed": "noise",
    "NoiseNotScaledWithC": "noise",
    "NoiseOnTheLastLayerOnly": "noise",
    "NoiseSquared": "noise",
    "NoClipping": "sensitivity",
    "ClipsTheBatch": "sensitivity",
    "ClipsTheSum": "independence",
    "ClipsToTwiceC": "sensitivity",
    "ClipsEachLayer": "sensitivity",
    "ClipsByLargestEntry": "sensitivity",
    "ForgetsALayerInTheNorm": "sensitivity",
    "NormalisesInsteadOfClipping": "gradients",
    "DividesByTheRealisedBatch": "gradients",
    "ClipsRecords": "sensitivity",
    "SumsRecords": "gradients",
    "SkipsEmptyBatches": "empty",
    "KeepsStaleGradients": "memory",
    "CarriesMomentumBeforeNoise": "memory",
    "LetsNanThrough": "nonfinite",
    "DropsTheBatchOfANan": "nonfinite",
    "NoiseForEveryPass": "noise",
}
MODEL_KILLERS = {
    "BatchNorm": "buffers",
    "BatchNorm without affine parameters": "buffers",
    "BatchNorm with frozen parameters": "buffers",
    "BatchNorm without running statistics": "independence",
    "functional batch_norm": "independence",
    "batch mean subtracted": "independence",
    "batch standard deviation": "independence",
    "running mean in a buffer": "buffers",
    "frozen layer with buffers": "buffers",
    "InstanceNorm with running statistics": "buffers",
    "state carried from batch to batch": "memory",
    "statistics in a frozen parameter": "buffers",
    "statistics in an attribute": "buffers",
    "optional second input": "gradients",
    "one dropout mask for the batch": "randomness",
    "attention over the batch": "independence",
    "batch mean in large batches only": "independence",
}
LOSS_KILLERS = {
    "class weights normalised over the batch": "independence",
    "class-weighted cross-entropy with reduction mean": "loss",
    "loss of shape (B, 1)": "loss",
    "logits centred over the batch": "independence",
    "Dice over the batch": "independence",
}
RUN_KILLERS = {
    "shuffled batches": "numbers of",
    "fixed batch size": "numbers of units per step vary less",
    "sampling with replacement": "entered a step twice",
    "reused coins": "numbers of steps per unit vary more",
    "sampling rate of a data loader": "were sampled in all",
    "early break": "noisy steps ran",
    "one step too many": "noisy steps ran",
    "units that are not members": "no members",
    "one step without noise": "noise of single steps",
    "noise that decays": "noise_multiplier was",
    "clipping switched off half-way": "clipping_norm was",
    "sums that were never clipped": "not clipped",
}
_killed: dict[str, str] = {}


def killers(report) -> list[str]:
    return [name for finding in report.findings for name in finding.check.split(", ")]


def look(model, loss=binary_loss, engine=PrivateEngine, checks=None):
    return preflight(model, loss, mutants.MECHANISM, *mutants.records(), engine=engine, checks=checks)


def killed_by(check: str, model, **broken) -> str:
    """Only the check that is expected to notice is run (a preflight has eleven, and there are 43 mutants here)."""
    report = look(model, checks={check}, **broken)
    assert killers(report) == [check], report.measured
    return f"preflight, {check}: {report.findings[0].what}"[:110]


def test_a_sound_step_passes_every_check():
    report = look(mutants.sound_model())
    assert report.passed, [str(finding) for finding in report.findings]
    assert set(report.measured) == set(CHECKS) - {"units"}
    assert report.measured["sensitivity"] > 0.5, "clipping was never active: the check looked at nothing"


@pytest.mark.parametrize("name", mutants.ENGINES)
def test_engines(name):
    _killed[name] = killed_by(ENGINE_KILLERS[name], mutants.sound_model(), engine=mutants.ENGINES[name])


@pytest.mark.parametrize("name", mutants.MODELS)
def test_models(name):
    torch.manual_seed(0)
    _killed[name] = killed_by(MODEL_KILLERS[name], mutants.MODELS[name]())


@pytest.mark.parametrize("name", mutants.LOSSES)
def test_losses(name):
    _killed[name] = killed_by(LOSS_KILLERS[name], mutants.sound_model(), loss=mutants.LOSSES[name])


def test_a_sound_run_checks():
    assert mutants.run(mutants.sound_batches(np.random.default_rng(0))).findings(mutants.MECHANISM) == []


@pytest.mark.parametrize("name", [*mutants.SAMPLERS, *mutants.DURING])
def test_runs(name):
    rng = np.random.default_rng(0)
    batches = mutants.SAMPLERS.get(name, mutants.sound_batches)(rng)
    found = mutants.run(batches, during=mutants.DURING.get(name)).findings(mutants.MECHANISM)
    _killed[name] = "ledger: " + " ".join(found)[:90]
    assert any(RUN_KILLERS[name] in sentence for sentence in found), found


def test_fleets_and_accounts():
    """What no single run can show: noise shared between models, and accounting of something else."""
    mechanism = mutants.MECHANISM
    epsilon, _ = reported_epsilon(
        mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.num_steps, mechanism.delta
    )
    one = mutants.run(mutants.sound_batches(np.random.default_rng(0))).to_dict()
    other = {**one, "noise_stream": "another"}
    assert void_reasons(mechanism, epsilon, [one, other]) == []
    cases = {
        "noise shared between models": (mechanism, epsilon, [one, one], "noise streams"),
        "accounted at a smaller sampling rate": (mechanism, epsilon * 0.5, [one], "accounted with other parameters"),
        "accounted without subtracting anything": (
            dataclasses.replace(mechanism, sampling_rate=0.6), epsilon, [one], "accounted with other parameters"),
        "an epsilon without noise": (
            dataclasses.replace(mechanism, noise_multiplier=0.0), epsilon, [], "without noise"),
        "divisor taken from the data": (
            mechanism, epsilon, [{**one, "divisors": [61.0]}], "divisors"),
    }  # fmt: skip
    for name, (what, claimed, ledgers, word) in cases.items():
        reasons = void_reasons(what, claimed, ledgers)
        _killed[name] = "verification: " + " ".join(reasons)[:90]
        assert any(word in reason for reason in reasons), (name, reasons)


def test_units():
    patient = np.array([0, 0, 1, 2, 2, 2, 3])
    patients = np.array([0, 1, 2])
    sound = UnitIndex.build(patient, patients, "patient")
    assert sound.findings(patient, patients, "patient") == []
    assert UnitIndex.build(patient, patients, "record").findings(patient, patients, "record") == []
    cases = {
        "patient split over units": UnitIndex(sound.records, np.array([0, 1, 2, 3, 6])),
        "records as patient units": UnitIndex.build(patient, patients, "record"),
        "two patients in one unit": UnitIndex(sound.records, np.array([0, 3, 6])),
        "a record in two units": UnitIndex(np.array([0, 1, 2, 3, 4, 4]), sound.offsets),
        "a patient of the test set": UnitIndex.build(patient, np.array([0, 1, 3]), "patient"),
    }
    for name, units in cases.items():
        found = units.findings(patient, patients, "patient")
        _killed[name] = "preflight: units: " + " ".join(found)[:70]
        assert found, name


def test_table_of_mutants(capsys):
    """Prints what the tests above found (run the whole file); a mutant without a killer would have failed there."""
    with capsys.disabled():
        if _killed:
            width = max(map(len, _killed))
            print(f"\n{len(_killed)} mutants, all killed:" if all(_killed.values()) else "\nSURVIVORS:")
            for name, by in _killed.items():
                print(f"  {name:<{width}}  {by}")
    assert all(_killed.values())
