"""Simulated visits: plausible values, a task of medium difficulty, planted patients that are what they claim."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dptrain.cohorts.sim_ehr import LEVELS, MEASUREMENTS, SimEhrOptions, read_sim_ehr, simulate_visits
from dptrain.config import DataConfig


@cache
def visits(num_patients: int = 4000, **options: float) -> tuple[pd.DataFrame, np.ndarray, object]:
    return simulate_visits(SimEhrOptions(num_patients=num_patients, **options), 2.5)


def test_values_are_plausible_skewed_and_rounded() -> None:
    table, labels, _ = visits()
    for name, one in MEASUREMENTS.items():
        values = table[name].dropna()
        assert values.between(one.low, one.high).all()
        np.testing.assert_array_equal(values, values.round(one.decimals))
        half = np.array([-0.5, 0.5])
        low, high = one.center * one.spread**half if one.log else one.center + one.spread * half
        assert low <= values.median() <= high
    assert table["creatinine_mg_dl"].skew() > 2
    assert abs(table["sodium_mmol_l"].skew()) < 0.5
    assert (table["diastolic_mmhg"] < table["systolic_mmhg"]).sum() == table["diastolic_mmhg"].notna().sum()
    assert 0.1 < labels.mean() < 0.25


def test_values_hang_together() -> None:
    table, labels, people = visits()
    rank = table[list(MEASUREMENTS)].corr(method="spearman")
    assert rank.loc["creatinine_mg_dl", "urea_nitrogen_mg_dl"] > 0.4
    assert rank.loc["white_cells_g_l", "crp_mg_l"] > 0.3
    assert rank.loc["oxygen_saturation_percent", "respiratory_rate_per_min"] < -0.3
    assert rank.loc["systolic_mmhg", "diastolic_mmhg"] > 0.4
    assert table.loc[table["heart_failure"] == 1, "nt_probnp_ng_l"].median() > 2 * table["nt_probnp_ng_l"].median()
    first = people.visit == 0
    second = np.flatnonzero(people.visit == 1)
    log = np.log(table["creatinine_mg_dl"].to_numpy())
    both = np.isfinite(log[second]) & np.isfinite(log[second - 1])
    assert np.corrcoef(log[second][both], log[second - 1][both])[0, 1] > 0.4, "visits of one patient are alike"
    assert labels[first].std() > 0
    ill = table.groupby(labels)["lactate_mmol_l"]
    assert ill.count()[1] / (labels == 1).sum() > ill.count()[0] / (labels == 0).sum(), "measured more in the ill"


def test_missing_values_and_categories_are_coded() -> None:
    table, _, _ = visits(300)
    records = read_sim_ehr(DataConfig("sim_ehr", 210, records_per_patient=2.5, options={"num_patients": 300}))
    column = records.feature_names.index
    for name in ("lactate_mmol_l", "sodium_mmol_l"):
        missing = table[name].isna().to_numpy()
        np.testing.assert_array_equal(records.features[:, column(f"{name} missing")], missing)
        assert (records.features[missing, column(name)] == 0).all(), "filled with the reference value"
    for name, levels in LEVELS.items():
        for level in levels[1:]:
            coded = records.features[:, column(f"{name}={level}")]
            np.testing.assert_array_equal(coded, table[name] == level)


@pytest.fixture(scope="module")
def scores() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(out-of-sample score of a logistic regression, label, planted) of the patients it was not fitted on."""
    records = read_sim_ehr(DataConfig("sim_ehr", 2800, records_per_patient=2.5, options={}))
    train = records.patient_ids < "S002800"
    fitted = LogisticRegression(C=0.1, max_iter=300).fit(records.features[train], records.labels[train])
    return fitted.decision_function(records.features[~train]), records.labels[~train], records.groups["planted"][~train]


def test_logistic_regression_does_well_but_not_perfectly(scores: tuple[np.ndarray, ...]) -> None:
    score, label, planted = scores
    usual = planted == "none"
    assert 0.75 < roc_auc_score(label[usual], score[usual]) < 0.86


def test_planted_patients_contradict_the_rule_of_the_others(scores: tuple[np.ndarray, ...]) -> None:
    score, label, planted = scores
    for kind, most in (("rare_group", 0.65), ("outlier", 0.4)):
        assert roc_auc_score(label[planted == kind], score[planted == kind]) < most


def test_outliers_are_atypical() -> None:
    records = read_sim_ehr(DataConfig("sim_ehr", 2800, records_per_patient=2.5, options={}))
    values = records.features[:, 2 : 2 + len(MEASUREMENTS)]
    planted = records.groups["planted"]
    norm = np.sqrt((values**2).sum(axis=1))
    assert np.mean(norm[planted == "outlier"] > np.quantile(norm[planted == "none"], 0.99)) > 0.6
    rare = values[planted == "rare_group"].mean(axis=0) - values[planted == "none"].mean(axis=0)
    for index, one in enumerate(MEASUREMENTS.values()):
        assert rare[index] == pytest.approx(one.rare_shift * (1 - one.missing), abs=0.45)
