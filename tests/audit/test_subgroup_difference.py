import numpy as np
import pytest
from scipy import stats

from dptrain.audit.groups import coded_groups
from dptrain.audit.subgroup_difference import permutation_p, subgroup_differences
from dptrain.audit.subgroups import subgroup_risk
from tests.oracles import audit_oracles

FEW = {"num_permutations": 199, "num_resamples": 100}


def arms(num_patients, seed, shift_a=0.6, shift_b=0.0, share=0.2):
    rng = np.random.default_rng(seed)
    rare = rng.random(num_patients) < share
    own = rng.normal(size=num_patients)
    a, b = (0.8 * own + 0.6 * rng.normal(size=num_patients) + shift * rare for shift in (shift_a, shift_b))
    return a, b, np.where(rare, "rare", "common"), rng


def test_figures_are_the_plain_ones():
    a, b, group, rng = arms(800, 0)
    before = a.copy(), b.copy()
    found = subgroup_differences(a, b, {"g": group}, rng, top_fraction=0.05, **FEW)
    in_a, in_b = (subgroup_risk(risk, {"g": group}, rng, top_fraction=0.05, **FEW).groups for risk in (a, b))
    for place, one in enumerate(found):
        inside = group == one.group
        fall = a - b
        assert one.fall.value == pytest.approx(fall[inside].mean())
        assert one.against_others.value == pytest.approx(fall[inside].mean() - fall[~inside].mean())
        test = stats.ttest_ind(fall[inside], fall[~inside], equal_var=False).confidence_interval(0.95)
        assert (one.against_others.low, one.against_others.high) == pytest.approx((test.low, test.high))
        change = in_a[place].relative_change.value - in_b[place].relative_change.value
        assert one.relative_change.value == pytest.approx(change)
        assert one.relative_change.low < change < one.relative_change.high
    rare = found[1]
    assert rare.fall.low > 0.4
    assert rare.against_others_p < 1e-6
    assert rare.against_others_p_holm == pytest.approx(2 * rare.against_others_p)
    assert rare.relative_change_p <= 0.02
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def test_swapping_the_arms_changes_the_sign():
    a, b, group, _ = arms(500, 1)
    one, two = (
        subgroup_differences(*pair, {"g": group}, np.random.default_rng(0), **FEW)[1] for pair in ((a, b), (b, a))
    )
    for name in ("fall", "against_others", "relative_change"):
        first, second = getattr(one, name), getattr(two, name)
        assert first.value == pytest.approx(-second.value)
    assert one.fall.low == pytest.approx(-two.fall.high)
    same = subgroup_differences(a, a, {"g": group}, np.random.default_rng(0), **FEW)[1]
    assert (same.fall.low, same.fall.high) == (0.0, 0.0)
    assert (same.against_others_p, same.relative_change_p) == (1.0, 1.0)
    assert same.relative_change.low < 0.0 < same.relative_change.high  # nobody moved is not certainty


@pytest.mark.parametrize("strata", [[0] * 12, [0] * 5 + [1] * 7])
def test_permutation_p_is_close_to_that_of_all_permutations(strata):
    rng = np.random.default_rng(2)
    group = np.array(list("aabbabbabaab"))
    stratum = np.array(strata)
    for _ in range(5):
        values = rng.normal(size=12)
        found = permutation_p(coded_groups({"g": group}, 12), values, stratum)
        exact = audit_oracles.all_permutations_p(values, group == "a", strata)
        assert found == pytest.approx([exact, exact], abs=0.06)


def test_level_with_small_groups_and_heavy_tails():
    """Groups of 10 among 400, risks that fall for a few patients only: the normal shape is good enough."""
    p_values, top = [], []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        group = rng.permutation(np.repeat(["small", "big"], [10, 390]))
        fall = np.where(rng.random(400) < 0.15, rng.gamma(2.0, 0.1, 400), 0.0) + 0.05 * rng.normal(size=400)
        found = subgroup_differences(fall, np.zeros(400), {"g": group}, rng, num_permutations=99, num_resamples=20)
        p_values.append(found[1].against_others_p)
        top.append(found[1].relative_change_p)
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09
    assert np.mean(np.array(top) <= 0.05) < 0.09


def coverage(runs, num_patients, shift_a, shift_b, share):
    rows = []
    for seed in range(runs):
        a, b, group, rng = arms(num_patients, seed, shift_a, shift_b, share)
        common, rare = subgroup_differences(a, b, {"g": group}, rng, num_permutations=20, num_resamples=200)
        parts = (rare.fall, rare.against_others, rare.relative_change, common.relative_change)
        rows.append([(one.value, one.low, one.high) for one in parts])
    rows = np.array(rows)
    truth = rows[:, :, 0].mean(axis=0)
    truth[:2] = shift_a - shift_b
    return ((rows[:, :, 1] <= truth) & (truth <= rows[:, :, 2])).mean(axis=0)


def test_intervals_cover():
    assert (coverage(150, 2000, 0.7, 0.3, 0.2) > 0.90).all()  # 0.95 less 3 standard errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift_a", "shift_b", "share"), [(0.7, 0.3, 0.1), (0.5, 0.2, 0.5), (0.0, 0.0, 0.3), (0.5, 0.0, 0.9)]
)
def test_intervals_cover_in_many_designs(shift_a, shift_b, share):
    found = coverage(500, 3000, shift_a, shift_b, share)
    assert (found > 0.925).all(), found
    assert (found < 0.985).all(), found


def test_small_groups_and_missing_risks():
    a, b, group, rng = arms(400, 3)
    group[:7] = "tiny"
    a[:3], b[10:13] = np.nan, np.nan
    found = {one.group: one for one in subgroup_differences(a, b, {"g": group}, rng, **FEW)}
    assert not found["tiny"].reportable
    assert found["tiny"].num_patients == 4
    assert np.isnan([found["tiny"].fall.value, found["tiny"].against_others_p, found["tiny"].relative_change_p]).all()
    inside = (group == "common") & np.isfinite(a + b)
    assert found["common"].fall.value == pytest.approx((a - b)[inside].mean())
    with pytest.raises(ValueError, match=r"risk.shape=\(399,\)"):
        subgroup_differences(a, b[1:], {"g": group}, rng)
