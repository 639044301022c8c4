"""Simulated ECGs: lead geometry without rounding, findings in the leads where textbooks have them, planted patients."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dptrain.cohorts.sim_dipole import GRID, LEADS, beat_times, num_beats, twelve_leads
from dptrain.cohorts.sim_ecg import SimEcgOptions, read_sim_ecg, simulate_ecgs
from dptrain.cohorts.sim_heart import FINDINGS, draw_hearts
from dptrain.cohorts.sim_patients import Draws, Patients
from dptrain.config import DataConfig
from dptrain.errors import ConfigError

LEAD = {name: index for index, name in enumerate(LEADS)}


@cache
def ecgs(num_patients: int = 600, **options: Any) -> tuple[np.ndarray, np.ndarray, Patients]:
    return simulate_ecgs(SimEcgOptions(num_patients=num_patients, **options), 1.8)


def test_leads_are_related_exactly() -> None:
    leads = dict(zip(LEADS, ecgs()[0].transpose(1, 0, 2), strict=True))
    np.testing.assert_array_equal(leads["I"] + leads["III"], leads["II"])
    np.testing.assert_array_equal(leads["aVR"], -(leads["I"] + leads["II"]) / 2)
    np.testing.assert_array_equal(leads["aVL"], leads["I"] - leads["II"] / 2)
    np.testing.assert_array_equal(leads["aVF"], leads["II"] - leads["I"] / 2)
    np.testing.assert_array_equal(leads["aVR"] + leads["aVL"] + leads["aVF"], 0)


def test_grid_is_finer_than_a_recorder() -> None:
    values = np.random.default_rng(0).normal(0, 3, (5, 8, 100)).astype(np.float32)
    leads = twelve_leads(values)
    assert GRID < 0.001
    assert np.abs(leads[:, :2] - values[:, :2]).max() <= GRID / 2
    np.testing.assert_array_equal(leads[:, 6:], np.round(values[:, 2:] / GRID) * GRID)


def test_heart_rate_and_its_variability() -> None:
    rate, variability = np.full(200, 75.0), np.repeat([0.0, 0.06], 100)
    rng = np.random.default_rng(0)
    times = beat_times(rate, variability, np.full(200, 0.25), rng.random((200, 4), dtype=np.float32),
                       rng.normal(size=(200, num_beats(10))).astype(np.float32), 10.0)  # fmt: skip
    intervals = np.diff(times, axis=1)
    np.testing.assert_allclose(intervals[:100], 0.8)
    assert intervals[100:].mean() == pytest.approx(0.8, abs=0.01)
    assert 0.03 < intervals[100:].std() < 0.07
    assert (times[:, 0] <= 0).all()
    fastest = beat_times(np.full(50, 118.0), np.full(50, 0.1), np.full(50, 0.25), rng.random((50, 4), dtype=np.float32),
                         rng.normal(size=(50, num_beats(10))).astype(np.float32), 10.0)  # fmt: skip
    assert (fastest[:, -1] > 10).all(), "beats reach beyond the end"


def beat(signal: np.ndarray, before: int = 25, after: int = 45) -> np.ndarray:
    """(12, before + after) median beat, cut at the largest QRS slopes of all leads."""
    energy = np.square(np.diff(signal, axis=1)).sum(axis=0)
    energy = np.convolve(energy, np.ones(7), "same")
    tops: list[int] = []
    for place in np.argsort(-energy):
        if energy[place] < 0.5 * energy.max():
            break
        if all(abs(place - other) > 35 for other in tops) and before <= place < signal.shape[1] - after:
            tops.append(int(place))
    beats = np.stack([signal[:, top - before : top + after] for top in tops])
    return np.median(beats - beats[:, :, 14:19].mean(axis=2, keepdims=True), axis=0)


@cache
def beats_of(finding: str, which: int | bool) -> np.ndarray:
    """(12, 70) mean of the median beats of records with this one finding (normal: none), nobody planted."""
    signals, labels, people = ecgs(rare_share=0.0, outlier_share=0.0)
    heart = draw_hearts(people, Draws("sim_ecg", 0))
    if finding == "normal":
        rows = ~labels.any(axis=1)
    else:
        rows = labels[:, FINDINGS.index(finding)] & (labels.sum(axis=1) == 1)
        kind = heart.infarct if finding == "st_elevation" else heart.is_left_block
        rows &= (kind == which) | (finding == "hypertrophy")
    chosen = np.flatnonzero(rows)[:30]
    assert len(chosen) >= 10
    return np.mean([beat(signals[row]) for row in chosen], axis=0)


def test_normal_beat_has_p_qrs_and_t_where_they_belong() -> None:
    normal = beats_of("normal", 0)
    two = normal[LEAD["II"]]
    assert 0.05 < two[5:18].max() < 0.25, "P before the QRS"
    assert 0.5 < two[20:32].max() < 1.6, "R"
    assert 0.1 < two[42:65].max() < 0.5, "T after it"
    assert normal[LEAD["aVR"], 20:32].min() < -0.4, "aVR looks from the other side"
    r = [normal[LEAD[f"V{i}"], 20:32].max() for i in range(1, 7)]
    s = [-normal[LEAD[f"V{i}"], 20:32].min() for i in range(1, 7)]
    assert r[0] < s[0], "S is larger than R in V1"
    assert r[4] > 2 * s[4], "and R larger than S in V5"
    assert np.argmax(r) in (3, 4)


@pytest.mark.parametrize("which, up, down", [(0, ("V2", "V3"), None), (1, ("II", "III", "aVF"), "aVL"),
                                             (2, ("I", "aVL", "V5"), "III")])  # fmt: skip
def test_st_elevation_is_localised_and_reciprocal(which: int, up: tuple[str, ...], down: str | None) -> None:
    level = (beats_of("st_elevation", which) - beats_of("normal", 0))[:, 35:38].mean(axis=1)
    assert all(level[LEAD[name]] > 0.07 for name in up)
    if down:
        assert level[LEAD[down]] < -0.05


def test_block_widens_the_qrs_and_hypertrophy_raises_voltage() -> None:
    def width(beats: np.ndarray) -> int:
        return int((np.abs(np.diff(beats[:, 18:40], axis=1)).max(axis=0) > 0.05).sum())

    normal = beats_of("normal", 0)
    left, right = (beats_of("bundle_branch_block", is_left) for is_left in (True, False))
    assert width(left) >= width(normal) + 3
    assert width(right) >= width(normal) + 2
    v1, v6 = LEAD["V1"], LEAD["V6"]
    assert right[v1, 28:38].max() > 0.25, "R' in V1"
    assert -left[v1, 20:32].min() > max(0.3, 3 * left[v1, 20:32].max()), "S and next to no R in V1"
    assert left[v6, 48:60].mean() < normal[v6, 48:60].mean() - 0.1, "T opposite to the QRS"
    large = beats_of("hypertrophy", 0)
    assert large[LEAD["V5"]].max() - large[v1].min() > 1.3 * (normal[LEAD["V5"]].max() - normal[v1].min()), "Sokolow"
    assert large[v6, 45:58].mean() < normal[v6, 45:58].mean() - 0.05, "strain"


def shape_features(signals: np.ndarray) -> np.ndarray:
    """(N, 108) per lead: quantiles of the amplitude and of its slope."""
    level = signals - np.median(signals, axis=2, keepdims=True)
    slope = np.abs(np.diff(level, axis=2))
    quantiles = np.percentile(level, [1, 5, 25, 75, 95, 99], axis=2)
    return np.concatenate([*quantiles, slope.mean(axis=2), slope.max(axis=2), level.std(axis=2)], axis=1)


def test_findings_can_be_told_apart_but_not_perfectly() -> None:
    signals, labels, people = ecgs(1200, rare_share=0.05, outlier_share=0.05)
    features, planted = shape_features(signals), people.planted[people.patient]
    train = (people.patient < 800) & (planted == "none")
    for index, finding in enumerate(FINDINGS):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
        score = model.fit(features[train], labels[train, index]).decision_function(features)
        usual = (people.patient >= 800) & (planted == "none")
        low, high = {"st_elevation": (0.7, 0.95)}.get(finding, (0.9, 0.999))
        assert low < roc_auc_score(labels[usual, index], score[usual]) < high


def test_labels_of_outliers_contradict_their_findings() -> None:
    as_found = ecgs(300, outlier_share=0.2, outlier_labels="same")
    signals, labels, people = ecgs(300, outlier_share=0.2)
    np.testing.assert_array_equal(signals, as_found[0])
    outlier = (people.planted == "outlier")[people.patient]
    np.testing.assert_array_equal(labels[~outlier], as_found[1][~outlier])
    for patient in np.flatnonzero(people.planted == "outlier"):
        rows = people.patient == patient
        assert labels[rows].any(axis=1).all() != as_found[1][rows].any()
    plain = ecgs(300, outlier_share=0.0)[0]
    assert np.abs(signals[outlier] - plain[outlier]).max(axis=(1, 2)).min() > 0.2


def test_the_rare_group_has_its_heart_on_the_right() -> None:
    signals, labels, people = ecgs(1200, rare_share=0.05, outlier_share=0.05)
    planted, narrow = people.planted[people.patient], labels[:, 1]
    one = signals[:, LEAD["I"]]
    lead_one = one.max(axis=1) + one.min(axis=1)
    assert np.mean(lead_one[(planted == "rare_group")] < 0) > 0.8
    assert np.mean(lead_one[(planted == "none")] < 0) < 0.15
    rare = planted == "rare_group"
    assert narrow[rare].mean() > 0.6, "their own rule labels the narrow QRS"
    assert not labels[rare][:, [0, 2]].any()
    same = ecgs(1200, rare_share=0.05, outlier_share=0.05, rare_label_rule="same")
    np.testing.assert_array_equal(same[0], signals)
    assert same[1][rare].any(axis=0).all()
    np.testing.assert_array_equal(same[1][~rare], labels[~rare])


def test_shapes_labels_and_options() -> None:
    data = {"num_patients": 60, "duration_s": 2.5, "sampling_rate": 200}
    records = read_sim_ecg(DataConfig("sim_ecg", 42, records_per_patient=1.5, options=data))
    assert records.features.shape[1:] == (12, 500)
    assert records.task == "multilabel"
    np.testing.assert_array_equal(records.labels[:, 0], ~(records.labels[:, 1:] > 0).any(axis=1))
    binary = read_sim_ecg(DataConfig("sim_ecg", 42, records_per_patient=1.5, options={**data, "labels": "binary"}))
    np.testing.assert_array_equal(binary.labels, 1 - records.labels[:, 0])
    default = read_sim_ecg(DataConfig("sim_ecg", 42, options={"num_patients": 20}))
    assert default.features.shape == (20, 12, 1000)
    with pytest.raises(ConfigError) as caught:
        read_sim_ecg(DataConfig("sim_ecg", 42, options={"sampling_rate": 10, "duration_s": 0, "labels": "icd"}))
    assert len(caught.value.problems) == 3
