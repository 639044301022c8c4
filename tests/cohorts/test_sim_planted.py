"""The audit finds planted patients in a quick leaky fit: logistic regressions on halves of the patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dptrain.attacks.signals import compute_signals
from dptrain.audit.patients import patient_auc, patient_evidence
from dptrain.cohorts.membership import draw_membership
from dptrain.cohorts.records import Records
from dptrain.cohorts.registry import READERS
from dptrain.config import DataConfig

NUM_MODELS, NUM_PATIENTS = 48, 400
COHORTS: dict[str, dict[str, Any]] = {
    "sim_ehr": {},
    "sim_ecg": {"labels": "binary", "duration_s": 5},
    "sim_imaging": {"image_size": 32},
}


def read(name: str, **options: Any) -> Records:
    """Three records of each patient, so that nobody is exposed for having many."""
    common = {"num_patients": NUM_PATIENTS, "records_distribution": "fixed", "rare_share": 0, "outlier_share": 0.06}
    data = DataConfig(name, 280, records_per_patient=3, options={**common, **COHORTS[name], **options})
    return READERS[name](data)


def columns(records: Records) -> np.ndarray:
    """(N, D) what a logistic regression can use: visits as they are, amplitudes per lead, films at 8 x 8."""
    values = np.asarray(records.features)
    if values.ndim == 3:
        level = values - np.median(values, axis=2, keepdims=True)
        parts = [*np.percentile(level, [1, 5, 10, 25, 75, 90, 95, 99], axis=2), level.std(axis=2)]
        values = np.concatenate(parts, axis=1)
    elif values.ndim == 4:
        values = values.reshape(len(values), 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(values), -1)
    return (values - values.mean(axis=0)) / values.std(axis=0).clip(1e-6)


def exposure(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """((P,) patient AUC over models that were trained on halves of the patients, (P,) who is a planted outlier)."""
    ids, patient = np.unique(records.patient_ids, return_inverse=True)
    membership = draw_membership(0, NUM_MODELS, len(ids))
    inputs, labels = columns(records), np.asarray(records.labels)
    logits = []
    for row in membership:
        inside = row[patient]
        model = LogisticRegression(C=0.1, max_iter=150).fit(inputs[inside], labels[inside])
        logits.append(model.decision_function(inputs))
    signals = compute_signals(np.stack(logits)[:, :, None], labels, "binary")
    outlier = np.zeros(len(ids), dtype=bool)
    outlier[patient] = records.groups["planted"] == "outlier"
    return patient_auc(patient_evidence(signals, patient, len(ids)), membership), outlier


@pytest.mark.parametrize("name", sorted(COHORTS))
def test_planted_outliers_are_more_exposed_than_others(name: str) -> None:
    auc, outlier = exposure(read(name))
    assert 20 <= outlier.sum() <= 28
    assert auc[outlier].mean() > auc[~outlier].mean() + 0.12
    assert roc_auc_score(outlier, auc) > 0.72


@pytest.mark.parametrize("name", sorted(COHORTS))
def test_the_same_patients_are_not_exposed_when_nothing_is_planted_in_them(name: str) -> None:
    auc, outlier = exposure(read(name, outlier_strength=0, outlier_labels="same"))
    assert abs(auc[outlier].mean() - auc[~outlier].mean()) < 0.06
    assert 0.4 < roc_auc_score(outlier, auc) < 0.6
