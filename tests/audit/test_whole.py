"""The whole audit is its parts; what models resolve; exact rank sums; quantiles and their null."""

import itertools

import numpy as np
import pytest

from dptrain.attacks import ATTACKS, expand_membership, max_over_records, sum_over_records
from dptrain.audit import (
    Interval,
    auc,
    null_patient_auc,
    patient_auc,
    patient_auc_interval,
    patient_evidence,
    subgroup_risk,
    summarise_attack,
)
from dptrain.audit import null as null_module
from dptrain.audit.access_table import access_table
from dptrain.audit.common import common_parts, mean_auc_interval
from dptrain.audit.quantile import null_quantile, quantile_interval
from dptrain.audit.rank_sum import MOST_MODELS, mann_whitney_probabilities
from dptrain.audit.resolution import resolution
from dptrain.audit.roc import RankedScores
from dptrain.audit.whole import Answers, audit_models
from tests.oracles.simulate import twin_membership


def fleet(num_models=12, num_patients=80, seed=0):
    rng = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(num_patients), rng.integers(0, num_patients, 40)]))
    membership = twin_membership(num_models, num_patients, rng)
    signals = rng.normal(size=(num_models, patient.size)) + membership[:, patient]
    return Answers(signals, membership, patient, population=rng.normal(size=(num_models, 50)))


def test_the_whole_is_its_parts():
    answers = fleet()
    groups = {"sex": np.array(["f", "m"])[np.arange(80) % 2]}
    names = ("threshold", "lira_online_shrunk", "rmia_online")
    found = audit_models(
        answers, {n: ATTACKS[n] for n in names}, np.random.default_rng(1), targets=[0, 1, 7], groups=groups,
        num_permutations=30,
    )  # fmt: skip
    members = expand_membership(answers.membership_MP, answers.patient_N)
    for name in names:
        signals, population = answers.of_kind(ATTACKS[name].signal)
        scores = ATTACKS[name].function(signals, members, targets=[0, 1, 7], population_MZ=population)
        expected = summarise_attack(sum_over_records(scores, answers.patient_N, 80), answers.membership_MP[[0, 1, 7]])
        np.testing.assert_allclose(found.attacks[name].auc_T, expected.auc_T, rtol=1e-12)
    assert found.max_over_records == {}
    lira = audit_models(answers, {"lira_online": ATTACKS["lira_online"]}, np.random.default_rng(1), num_permutations=20)
    largest = max_over_records(ATTACKS["lira_online"].function(answers.signals, members), answers.patient_N, 80)
    expected_auc = np.mean([auc(row, member) for row, member in zip(largest, answers.membership_MP, strict=True)])
    assert lira.max_over_records["lira_online"].mean == pytest.approx(expected_auc)
    risk = patient_auc(patient_evidence(answers.signals, answers.patient_N, 80), answers.membership_MP)
    np.testing.assert_allclose(found.risk.patient_auc, risk)
    assert np.all((found.risk.low <= risk) & (risk <= found.risk.high))
    expected_groups = subgroup_risk(risk, groups, np.random.default_rng(0)).groups
    assert [g.num_in_top for g in found.subgroups.groups] == [g.num_in_top for g in expected_groups]
    assert found.remeasured is not None
    again = audit_models(answers, {}, np.random.default_rng(1), num_permutations=30, num_threads=5)
    assert again.risk.mean == found.risk.mean
    assert again.risk.at_least == found.risk.at_least


def test_too_few_models_for_a_fold_or_a_half():
    found = audit_models(fleet(2), {}, np.random.default_rng(0), num_permutations=20)
    assert found.risk.attack_auc is None
    assert found.remeasured is None


