"""Patients in groups of ten: what event files hold has no value of one patient and no count of fewer."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dptrain.report import tensorboard
from dptrain.report.coarse import coarse, grouped_means
from dptrain.report.results import StudyResult
from tests.report.test_tensorboard_runs import PNG


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.integers(2, 10))
def test_groups_are_large_keep_the_mean_and_the_order(values: list[float], size: int) -> None:
    found = grouped_means(np.array(values), size)
    assert found.mean() == pytest.approx(np.mean(values))
    _, counts = np.unique(np.round(found, 12), return_counts=True)
    assert counts.min() >= min(size, len(values))
    for lower, upper in itertools.pairwise(np.unique(values)):
        assert found[values == lower].max() <= found[values == upper].min() + 1e-12


def test_a_patient_without_a_value_stays_without() -> None:
    found = grouped_means(np.array([0.9, np.nan, 0.1, 0.5]), 2)
    np.testing.assert_allclose(found, [0.5, np.nan, 0.5, 0.5])
    assert np.isnan(grouped_means(np.array([np.nan]), 2)).all()


def test_nothing_of_single_patients_is_left(result: StudyResult) -> None:
    safe = coarse(result)
    assert safe.patient_ids.size == 0
    assert not safe.groups
    assert not safe.details
    for arm, before in zip(safe.arms, result.arms, strict=True):
        assert np.unique(arm.risk.patient_auc, return_counts=True)[1].min() >= 10
        assert arm.risk.max == pytest.approx(np.sort(before.risk.patient_auc)[-10:].mean())
        assert arm.risk.max < before.risk.max
        assert all(one.count == 0 or one.count >= 10 for one in arm.risk.at_least)
        assert arm.utility == before.utility
        assert arm.attack == before.attack


def test_event_files_hold_no_count_of_few_patients(result: StudyResult, tmp_path: Path) -> None:
    tensorboard.write_runs(tmp_path / "study" / "tensorboard", result, lambda safe: {"chart": PNG})
    for arm in result.arms:
        run = EventAccumulator(str(tmp_path / "study" / "tensorboard" / arm.label)).Reload()
        tags = run.Tags()["scalars"]
        assert not [tag for tag in tags if "patients" in tag]
        assert run.Scalars("result/risk_patient_auc_p99")[0].value < arm.risk.p99.value + 1e-6
        assert run.Scalars("result/risk_patient_auc_p99")[0].value == pytest.approx(
            np.sort(arm.risk.patient_auc)[-10:].mean(), abs=1e-6
        )
    run = EventAccumulator(str(tmp_path / "study" / "tensorboard" / "study")).Reload()
    table = run.Tensors("table")[0].tensor_proto.string_val[0].decode()
    counts = re.findall(r"\| (<?\d+) \[", table)
    assert counts
    assert all(count == "<10" or int(count) >= 10 for count in counts)
