import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from dptrain.audit import auc
from dptrain.audit.groups import group_utility
from dptrain.audit.interval import Interval, area_interval, jeffreys_interval, normal_interval
from dptrain.audit.subgroups import subgroup_risk
from tests.oracles import audit_oracles

FEW = {"num_permutations": 199, "num_resamples": 100}


def cohort(num_patients, seed, shift=0.7, share=0.1):
    rng = np.random.default_rng(seed)
    rare = rng.random(num_patients) < share
    return rng.normal(size=num_patients) + shift * rare, np.where(rare, "rare", "common"), rng


def test_figures_are_the_plain_ones():
    risk, group, rng = cohort(1000, 0)
    risk = np.round(risk, 1)  # ties at the cut
    strata = np.array(["sick", "healthy"])[(risk + rng.normal(size=1000) > 0.5).astype(int)]
    before = risk.copy(), group.copy(), strata.copy()
    result = subgroup_risk(risk, {"kind": group}, rng, strata_P=strata, top_fraction=0.05, **FEW)
    weight = np.array(audit_oracles.top_weights(risk, 50))
    assert (result.num_patients, result.num_in_top) == (1000, 50)
    assert [(one.attribute, one.group) for one in result.groups] == [("kind", "common"), ("kind", "rare")]
    for one in result.groups:
        inside = group == one.group
        assert one.reportable
        assert one.num_patients == inside.sum()
        assert one.share == pytest.approx(inside.mean())
        assert one.num_in_top == pytest.approx(weight[inside].sum())
        assert one.share_in_top == pytest.approx(weight[inside].sum() / 50)
        in_strata = sum(weight[strata == s].mean() * (inside & (strata == s)).sum() for s in ("sick", "healthy"))
        for excess, expected in ((one.excess, 50 * inside.mean()), (one.excess_in_strata, in_strata)):
            assert excess.expected == pytest.approx(expected)
            assert excess.relative_change == pytest.approx(one.num_in_top / expected - 1)
            assert excess.pearson_residual == pytest.approx((one.num_in_top - expected) / math.sqrt(expected))
            assert excess.p <= excess.p_holm
        assert one.relative_change.value == pytest.approx(one.share_in_top / one.share - 1)
        assert one.relative_change.low < one.relative_change.value < one.relative_change.high
        assert one.higher.value == pytest.approx(audit_oracles.auc(risk[inside], risk[~inside]))
        assert one.higher.value == pytest.approx(auc(risk, inside))
    for now, then in zip((risk, group, strata), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_p_values_are_those_of_the_hypergeometric_distribution():
    risk, group, rng = cohort(1500, 1, shift=0.4)
    result = subgroup_risk(risk, {"kind": group}, rng, num_permutations=5000, num_resamples=20)
    rare = result.groups[1]
    chance = stats.hypergeom(1500, rare.num_patients, 15)
    counts = np.arange(16)
    as_far = np.abs(counts - chance.mean()) >= abs(rare.num_in_top - chance.mean()) - 1e-9
    assert rare.excess.p == pytest.approx(chance.pmf(counts)[as_far].sum(), abs=0.02)
    assert result.groups[0].excess.p == rare.excess.p
    assert rare.excess.p_holm == pytest.approx(min(1.0, 2 * rare.excess.p))


def test_small_groups_are_flagged_and_kept():
    risk, _, rng = cohort(500, 2)
    group = np.array(["a"] * 250 + ["b"] * 240 + ["tiny"] * 9 + ["one"])
    result = subgroup_risk(risk, {"g": group}, rng, strata_P=group, **FEW)
    flagged = {one.group: one for one in result.groups if not one.reportable}
    assert {name: one.num_patients for name, one in flagged.items()} == {"tiny": 9, "one": 1}
    for one in flagged.values():
        numbers = [one.share, one.share_in_top, one.num_in_top, one.excess.p, one.excess.p_holm, one.higher.value]
        assert np.isnan([*numbers, one.relative_change.low, one.excess_in_strata.expected]).all()
    p = [one.excess.p for one in result.groups if one.reportable]
    adjusted = [one.excess.p_holm for one in result.groups if one.reportable]
    np.testing.assert_allclose(adjusted, audit_oracles.holm(p))
    assert all(one.reportable for one in subgroup_risk(risk, {"g": group}, rng, min_size=1, **FEW).groups)


def test_patients_without_a_risk_are_left_out():
    risk, group, _ = cohort(300, 3)
    risk[:50] = np.nan
    whole = subgroup_risk(risk, {"g": group}, np.random.default_rng(0), **FEW)
    kept = subgroup_risk(risk[50:], {"g": group[50:]}, np.random.default_rng(0), **FEW)
    assert whole.groups == kept.groups
    assert whole.num_patients == 250


def test_a_case_mix_is_told_from_a_group_effect():
    """Group b is sicker and the sick are exposed; given the diagnosis the group does not matter."""
    rng = np.random.default_rng(4)
    b = rng.random(20_000) < 0.3
    sick = rng.random(20_000) < np.where(b, 0.6, 0.2)
    result = subgroup_risk(
        rng.normal(size=20_000) + 1.0 * sick, {"g": np.where(b, "b", "a")}, rng, strata_P=sick, **FEW
    )
    group = result.groups[1]
    assert group.excess.p == 1 / 200
    assert group.excess.relative_change > 0.4
    assert group.excess_in_strata.p > 0.05
    assert abs(group.excess_in_strata.relative_change) < 0.15


def test_size_against_residual():
    rng = np.random.default_rng(5)
    sizes = [4000, 2000, 1000, 500, 250, 120]
    code = np.repeat(np.arange(6), sizes)
    noise = rng.normal(size=code.size)
    exposed = subgroup_risk(noise + 0.35 * code, {"g": code}, rng, top_fraction=0.05, **FEW)
    assert exposed.size_correlation < -0.8
    assert exposed.size_p <= 0.02
    p_values = [
        subgroup_risk(rng.normal(size=code.size), {"g": code}, rng, num_permutations=99, num_resamples=20).size_p
        for _ in range(60)
    ]
    assert np.mean(np.array(p_values) <= 0.1) < 0.25
    assert np.isnan(subgroup_risk(noise, {"g": code > 0}, rng, **FEW).size_correlation)


def test_false_alarms_stay_at_the_level():
    """No group effect, three attributes with 9 groups, ties: any p (Holm) at 0.05 in at most about 5% of cohorts."""
    alarms, single = 0, []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        groups = {
            "sex": rng.choice(["f", "m"], 800),
            "age": rng.choice(list("abcd"), 800, p=[0.5, 0.3, 0.15, 0.05]),
            "site": rng.choice(list("xyz"), 800),
        }
        risk = np.round(rng.normal(size=800), 1)
        result = subgroup_risk(risk, groups, rng, top_fraction=0.02, num_permutations=199, num_resamples=20)
        alarms += any(one.excess.p_holm <= 0.05 for one in result.groups if one.reportable)
        single += [one.excess.p for one in result.groups if one.reportable]
    assert alarms / 120 < 0.11  # binomial(120, 0.05) exceeds 13 with probability 0.004
    assert np.mean(np.array(single) <= 0.05) < 0.06


def coverage(num_patients, share, shift, top, runs):
    def excess_beyond(cut):
        return (1 - share) * stats.norm.sf(cut) + share * stats.norm.sf(cut - shift) - top

    cut = brentq(excess_beyond, -9, 9)
    truth = [stats.norm.sf(cut) / top - 1, stats.norm.sf(cut - shift) / top - 1, stats.norm.cdf(shift / 2**0.5)]
    hits = []
    for seed in range(runs):
        risk, group, rng = cohort(num_patients, seed, shift, share)
        common, rare = subgroup_risk(
            risk, {"g": group}, rng, top_fraction=top, num_permutations=20, num_resamples=200
        ).groups
        intervals = (common.relative_change, rare.relative_change, rare.higher)
        hits.append([one.low <= t <= one.high for one, t in zip(intervals, truth, strict=True)])
    return np.mean(hits, axis=0)


def test_intervals_cover():
    assert (coverage(2000, 0.1, 0.7, 0.01, 150) > 0.90).all()  # 0.95 less 3 standard errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_patients", "share", "shift", "top"),
    [
        (1000, 0.1, 0.7, 0.01),
        (3000, 0.5, 0.5, 0.01),
        (3000, 0.9, 0.5, 0.01),
        (3000, 0.02, 1.0, 0.01),
        (5000, 0.3, 0, 0.05),
    ],
)
def test_intervals_cover_in_many_designs(num_patients, share, shift, top):
    found = coverage(num_patients, share, shift, top, 600)
    assert (found > 0.925).all(), found
    assert (found < 0.99).all(), found


