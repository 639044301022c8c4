import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dptrain.audit import (
    auc,
    clopper_pearson,
    roc_curve,
    summarise_attack,
    summarise_targets,
    tpr_at_fpr,
    tpr_at_fpr_split,
)
from tests.oracles import audit_oracles
from tests.oracles.simulate import twin_membership

scored = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40).filter(
    lambda units: 0 < sum(member for _, member in units) < len(units)
)


def arrays(units):
    return np.array([float(s) for s, _ in units]), np.array([m for _, m in units])


@settings(max_examples=30, deadline=None)
@given(scored, st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_equals_the_slow_twins_under_ties(units, fpr):
    scores, member = arrays(units)
    before = scores.copy(), member.copy()
    assert auc(scores, member) == pytest.approx(audit_oracles.auc(scores[member], scores[~member]))
    curve = roc_curve(scores, member)
    points = audit_oracles.roc_points(scores.tolist(), member.tolist())
    np.testing.assert_array_equal(curve.thresholds, [t for t, _, _ in points])
    np.testing.assert_allclose(curve.tpr * curve.num_members, [tp for _, tp, _ in points])
    np.testing.assert_allclose(curve.fpr * curve.num_nonmembers, [fp for _, _, fp in points])
    result = tpr_at_fpr(scores, member, fpr)
    assert result.estimable == (fpr * (~member).sum() >= 1)
    if result.estimable:
        expected = audit_oracles.tpr_at_fpr(scores.tolist(), member.tolist(), fpr)
        assert (result.num_true_positives, result.num_false_positives) == expected
        assert result.realised_fpr <= fpr
        assert 0 <= result.low <= result.tpr <= result.high <= 1
        assert result.num_true_positives == (scores[member] >= result.threshold).sum()
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(member, before[1])


@settings(max_examples=20, deadline=None)
@given(scored, st.randoms(use_true_random=False))
def test_only_the_order_of_scores_matters(units, random):
    scores, member = arrays(units)
    assert auc(np.exp(scores) + 3, member) == pytest.approx(auc(scores, member))
    assert auc(-scores, member) == pytest.approx(1 - auc(scores, member))
    random.shuffle(units)
    assert auc(*arrays(units)) == pytest.approx(auc(scores, member))


def test_no_interpolation_and_not_estimable():
    scores, member = np.repeat([1.0, 0.0], 50), np.tile([True, False], 50)
    result = tpr_at_fpr(scores, member, 0.1)
    assert (result.tpr, result.realised_fpr, result.threshold) == (0.0, 0.0, np.inf)
    for result in (tpr_at_fpr(scores, member, 0.01), tpr_at_fpr_split(scores, member, 0.03, np.random.default_rng(0))):
        assert not result.estimable
        assert np.isnan(result.tpr)
    assert tpr_at_fpr(np.arange(20.0), np.arange(20) % 2 == 0, 0.1).num_false_positives == 1


@pytest.mark.parametrize(("num_in", "num_out", "fpr"), [(300, 300, 0.1), (300, 2000, 0.01), (1000, 1000, 0.001)])
def test_tpr_interval_covers(num_in, num_out, fpr):
    rng = np.random.default_rng(0)
    shift = 1.0
    truth = stats.norm.sf(stats.norm.isf(fpr) - shift)
    member = np.arange(num_in + num_out) < num_in
    hits, runs = 0, 200
    for _ in range(runs):
        result = tpr_at_fpr(rng.normal(size=member.size) + shift * member, member, fpr)
        hits += result.low <= truth <= result.high
    # Never too short; with a single expected false positive the interval is conservative (0.99 in 400 runs).
    assert hits / runs >= 0.93
    assert hits / runs <= 0.99 or fpr * num_out < 10


def test_split_interval_covers_its_own_threshold():
    rng = np.random.default_rng(1)
    member = np.arange(1200) < 400
    hits = 0
    for _ in range(300):
        result = tpr_at_fpr_split(rng.normal(size=1200) + 1.5 * member, member, 0.02, rng)
        hits += result.low <= stats.norm.sf(result.threshold - 1.5) <= result.high
    assert 0.92 <= hits / 300 <= 0.995


def test_clopper_pearson_is_the_exact_interval():
    for count, total in ((0, 10), (3, 10), (10, 10), (12, 399)):
        exact = stats.binomtest(count, total).proportion_ci(method="exact")
        assert clopper_pearson(count, total) == pytest.approx((exact.low, exact.high), abs=1e-9)
    with pytest.raises(ValueError, match="count=11"):
        clopper_pearson(11, 10)


def test_summary_over_targets():
    values = np.array([0.5, 0.6, 0.7, 0.9])
    alone = summarise_targets(values)
    assert (alone.mean, alone.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    reach = stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert (alone.low, alone.high) == pytest.approx((values.mean() - reach, values.mean() + reach))
    # Two twins that always agree are one observation, not two.
    paired = summarise_targets(np.repeat(values, 2), np.repeat(np.arange(4), 2))
    assert (paired.low, paired.high) == pytest.approx((alone.low, alone.high))
    assert not summarise_targets([0.1, np.nan]).estimable
    assert np.isnan(summarise_targets([0.4]).low)


def test_summary_of_an_attack():
    rng = np.random.default_rng(2)
    membership = twin_membership(6, 300, rng)
    summary = summarise_attack(rng.normal(size=membership.shape) + membership, membership, (0.1, 0.001))
    assert summary.auc.mean == pytest.approx(0.76, abs=0.02)
    assert summary.auc.num_targets == 6
    assert summary.tpr_at_fpr[0.1].estimable
    assert not summary.tpr_at_fpr[0.001].estimable


@pytest.mark.parametrize(
    ("scores", "member", "words"),
    [
        ([1.0, 2.0], [True], "shape"),
        ([1.0, 2.0], [1, 0], "bool"),
        ([1.0, np.nan], [True, False], "NaN"),
        ([1.0, 2.0], [True, True], "both kinds"),
    ],
)
def test_what_does_not_fit_is_refused(scores, member, words):
    for function in (auc, roc_curve):
        with pytest.raises(ValueError, match=words):
            function(scores, member)


def test_percent_is_refused():
    with pytest.raises(ValueError, match="fpr=10"):
        tpr_at_fpr([1.0, 2.0], np.array([True, False]), 10)
