"""The interval of AUROC against slow, obvious twins and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from dptrain.report.utility_interval import difference_interval, mean_interval, measure
from dptrain.training.utility import auroc

PAIRS = np.repeat(np.arange(4), 2)


def _logits(rng: np.random.Generator, labels: np.ndarray, num_models: int = 8, models_sd: float = 0.0) -> np.ndarray:
    difficulty = rng.normal(0, 1, len(labels))
    noise = rng.normal(0, 0.7, (num_models, len(labels)))
    skill = 1.2 + models_sd * rng.normal(size=(num_models, 1))
    return ((2 * labels - 1) * skill + difficulty + noise)[:, :, None]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_every_model_has_the_auroc_that_training_logs(task: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3 if task == "multiclass" else 2, 80)
    if task == "multilabel":
        labels = rng.integers(0, 2, (80, 3)).astype(float)
        labels[::4, 2] = np.nan
    logits = rng.normal(size=(8, 80, 1 if task == "binary" else 3))
    found = measure(logits, labels, np.arange(80), task)  # type: ignore[arg-type]
    expected = [auroc(one, labels, task) for one in logits]  # type: ignore[arg-type]
    np.testing.assert_allclose(found.auroc_M, expected, atol=1e-12)


def test_influences_are_the_placement_values_of_delong() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40)
    logits = np.round(_logits(rng, labels, num_models=2), 1)
    found = measure(logits, labels, np.arange(40), "binary").influence_P
    slow = np.zeros(40)
    for scores in logits[:, :, 0]:
        kernel = (scores[labels == 1][:, None] > scores[labels == 0]) + 0.5 * (
            scores[labels == 1][:, None] == scores[labels == 0]
        )
        slow[labels == 1] += (kernel.mean(axis=1) - kernel.mean()) / (labels == 1).sum() / 2
        slow[labels == 0] += (kernel.mean(axis=0) - kernel.mean()) / (labels == 0).sum() / 2
    np.testing.assert_allclose(found, slow, atol=1e-12)


def test_copies_of_a_patients_record_add_no_certainty() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 60)
    logits = _logits(rng, labels)
    once = mean_interval(measure(logits, labels, np.arange(60), "binary"), PAIRS)
    copied = measure(np.repeat(logits, 5, axis=1), np.repeat(labels, 5), np.repeat(np.arange(60), 5), "binary")
    thrice = mean_interval(copied, PAIRS)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_perfect_models_on_few_patients_are_not_certain() -> None:
    labels = np.arange(20) % 2
    found = mean_interval(measure(np.tile(labels[:, None], (8, 1, 1)) * 1.0, labels, np.arange(20), "binary"), PAIRS)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.025**0.1)


def test_models_that_say_nothing_get_a_half() -> None:
    labels = np.arange(20) % 2
    found = mean_interval(measure(np.zeros((8, 20, 1)), labels, np.arange(20), "binary"), PAIRS)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_intervals_cover_the_truth() -> None:
    """Over new test patients and new models; the truth from a very large test set."""
    rng = np.random.default_rng(11)
    many = np.arange(20_000) % 2
    truth = float(np.mean(measure(_logits(rng, many, 16, 0.2), many, np.arange(len(many)), "binary").auroc_M))
    hits = ordered = 0
    for _ in range(200):
        labels = np.arange(80) % 2
        one = measure(_logits(rng, labels, 8, 0.2), labels, np.arange(80), "binary")
        found = mean_interval(one, PAIRS)
        hits += found.low <= truth <= found.high
        ordered += found.low > 0
    assert hits / 200 >= 0.92
    assert ordered == 200


def test_a_paired_difference_is_tighter_than_two_intervals() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 60)
    logits = _logits(rng, labels)
    worse = logits + rng.normal(0, 0.3, logits.shape)
    a, b = (measure(x, labels, np.arange(60), "binary") for x in (worse, logits))
    found, single = difference_interval(a, b, PAIRS), mean_interval(b, PAIRS)
    assert found.value == pytest.approx(a.auroc_M.mean() - b.auroc_M.mean())
    assert found.high - found.low < single.high - single.low
