import numpy as np
import pytest

from dptrain.attacks import (
    compute_label_signals,
    compute_log_probabilities,
    compute_regression_signals,
    compute_signals,
    signals,
)
from tests.oracles import attack_oracles

CASES = [("binary", 1), ("multiclass", 2), ("multiclass", 5), ("multilabel", 3)]


def draw(task, num_outputs, rng, num_models=3, num_records=11):
    logits = 6 * rng.normal(size=(num_models, num_records, num_outputs))
    if task == "multilabel":
        labels = rng.choice([0.0, 1.0, np.nan], size=(num_records, num_outputs))
        labels[0] = np.nan
    else:
        labels = rng.integers(0, max(2, num_outputs), size=num_records)
    return logits, labels


@pytest.mark.parametrize(("task", "num_outputs"), CASES)
def test_equals_the_slow_twin(task, num_outputs):
    logits, labels = draw(task, num_outputs, np.random.default_rng(0))
    expected = [
        [attack_oracles.signal(logits[m, n], labels[n], task) for n in range(logits.shape[1])]
        for m in range(logits.shape[0])
    ]
    np.testing.assert_allclose(compute_signals(logits, labels, task), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("task", "num_outputs"), CASES)
def test_chunks_change_nothing_and_inputs_stay(task, num_outputs, monkeypatch):
    logits, labels = draw(task, num_outputs, np.random.default_rng(1))
    logits_before, labels_before = logits.copy(), labels.copy()
    whole = compute_signals(logits, labels, task)
    monkeypatch.setattr(signals, "_CHUNK_VALUES", 4)
    np.testing.assert_array_equal(compute_signals(logits, labels, task), whole)
    np.testing.assert_array_equal(logits, logits_before)
    np.testing.assert_array_equal(labels, labels_before)


@pytest.mark.parametrize(("task", "num_outputs"), CASES)
def test_log_probabilities_equal_the_slow_twin(task, num_outputs, monkeypatch):
    logits, labels = draw(task, num_outputs, np.random.default_rng(3))
    expected = [
        [attack_oracles.log_probability(logits[m, n], labels[n], task) for n in range(logits.shape[1])]
        for m in range(logits.shape[0])
    ]
    whole = compute_log_probabilities(logits, labels, task)
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-300)
    monkeypatch.setattr(signals, "_CHUNK_VALUES", 4)
    np.testing.assert_array_equal(compute_log_probabilities(logits, labels, task), whole)


def test_log_probabilities_keep_their_digits_at_both_ends():
    logits = np.array([[[90.0], [90.0]]], dtype=np.float32)
    np.testing.assert_allclose(compute_log_probabilities(logits, [1, 0], "binary"), [[-np.exp(-90.0), -90.0]])
    two = np.array([[[800.0, 0.0], [0.0, 800.0]]])
    assert compute_log_probabilities(two, [1, 1], "multiclass").tolist() == [[-800.0, 0.0]]
    missing = compute_log_probabilities(np.ones((2, 1, 2)), [[np.nan, np.nan]], "multilabel")
    assert missing.tolist() == [[0.0], [0.0]]


def test_label_signals_sum_to_the_signal():
    logits, labels = draw("multilabel", 4, np.random.default_rng(2))
    per_label = compute_label_signals(logits, labels)
    assert np.isnan(per_label[:, np.isnan(labels)]).all()
    np.testing.assert_allclose(np.nansum(per_label, axis=2), compute_signals(logits, labels, "multilabel"))
    assert (compute_signals(logits, labels, "multilabel")[:, 0] == 0).all()


def test_sure_models_are_not_flattened():
    # In float32 sigmoid(20) and sigmoid(30) are both 1; exp(800) overflows even float64.
    logits = np.array([[[20.0], [30.0]]], dtype=np.float32)
    assert compute_signals(logits, [1, 1], "binary").tolist() == [[20.0, 30.0]]
    logits = np.array([[[800.0, 0.0, -800.0], [-800.0, 0.0, 800.0]]], dtype=np.float32)
    np.testing.assert_allclose(compute_signals(logits, [0, 0], "multiclass"), [[800.0, -1600.0]])


@pytest.mark.parametrize(
    ("shape", "labels", "task", "words"),
    [
        ((2, 3), [0, 1, 1], "binary", "models, records, outputs"),
        ((2, 3, 2), [0, 1, 1], "binary", "1 output"),
        ((2, 3, 1), [0, 1, 2], "binary", "0 or 1"),
        ((2, 3, 1), [0, 1, np.nan], "binary", "0 or 1"),
        ((2, 3, 1), [0, 0, 0], "multiclass", "at least 2"),
        ((2, 3, 3), [0, 1, 3], "multiclass", "class numbers"),
        ((2, 3, 3), [0, 1], "multiclass", "labels.shape"),
        ((2, 3, 3), [[0, 1, 2]] * 3, "multilabel", "0, 1 or NaN"),
        ((2, 3, 3), [0, 1, 1], "regression", "must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(shape, labels, task, words):
    with pytest.raises(ValueError, match=words):
        compute_signals(np.zeros(shape), labels, task)


def test_a_diverged_model_is_named():
    logits = np.zeros((3, 4, 1))
    logits[2, 1] = np.nan
    with pytest.raises(ValueError, match="model 2"):
        compute_signals(logits, [0, 1, 0, 1], "binary")


def test_regression_is_minus_the_squared_error_of_the_outputs_that_are_known():
    outputs = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    truth = np.arange(12.0).reshape(4, 3)
    truth[1, 2] = np.nan
    expected = -np.nansum((outputs.astype(float) - truth) ** 2, axis=2)
    np.testing.assert_allclose(compute_regression_signals(outputs, truth), expected, rtol=1e-12)
    np.testing.assert_allclose(
        compute_regression_signals(outputs[:, :, :1], truth[:, 0]), -((outputs[:, :, 0] - truth[:, 0]) ** 2)
    )
    for bad, target in ((outputs[0], truth), (outputs, truth[:, :2])):
        with pytest.raises(ValueError, match="must be"):
            compute_regression_signals(bad, target)
    outputs[1, 0, 0] = np.inf
    with pytest.raises(ValueError, match="model 1"):
        compute_regression_signals(outputs, truth)