@pytest.mark.parametrize("num_models", [1, 5, 6])
def test_rank_sums_by_enumeration(num_models):
    tables = mann_whitney_probabilities(num_models, num_models)
    for num_in in range(num_models + 1):
        counts = np.zeros(num_in * (num_models - num_in) + 1)
        for ranks in itertools.combinations(range(1, num_models + 1), num_in):
            counts[sum(ranks) - num_in * (num_in + 1) // 2] += 1
        np.testing.assert_allclose(tables[num_in], counts / counts.sum())
    with pytest.raises(ValueError, match="models <="):
        mann_whitney_probabilities(MOST_MODELS + 1, 2)


def test_the_exact_null_is_that_of_shuffles(monkeypatch):
    rng = np.random.default_rng(3)
    evidence = rng.normal(size=(14, 1500))
    evidence[:, :100] = np.round(evidence[:, :100])  # these have ties
    membership = rng.random(evidence.shape) < 0.5
    exact = null_patient_auc(evidence, membership, 200, np.random.default_rng(1))
    monkeypatch.setattr(null_module, "MOST_MODELS", 0)
    shuffled = null_patient_auc(evidence, membership, 200, np.random.default_rng(2))
    assert exact.num_patients == shuffled.num_patients
    assert exact.mean.mean == pytest.approx(shuffled.mean.mean, abs=0.001)
    for threshold in (0.6, 0.8):
        error = shuffled.count_sd(threshold) * np.sqrt(2 / 200)
        assert exact.expected_count(threshold) == pytest.approx(shuffled.expected_count(threshold), abs=4 * error)
        assert exact.count_sd(threshold) == pytest.approx(shuffled.count_sd(threshold), rel=0.25)


def test_more_models_resolve_more():
    rng = np.random.default_rng(0)
    found = []
    for num_models in (8, 16, 64):
        membership = twin_membership(num_models, 500, rng)
        found.append(resolution(null_patient_auc(rng.normal(size=membership.shape), membership, 50, rng)))
    assert np.isnan(found[0].count_from), "8 models: chance shows several AUCs of 1 among 500 patients"
    assert np.isnan(found[0].list_from)
    assert 0.95 > found[1].count_from > found[2].count_from > 0.6
    assert found[1].list_from > found[2].list_from > found[2].count_from - 0.02
    assert [one.standard_error[0.5] for one in found] == pytest.approx([0.2165, 0.1488, 0.0724], abs=1e-3)
    with pytest.raises(ValueError, match="false_discovery_rate=0"):
        resolution(null_patient_auc(np.eye(4), twin_membership(4, 4, rng), 5, rng), 0.0)


def test_quantiles():
    values = np.append(np.arange(1000) / 1000.0, np.nan)
    found = quantile_interval(values, 0.99)
    assert found.value == pytest.approx(np.nanquantile(values, 0.99))
    assert found.low == pytest.approx(0.983, abs=0.002)
    assert found.high == pytest.approx(0.996, abs=0.002)
    rng = np.random.default_rng(0)
    membership = twin_membership(16, 300, rng)
    evidence = rng.normal(size=membership.shape)
    null = null_patient_auc(evidence, membership, 100, rng)
    low_high = null_quantile(null, 0.9)
    assert low_high.low < np.quantile(patient_auc(evidence, membership), 0.9) < low_high.high
    for bad in (0.0, 1.0):
        with pytest.raises(ValueError, match="probability"):
            quantile_interval(values, bad)


def test_models_that_leak_unevenly_move_all_patients_together():
    rng = np.random.default_rng(1)
    membership = twin_membership(24, 400, rng)
    even = rng.normal(size=membership.shape) + 1.0 * membership
    uneven = rng.normal(size=membership.shape) + np.exp(0.7 * rng.normal(size=(24, 1))) * membership
    assert common_parts(uneven, membership, rng).of_mean > 4.0 * common_parts(even, membership, rng).of_mean
    found = [mean_auc_interval(evidence, membership, rng) for evidence in (even, uneven)]
    widths = [one.high - one.low for one in found]
    assert widths[1] > 1.5 * widths[0]
    assert common_parts(even[:6], membership[:6], rng).of_mean == 0.0, "3 pairs show no spread"


def test_the_interval_of_one_patient_is_never_a_point():
    low, high = patient_auc_interval([1.0, 0.0, 0.5, np.nan], 8, 8)
    assert high[0] == pytest.approx(1.0)
    assert 0.6 < low[0] < 0.9
    assert low[1] == pytest.approx(0.0)
    assert high[1] == pytest.approx(1.0 - low[0])
    assert low[2] + high[2] == pytest.approx(1.0)
    assert np.isnan(low[3])
    with pytest.raises(ValueError, match="auc must lie"):
        patient_auc_interval([1.2], 8, 8)


def test_the_interval_of_a_target_follows_delong():
    rng = np.random.default_rng(0)
    scores, member = np.round(rng.normal(size=60), 1), rng.random(60) < 0.4
    found = RankedScores.of(scores, member).auc_interval()
    assert found.value == pytest.approx(auc(scores, member))
    inside, outside = scores[member], scores[~member]
    above = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    variance = above.mean(axis=1).var(ddof=1) / inside.size + above.mean(axis=0).var(ddof=1) / outside.size
    reach = 1.959964 * np.sqrt(variance) / (found.value * (1 - found.value))
    odds = np.log(found.value / (1 - found.value))
    np.testing.assert_allclose(
        [found.low, found.high], 1 / (1 + np.exp(-(odds + np.array([-reach, reach])))), rtol=1e-6
    )
    perfect = RankedScores.of([0.0, 1.0, 2.0, 3.0], np.array([False, False, True, True])).auc_interval()
    assert perfect.value == 1.0
    assert perfect.low < 0.5, "four patients prove little"
    assert RankedScores.of([0.0, 1.0], np.array([False, True])).auc_interval() == Interval(1.0, 0.0, 1.0)


def test_less_access_shows_less():
    rng = np.random.default_rng(0)
    membership = twin_membership(16, 200, rng)
    labels = rng.integers(0, 2, 200)
    logits = (rng.normal(size=(16, 200)) + 2.0 * membership) * (2 * labels - 1)
    rows = access_table(
        logits[:, :, None], labels, "binary", membership, np.arange(200), {"lira": ATTACKS["lira_online_shrunk"]}
    )
    found = {row.policy: row.attacks["lira"].auc.mean for row in rows}
    assert next(iter(found)) == "logits"
    assert found["logits"] > found["label"] + 0.03
    assert rows[0].mean.low < rows[0].mean.value < rows[0].mean.high
