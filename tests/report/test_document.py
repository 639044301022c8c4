"""The report document: complete, made of marked leaves, and the same however it is walked."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dptrain.report.analysis import analyse
from dptrain.report.document import Document
from dptrain.report.leaves import Count, Curve, Figure, Leaf, Remark, leaves, transform
from dptrain.report.results import StudyResult
from tests.report.fake_study import FakeStudy, document_for


def test_every_arm_has_every_part(document: Document) -> None:
    assert [arm.label for arm in document.arms] == ["none", "matched", "clip", "eps=3"]
    none, private = document.arms[0], document.arms[-1]
    assert none.paired is None
    assert private.paired is not None
    assert private.privacy.cap_curve is not None
    assert private.privacy.cap_curve.public
    assert none.access[0].policy == "logits"
    assert {(one.attribute, one.group) for one in document.groups} == {("sex", "female"), ("sex", "male")}
    assert set(document.groups[0].arms) == {arm.label for arm in document.arms}


def test_the_document_repeats_the_figures_of_the_analysis(document: Document, result: StudyResult) -> None:
    for arm, known in zip(document.arms, result.arms, strict=True):
        assert arm.performance.auroc.value == pytest.approx(known.utility.mean.value, abs=1e-6)
        assert arm.risk.p99.value == pytest.approx(known.risk.p99.value, abs=1e-6)
        assert [one.count.value for one in arm.risk.at_least] == [one.count for one in known.risk.at_least]
        assert arm.risk.survival.y[0] == result.num_patients
        assert arm.risk.survival.x[-1] == pytest.approx(known.risk.max, abs=1e-6)


def test_every_measured_figure_has_n_unit_and_a_reason_for_its_interval(document: Document) -> None:
    for path, leaf in leaves(document):
        if isinstance(leaf, Figure):
            assert leaf.n is not None, path
            assert leaf.unit, path
            assert (leaf.low is None and leaf.high is None) or leaf.about, path
        if isinstance(leaf, Curve) and not leaf.public:
            assert leaf.n, path
            assert len(leaf.x) == len(leaf.y), path


def test_no_number_outside_leaves_comes_from_patients() -> None:
    """Two studies that differ in nothing but what was measured differ in leaves alone (and in what was not tested)."""
    one = document_for(analyse(FakeStudy(), details=True))
    other = document_for(analyse(FakeStudy(seed=8), details=True))

    def blank(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        return Remark(None)

    first, second = (transform(document, blank).to_dict() for document in (one, other))
    for content in (first, second):
        del content["not_tested"], content["repeat"]
    assert first == second


def test_transform_reaches_every_leaf_and_nothing_else(document: Document) -> None:
    def withhold(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        if isinstance(leaf, Count | Figure):
            return dataclasses.replace(leaf, value=None, low=None, high=None, withheld="hidden")
        return leaf

    hidden = transform(document, withhold)
    assert all(leaf.withheld == "hidden" for _, leaf in leaves(hidden) if isinstance(leaf, Count | Figure))
    assert transform(document, lambda leaf, path: leaf) == document


def test_json_is_plain_and_the_same_twice(document: Document, result: StudyResult) -> None:
    text = document.to_json()
    assert text == document.to_json()
    content: dict[str, Any] = json.loads(text)
    assert content["schema"] == 1
    assert content["arms"][0]["risk"]["maximum"] == {
        "leaf": "figure",
        "value": pytest.approx(document.arms[0].risk.maximum.value),
        "n": result.num_patients,
        "rests_on": 1,
    }
    assert "SECRET" not in text


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_other_tasks_and_several_records(task: str) -> None:
    document = document_for(analyse(FakeStudy(task=task, records_per_patient=2, num_models=8), details=True))
    assert document.arms[0].performance.auprc.value is not None
    assert document.arms[0].performance.calibration_slope.value is not None
