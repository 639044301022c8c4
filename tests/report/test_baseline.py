"""The logistic regression beside every arm, and what a record's epsilon means for patients: in table, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from dptrain.report.analysis import analyse
from dptrain.report.results import StudyResult
from dptrain.report.table import MAX_WIDTH, markdown_table, summary_table
from dptrain.report.tradeoff import tradeoff_csv, tradeoff_json
from tests.report.fake_study import EPS_3, NONE, FakeStudy


def test_it_stands_beside_none_and_the_private_arms(result: StudyResult) -> None:
    there = {arm.label: arm.baseline is not None for arm in result.arms}
    assert there == {"none": True, "matched": False, "clip": False, "eps=3": True}
    arms = {arm["label"]: arm for arm in json.loads(tradeoff_json(result))["arms"]}
    assert arms["matched"]["baseline"] is None
    baseline = arms["eps=3"]["baseline"]
    assert baseline["name"] == "logistic regression"
    assert baseline["num_models"] == 4
    assert baseline["epsilon"] == arms["eps=3"]["epsilon"]
    assert baseline["utility"]["mean_low"] < baseline["utility"]["mean"] < baseline["utility"]["mean_high"]
    assert baseline["difference"] > 0.02


def test_the_difference_is_taken_on_the_models_that_both_have(result: StudyResult) -> None:
    for arm in result.arms:
        if arm.baseline is not None:
            own = sum(arm.utility.per_model[:4]) / 4
            assert arm.baseline.difference.value == pytest.approx(own - arm.baseline.utility.mean.value, abs=1e-9)
            assert arm.baseline.difference.low < arm.baseline.difference.value < arm.baseline.difference.high


def test_every_table_shows_it(result: StudyResult) -> None:
    value = f"{result.arm('eps=3').baseline.utility.mean.value:.3f}"
    for text in (summary_table(result), markdown_table(result)):
        (row,) = (line for line in text.splitlines() if "eps=3" in line)
        assert value in row
        assert "LR: AUROC of logistic regression with the same privacy" in text
    assert max(len(line) for line in summary_table(result).splitlines()) <= MAX_WIDTH
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(tradeoff_csv(result)))}
    assert float(rows["eps=3"]["baseline.utility.mean"]) == pytest.approx(float(value), abs=5e-4)
    assert rows["matched"]["baseline.utility.mean"] == ""


def test_a_study_without_baselines() -> None:
    plain = analyse(FakeStudy(num_baselines=0, fake_arms=(NONE, EPS_3)))
    assert all(arm.baseline is None for arm in plain.arms)
    assert "baseline" in json.loads(tradeoff_json(plain))["arms"][0]


def test_records_as_the_unit_say_what_epsilon_is_for_patients() -> None:
    level = {"records": {"p50": 1, "max": 3}, "epsilon": {"p50": 3.0, "max": 7.5}}
    arm = dataclasses.replace(EPS_3, unit="record", patient_level=level)
    found = analyse(FakeStudy(fake_arms=(NONE, arm), records_per_patient=3))
    arms = {one["label"]: one for one in json.loads(tradeoff_json(found))["arms"]}
    assert arms["eps=3"]["patient_level"] == level
    assert "patient_level" not in arms["none"]
    assert "a patient with the most records (3): epsilon 7.500" in summary_table(found)