def test_utility_stands_beside_risk():
    groups = {"sex": np.array(list("fffmmmmm")), "age": np.array(list("oyoyoyoy"))}
    asked = []

    def measure(inside):
        asked.append(inside.tolist())
        return None if inside[0] else Interval(inside.sum() / 8, 0.0, 1.0)

    found = group_utility(groups, 8, measure, min_size=4)
    assert [(one.group, one.num_patients, one.reportable, one.utility.estimable) for one in found] == [
        ("f", 3, False, False),
        ("m", 5, True, True),
        ("o", 4, True, False),
        ("y", 4, True, True),
    ]
    assert len(asked) == 3
    assert asked[0] == (groups["sex"] == "m").tolist()
    assert found[1].utility.value == 5 / 8


def test_intervals():
    assert jeffreys_interval(0, 300).low == 0.0
    assert jeffreys_interval(0, 300).high == pytest.approx(0.0083, abs=2e-4)
    assert jeffreys_interval(20, 20).high == 1.0
    np.testing.assert_allclose(
        [jeffreys_interval(5, 20).low, jeffreys_interval(5, 20).high], stats.beta(5.5, 15.5).ppf([0.025, 0.975])
    )
    with pytest.raises(ValueError, match="count=3"):
        jeffreys_interval(3, 2)
    assert normal_interval(1.0, 2.0).high == pytest.approx(1.0 + 1.959964 * 2.0)
    assert normal_interval(1.0, 2.0, df=3).low == pytest.approx(1.0 - 3.182446 * 2.0)
    area = area_interval(0.99, 0.02)
    assert 0.0 < area.low < 0.99 < area.high < 1.0
    assert area_interval(1.0, 0.1) == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": {"g": ["a"]}}, r"groups\['g'\]"),
        ({"strata_P": [1, 2]}, "strata.shape"),
        ({"min_size": 0}, "min_size=0"),
        ({"num_permutations": 5}, "num_permutations=5"),
        ({"num_resamples": 5}, "num_resamples=5"),
        ({"top_fraction": 1.0}, "top_fraction=1.0"),
        ({"risk_P": [np.nan] * 4}, "no number"),
        ({"risk_P": [[0.1] * 4]}, "risk.shape"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    arguments = {"risk_P": [0.1, 0.2, 0.3, 0.4], "groups": {"g": list("abab")}} | change
    with pytest.raises(ValueError, match=words):
        subgroup_risk(arguments.pop("risk_P"), arguments.pop("groups"), np.random.default_rng(0), **arguments)
