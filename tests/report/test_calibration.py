"""Calibration against scikit-learn, and intervals that cover what they are about."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss

from dptrain.report.calibration import calibration
from dptrain.report.results import Estimate


def fleet(rng: np.random.Generator, num_models: int = 4, num_patients: int = 300, slope: float = 1.0):  # type: ignore[no-untyped-def]
    """Logits that are `1/slope` times too large, two records per patient."""
    patient = np.repeat(np.arange(num_patients), 2)
    truth = rng.normal(0, 1.5, num_patients)[patient]
    labels = (rng.random(len(patient)) < expit(truth)).astype(np.int64)
    logits = (truth + rng.normal(0, 0.2, (num_models, len(patient)))) / slope
    return logits[:, :, None], labels, patient


def test_values_are_those_of_scikit_learn() -> None:
    logits, labels, patient = fleet(np.random.default_rng(0))
    logits = np.round(logits, 1)  # ties
    found = calibration(logits, labels, patient, "binary", np.array([0, 0, 1, 1]))
    scores = logits[:, :, 0]
    assert found.auprc is not None
    assert found.brier is not None
    assert found.slope is not None
    assert found.auprc.value == pytest.approx(np.mean([average_precision_score(labels, one) for one in scores]))
    assert found.brier.value == pytest.approx(np.mean([brier_score_loss(labels, expit(one)) for one in scores]))
    slopes = [LogisticRegression(C=np.inf, tol=1e-9).fit(one[:, None], labels).coef_[0, 0] for one in scores]
    assert found.slope.value == pytest.approx(np.mean(slopes), rel=1e-4)
    assert found.prevalence == pytest.approx(labels.mean())


def test_a_model_that_is_too_sure_has_a_slope_below_one() -> None:
    logits, labels, patient = fleet(np.random.default_rng(1), num_models=16, slope=0.25)
    found = calibration(logits, labels, patient, "binary", np.arange(16) // 2)
    assert found.slope is not None
    assert found.slope.high < 0.5
    assert found.slope.value == pytest.approx(0.25, abs=0.06)


def test_separated_outcomes_have_no_slope() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    logits = np.tile(np.array([-3.0, -2, -1, 1, 2, 3]), (2, 1))[:, :, None]
    found = calibration(logits, labels, np.arange(6), "binary", np.array([0, 0]))
    assert found.slope is None
    assert found.auprc is not None
    assert found.auprc.value == 1.0


def test_classes_and_labels_with_gaps() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, 120, 3))
    classes = rng.integers(0, 3, 120)
    found = calibration(logits, classes, np.arange(120), "multiclass", np.array([0, 0]))
    shares = softmax(logits, axis=2)
    expected = [brier_score_loss(classes == k, shares[m, :, k]) for m in range(2) for k in range(3)]
    assert found.brier is not None
    assert found.brier.value == pytest.approx(np.mean(expected))
    labels = rng.integers(0, 2, (120, 3)).astype(np.float32)
    labels[::7, 1] = np.nan
    found = calibration(logits, labels, np.arange(120), "multilabel", np.array([0, 0]))
    kept = ~np.isnan(labels)
    pairs = [(labels[kept[:, k], k], logits[m, kept[:, k], k]) for m in range(2) for k in range(3)]
    expected = [average_precision_score(truth, scores) for truth, scores in pairs]
    assert found.auprc is not None
    assert found.auprc.value == pytest.approx(np.mean(expected))


def test_intervals_cover_the_value_in_many_patients() -> None:
    """Of 60 studies at least 51 intervals hold the truth (95% nominal; 50 or fewer happen in 1 of 1000). One pair of
    models that hardly differ: the interval is that of the patients, not widened by Student's t of few pairs."""
    one_pair = np.array([0, 0])
    logits, labels, patient = fleet(np.random.default_rng(3), 2, num_patients=40_000)
    truth = calibration(logits, labels, patient, "binary", one_pair)
    inside = {"auprc": 0, "brier": 0, "slope": 0}
    widths = {name: [] for name in inside}
    for seed in range(60):
        logits, labels, patient = fleet(np.random.default_rng(100 + seed), 2, num_patients=200)
        found = calibration(logits, labels, patient, "binary", one_pair)
        for name in inside:
            one, true = getattr(found, name), getattr(truth, name)
            assert isinstance(one, Estimate)
            inside[name] += one.low <= true.value <= one.high
            widths[name].append(one.high - one.low)
    assert min(inside.values()) >= 51, inside
    assert all(np.mean(each) < 0.6 for each in widths.values()), "intervals that say something"
