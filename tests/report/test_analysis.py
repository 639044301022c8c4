"""The analysis finds what was planted, says what chance shows, and refuses a guarantee that an attack beats."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from dptrain.errors import ConfigError, PrivacyError, StudyError
from dptrain.report import analysis, parallel
from dptrain.report.analysis import analyse
from dptrain.report.pseudonyms import Pseudonyms
from dptrain.report.quantiles import null_quantile, quantile_interval
from dptrain.report.restricted import patient_risk_csv
from dptrain.report.results import StudyResult
from dptrain.report.table import markdown_table, summary_table
from dptrain.report.tradeoff import as_dict, tradeoff_json
from dptrain.report.utility_interval import measure_each
from tests.report.fake_study import EPS_3, NONE, FakeStudy


def test_exposed_patients_are_found_and_others_look_like_chance(result: StudyResult) -> None:
    none, private = result.arm("none"), result.arm("eps=3")
    assert none.exposed(0.95).count == 6
    assert (none.risk.patient_auc[:6] > 0.95).all()
    assert private.exposed(0.95).count <= 1
    assert none.risk.p99.value > none.risk.null_p99.high
    assert private.risk.null_p99.low <= private.risk.p99.value <= private.risk.null_p99.high + 0.1


def test_arms_keep_their_order_and_say_what_is_private(result: StudyResult) -> None:
    assert [arm.label for arm in result.arms] == ["none", "matched", "clip", "eps=3"]
    assert [arm.is_private for arm in result.arms] == [False, False, False, True]
    assert [arm.cap is not None for arm in result.arms] == [False, False, False, True]
    assert [arm.paired is None for arm in result.arms] == [True, False, False, False]


def test_paired_differences_have_the_sign_of_this_arm_minus_none(result: StudyResult) -> None:
    paired = result.arm("eps=3").paired
    assert paired is not None
    assert paired.patient_auc["at_least_0.9"].value == (
        result.arm("eps=3").exposed(0.9).count - result.arm("none").exposed(0.9).count
    )
    assert paired.patient_auc["at_least_0.9"].high < 0
    difference = result.arm("eps=3").utility.mean.value - result.arm("none").utility.mean.value
    assert paired.utility.value == pytest.approx(difference)
    assert paired.utility.low < paired.utility.value < paired.utility.high


def test_the_null_band_holds_an_arm_without_leakage(result: StudyResult) -> None:
    null, auc = result.null, result.arm("eps=3").risk.patient_auc
    seen = (auc[:, None] >= null.auc - 1e-9).sum(axis=0)
    inside = (seen >= null.low - 2) & (seen <= null.high + 2)
    assert inside.mean() > 0.9


def test_figures_that_few_patients_cannot_carry_are_none(result: StudyResult) -> None:
    assert result.arm("none").attack.tpr_at_fpr[0.001] is None


@pytest.mark.parametrize(("task", "records"), [("multiclass", 1), ("multilabel", 3)])
def test_every_task_and_several_records_per_patient(task: str, records: int) -> None:
    study = FakeStudy((NONE,), num_models=8, num_train=40, num_test=30, task=task, records_per_patient=records)
    found = analyse(study)
    assert found.num_patients == 40
    assert found.num_records == 40 * records
    assert found.arm("none").utility.metric == "auroc_macro"
    utility = found.arm("none").utility
    assert 0.5 < utility.mean.low < utility.mean.high <= 1
    cohort = study.cohort()
    assert tuple(utility.per_label) == cohort.label_names
    rows = cohort.is_test[cohort.patient]
    truth = np.asarray(cohort.labels)[rows]
    for place, (name, one) in enumerate(utility.per_label.items()):
        positive = truth[:, place] if task == "multilabel" else truth == place
        scores = study.logits("none")[:, rows].astype(np.float64)
        scores = scores if task == "multilabel" else softmax(scores, axis=2)
        known = ~np.isnan(positive)
        areas = [roc_auc_score(positive[known], model[known, place]) for model in scores]
        assert one.value == pytest.approx(np.mean(areas)), name
        assert one.low < one.value < one.high <= 1
    assert np.mean([one.value for one in utility.per_label.values()]) == pytest.approx(utility.mean.value)
    written = as_dict(found)["arms"][0]["utility"]["per_label"]
    assert {name: one["mean"] for name, one in written.items()} == pytest.approx(
        {name: one.value for name, one in utility.per_label.items()}, abs=1e-5
    )
    first = cohort.label_names[0]
    for text in (summary_table(found), markdown_table(found)):
        assert f"AUROC, none: {first} {utility.per_label[first].value:.3f}, " in text


def test_a_label_with_one_outcome_has_no_performance_of_its_own() -> None:
    labels = np.array([[0, 1], [1, 1], [0, 1], [1, np.nan]], dtype=np.float32)
    each = measure_each(np.ones((2, 4, 2)), labels, np.arange(4), "multilabel")
    assert each[0] is not None
    assert each[1] is None


def test_a_binary_task_has_no_performance_by_label(result: StudyResult) -> None:
    assert all(arm.utility.per_label == {} for arm in result.arms)
    assert "per_label" not in tradeoff_json(result)
    assert "AUROC, none" not in summary_table(result)


def test_an_attack_that_beats_the_guarantee_stops_the_report() -> None:
    leaking = FakeStudy((NONE, EPS_3)).with_arm(EPS_3, num_exposed=60, epsilon=0.1, noise_multiplier=150.0)
    refused = r"(?s)Arm eps=3 is refuted.*Mean AUC of the attack: observed .* the guarantee allows"
    with pytest.raises(PrivacyError, match=refused) as caught:
        analyse(leaking)
    assert "SECRET" not in str(caught.value)


def test_one_leaking_patient_is_enough_with_enough_models() -> None:
    arm = replace(EPS_3, num_exposed=1, leak=12.0, noise_multiplier=150.0)
    with pytest.raises(PrivacyError, match="1 of 60 patients: recognised in all 32 pairs"):
        analyse(FakeStudy((NONE, arm), num_models=64, num_train=60))


def test_a_record_guarantee_caps_patients_only_if_each_has_one_record() -> None:
    arms = (replace(EPS_3, unit="record"),)
    one = analyse(FakeStudy(arms, num_models=8, num_train=30, num_test=20))
    several = analyse(FakeStudy(arms, num_models=8, num_train=30, num_test=20, records_per_patient=2))
    assert one.arms[0].cap is not None
    assert several.arms[0].cap is None


def test_a_study_without_a_complete_arm_or_with_an_unknown_attack_is_refused() -> None:
    with pytest.raises(StudyError, match="no complete arm"):
        analyse(FakeStudy(()))
    study = FakeStudy((NONE,), num_models=4, num_train=20, num_test=20)
    study.settings["attack"]["name"] = "crystal_ball"
    with pytest.raises(ConfigError, match=r"attack\.name='crystal_ball'"):
        analyse(study)


def test_the_same_folder_gives_the_same_numbers(result: StudyResult) -> None:
    again = analyse(FakeStudy())
    assert tradeoff_json(again) == tradeoff_json(result)
    names = Pseudonyms(b"key", "study")
    assert patient_risk_csv(again, names) == patient_risk_csv(result, names)


def test_the_interval_of_a_quantile_comes_from_order_statistics() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        found = quantile_interval(rng.random(400), 0.99)
        assert found.low <= found.value <= found.high
        hits += found.low <= 0.99 <= found.high
    assert hits / 300 > 0.93


def test_thenull_quantile_is_the_quantile_of_each_permutation() -> None:
    class Null:
        num_patients = 50
        at_least_BT = np.array([(auc[:, None] >= np.arange(2001) / 2000 - 1e-9).sum(axis=0) for auc in
                                np.random.default_rng(1).integers(0, 2001, (7, 50)) / 2000])  # fmt: skip

    expected = [np.quantile(auc, 0.9) for auc in np.random.default_rng(1).integers(0, 2001, (7, 50)) / 2000]
    assert null_quantile(Null, 0.9).value == pytest.approx(np.mean(expected))  # type: ignore[arg-type]


def test_two_arms_at_the_same_time_give_the_same_figures(monkeypatch: pytest.MonkeyPatch, result: StudyResult) -> None:
    monkeypatch.setattr(analysis, "LARGE", 0)
    at_once = analyse(FakeStudy())
    assert tradeoff_json(at_once) == tradeoff_json(result)


def test_work_in_order_and_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_num_cores", lambda: 2)
    assert parallel.in_order(lambda one: (one, os.getpid()), [1, 2, 3], 1) == [(one, os.getpid()) for one in (1, 2, 3)]
    found = parallel.in_order(lambda one: (one, os.getpid()), [1, 2, 3], 2)
    assert [one for one, _ in found] == [1, 2, 3]
    assert os.getpid() not in [pid for _, pid in found] or sys.platform != "linux"

    def fail(one: int) -> int:
        raise StudyError(f"item {one} is damaged")

    with pytest.raises(StudyError, match="item 1 is damaged"):
        parallel.in_order(fail, [1, 2], 2)
