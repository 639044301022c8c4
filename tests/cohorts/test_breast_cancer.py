"""The bundled cohort: counts, orientation, public constants, and that a plain model can learn it."""

from __future__ import annotations

import re

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dptrain.cohorts.breast_cancer import PUBLISHED_RANGE
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig

DATA = DataConfig("breast_cancer", 399)


def test_399_and_170_patients_with_malignant_positive() -> None:
    cohort = load_cohort(DATA, seed=0)
    assert (len(cohort.train_patients), int(cohort.is_test.sum())) == (399, 170)
    assert cohort.label_names == ("benign", "malignant")
    assert cohort.labels.sum() == 212
    assert cohort.labels[cohort.is_test[cohort.patient]].sum() == 63
    assert cohort.groups == {}
    worst_radius = cohort.features[:, cohort.feature_names.index("worst radius")]
    assert worst_radius[cohort.labels == 1].mean() > worst_radius[cohort.labels == 0].mean()


def test_constants_are_those_that_the_documentation_prints() -> None:
    bundled = load_breast_cancer()
    printed = re.findall(r"^[a-z ]+ \((?:mean|standard error|worst)\): +([\d.]+) +([\d.]+)$", bundled.DESCR, re.M)
    assert [PUBLISHED_RANGE[name] for name in bundled.feature_names] == [(float(a), float(b)) for a, b in printed]


def test_published_range_is_mapped_to_minus_3_and_3() -> None:
    features = load_cohort(DATA, seed=0).features
    np.testing.assert_allclose(features.max(axis=0), 3, atol=0.1)
    np.testing.assert_allclose(features.min(axis=0), -3, atol=0.8)  # minima are printed with one digit or two


def test_logistic_regression_reaches_its_known_auroc() -> None:
    aurocs = []
    for seed in range(5):
        cohort = load_cohort(DATA, seed)
        test = cohort.is_test[cohort.patient]
        model = LogisticRegression(max_iter=5000).fit(cohort.features[~test], cohort.labels[~test])
        aurocs.append(roc_auc_score(cohort.labels[test], model.decision_function(cohort.features[test])))
    assert np.mean(aurocs) > 0.99


def test_a_path_is_ignored_with_a_warning() -> None:
    cohort = load_cohort(DataConfig("breast_cancer", 399, path="x.csv"), seed=0)
    assert "data.path=x.csv is ignored" in cohort.warnings[0]
