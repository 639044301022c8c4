"""What SACRO-ML's readers expect: names, types, definitions (against scikit-learn), and nothing of a patient."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from dptrain.report.results import StudyResult
from dptrain.report.sacro import sacro_report
from dptrain.report.sacro_metrics import attack_metrics, null_auc_sd

KNOWN_METRICS = [
    "TPR", "FPR", "FAR", "TNR", "PPV", "NPV", "FNR", "ACC", "F1score", "Advantage", "AUC", "P_HIGHER_AUC", "FMAX01",
    "FMIN01", "FDIF01", "PDIF01", "FMAX02", "FMIN02", "FDIF02", "PDIF02", "FMAX001", "FMIN001", "FDIF001", "PDIF001",
    "pred_prob_var", "TPR@0.5%", "TPR@0.2%", "TPR@0.1%", "TPR@0.01%", "TPR@0.001%", "TPR@1e-05%", "fpr", "tpr",
    "n_pos_test_examples", "n_neg_test_examples",
]  # fmt: skip
"""Of `get_metrics` in sacroml 2.0.1, but `roc_thresh`: our scores are no probabilities."""
METADATA = {"sacroml_version", "attack_name", "attack_params", "global_metrics", "baseline_global_metrics",
            "target_model", "target_model_params", "target_train_params"}  # fmt: skip
"""All that report schema 1.2 allows there; the first four are required."""


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    member = rng.permutation(400) < 210
    return rng.normal(0, 1, 400) + 0.8 * member, member


def test_the_metrics_are_those_of_scikit_learn(scored) -> None:
    scores, member = scored
    found = attack_metrics(scores, member)
    called = scores > np.median(scores)
    tn, fp, fn, tp = sk.confusion_matrix(member, called).ravel()
    assert list(found) == KNOWN_METRICS
    for name, value in (
        ("AUC", sk.roc_auc_score(member, scores)), ("ACC", sk.accuracy_score(member, called)),
        ("F1score", sk.f1_score(member, called)), ("PPV", sk.precision_score(member, called)), ("FAR", fp / (fp + tp)),
        ("TPR", sk.recall_score(member, called)), ("FPR", fp / (fp + tn)), ("NPV", tn / (tn + fn)),
        ("Advantage", tp / (tp + fn) - fp / (fp + tn)), ("TNR", tn / (tn + fp)), ("FNR", fn / (fn + tp)),
    ):  # fmt: skip
        assert found[name] == pytest.approx(value), name


def test_a_rate_in_percent_is_reached_without_more_false_positives(scored) -> None:
    scores, member = scored
    found = attack_metrics(scores, member)
    outside = np.sort(scores[~member])[::-1]
    for percent in (0.5, 0.2, 1e-05):
        allowed = int(percent / 100 * outside.size)
        assert found[f"TPR@{percent:g}%"] == pytest.approx(float((scores[member] > outside[allowed]).mean()))


def test_the_extremes_are_shares_of_members(scored) -> None:
    scores, member = scored
    found = attack_metrics(scores, member)
    order = np.argsort(scores)
    assert found["FMAX01"] == pytest.approx(float(member[order[-40:]].mean()))
    assert found["FMIN001"] == pytest.approx(float(member[order[:4]].mean()))
    assert found["FDIF02"] == pytest.approx(found["FMAX02"] - found["FMIN02"])
    assert found["PDIF01"] > 3


def test_scores_that_say_nothing_are_not_significant() -> None:
    rng = np.random.default_rng(0)
    member = rng.permutation(400) < 200
    p_values = [attack_metrics(rng.normal(size=400), member)["P_HIGHER_AUC"] for _ in range(300)]
    assert 0.02 < float(np.mean(np.array(p_values) <= 0.05)) < 0.09
    areas = [attack_metrics(rng.normal(size=400), member)["AUC"] for _ in range(300)]
    assert float(np.std(areas)) == pytest.approx(null_auc_sd(200, 200), rel=0.15)


@pytest.mark.parametrize("scores", [np.zeros(40), np.arange(40.0), -np.arange(40.0)])
def test_degenerate_scores_still_give_numbers(scores) -> None:
    found = attack_metrics(scores, np.arange(40) < 20)
    for name, value in found.items():
        assert np.isfinite(value).all(), name


@pytest.fixture(scope="module")
def report(result: StudyResult) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    membership = rng.random((result.num_models, result.num_patients)) < 0.5
    scores = rng.normal(size=membership.shape) + membership
    arm = result.arm("eps=3")
    content = sacro_report(result, arm, scores, membership, "0123-abcd", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    return json.loads(json.dumps(content, allow_nan=False))


def test_the_report_has_the_form_of_schema_1_2(report: dict[str, Any]) -> None:
    ((key, experiment),) = report.items()
    assert re.fullmatch(r"[A-Za-z0-9 _\-]+", key)
    assert key == "LiRA Attack_0123-abcd"
    assert experiment["log_id"] == "0123-abcd"
    assert experiment["log_time"] == "02/01/2026 03:04:05"
    metadata = experiment["metadata"]
    assert set(metadata) <= METADATA
    assert {"sacroml_version", "attack_name", "attack_params", "global_metrics"} <= set(metadata)
    assert all(isinstance(value, int | float | str | None) for value in metadata["global_metrics"].values())
    assert list(experiment["attack_experiment_logger"]) == ["attack_instance_logger"]
    instances = experiment["attack_experiment_logger"]["attack_instance_logger"]
    assert list(instances) == [f"instance_{model}" for model in range(16)]
    for instance in instances.values():
        for value in instance.values():
            assert isinstance(value, int | float) or all(isinstance(one, float) for one in value)


def test_the_global_metrics_count_significant_models(report: dict[str, Any]) -> None:
    (experiment,) = report.values()
    counts = experiment["metadata"]["global_metrics"]
    values = [one["P_HIGHER_AUC"] for one in experiment["attack_experiment_logger"]["attack_instance_logger"].values()]
    assert counts["n_sig_auc_p_vals"] == sum(value <= 0.05 for value in values) > 0
    assert counts["n_sig_auc_p_vals_corrected"] <= counts["n_sig_auc_p_vals"]
    low, high = (float(end) for end in counts["null_auc_3sd_range"].split(" -> "))
    assert low < 0.5 < high


def test_what_has_no_name_there_stands_beside(report: dict[str, Any], result: StudyResult) -> None:
    (experiment,) = report.values()
    beside = experiment["dptrain"]
    assert beside["epsilon"] == result.arm("eps=3").epsilon
    assert beside["unit_of_privacy"] == "patient"
    assert beside["largest_auc_allowed"] == result.arm("eps=3").cap.auc
    assert "SECRET" not in json.dumps(report)
