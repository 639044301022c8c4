"""Ranks from one training: scores equal to slow twins, intervals that cover, and agreement that is 0 for noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dptrain.attacks.twins import model_units
from dptrain.audit.patients import patient_auc
from dptrain.audit.screening import (
    agreement,
    fleet_reliability,
    loss_trace_iqr,
    patient_scores,
    record_scores,
    spearman_interval,
)
from dptrain.cohorts.membership import draw_membership


def test_lt_iqr_is_the_quartiles_of_each_trace() -> None:
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=(21, 7))
    slow = [sorted(losses[:, record])[15] - sorted(losses[:, record])[5] for record in range(7)]
    np.testing.assert_allclose(loss_trace_iqr(losses), slow)
    scores = record_scores(losses, None)
    assert list(scores) == ["lt_iqr", "mean_loss", "final_loss"]
    np.testing.assert_array_equal(scores["final_loss"], losses[-1])
    assert record_scores(losses, np.ones((3, 7)))["gradient_norm"].tolist() == [1.0] * 7


def test_scores_of_a_patient_add_up() -> None:
    assert patient_scores(np.array([1.0, 2.0, 4.0]), [1, 0, 1], 2).tolist() == [2.0, 5.0]
    with pytest.raises(ValueError, match="patient"):
        patient_scores(np.array([1.0, 2.0]), [0, 0], 2)


def test_spearman_is_scipys_and_its_interval_covers() -> None:
    rng = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(0.5 / 2)
    covered = 0
    for _ in range(400):
        first = rng.standard_normal(80)
        second = 0.5 * first + np.sqrt(0.75) * rng.standard_normal(80)
        found = spearman_interval(first, second)
        assert found.value == pytest.approx(stats.spearmanr(first, second).statistic)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98
    assert np.isnan(spearman_interval(np.ones(5), np.arange(5.0)).value)


def test_a_perfect_screen_and_a_blind_one() -> None:
    rng = np.random.default_rng(3)
    risk = np.clip(rng.normal(0.6, 0.12, 500), 0, 1)
    perfect = agreement(risk, risk)
    assert perfect.spearman.value == pytest.approx(1.0)
    assert [top.num_shared for top in perfect.top] == [5, 25]
    assert perfect.exposed_auc.value == 1.0
    assert perfect.num_exposed == (risk >= 0.8).sum()
    blind = agreement(rng.standard_normal(500), risk)
    assert blind.spearman.low < 0 < blind.spearman.high
    assert blind.exposed_auc.low < 0.5 < blind.exposed_auc.high
    assert blind.top[1].precision.low <= 0.05 + 0.05 <= 1.0
    worst = agreement(-risk, risk)
    assert worst.top[1].num_shared == 0
    assert worst.top[1].precision.low == 0.0 < worst.top[1].precision.high < 0.2


def test_without_exposed_patients_there_is_no_auc_and_missing_risks_are_left_out() -> None:
    risk = np.full(40, 0.55)
    risk[3] = np.nan
    found = agreement(np.arange(40.0), risk)
    assert np.isnan(found.exposed_auc.value)
    assert found.num_exposed == 0
    with pytest.raises(ValueError, match="at least 10"):
        agreement(np.arange(5.0), np.arange(5.0))
    with pytest.raises(ValueError, match="the same"):
        agreement(np.arange(5.0), np.arange(6.0))


def test_reliability_is_that_of_a_second_fleet() -> None:
    """The correlation of two independent fleets on the same patients is what the halves of one foretell."""
    rng = np.random.default_rng(4)
    leak = rng.exponential(0.7, 600)
    aucs, foretold = [], []
    for seed in (1, 2):
        membership = draw_membership(seed, 64, 600)
        evidence = rng.standard_normal(membership.shape) + leak * membership
        foretold.append(fleet_reliability(evidence, membership, model_units(membership), rng))
        aucs.append(patient_auc(evidence, membership))
    assert np.mean(foretold) == pytest.approx(stats.spearmanr(*aucs).statistic, abs=0.06)
    membership = draw_membership(3, 32, 600)
    noise = rng.standard_normal(membership.shape)
    assert fleet_reliability(noise, membership, model_units(membership), rng) < 0.25
    assert np.isnan(fleet_reliability(noise[:4], membership[:4], model_units(membership[:4]), rng))
