import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.audit.groups import coded_groups
from dptrain.audit.top_share import (
    bootstrap_rates,
    expected_sums,
    group_sums,
    holm,
    num_in_top,
    permuted_sums,
    top_weights,
    two_sided_p,
)
from tests.oracles import audit_oracles


@settings(max_examples=60, deadline=None)
@given(risk=st.lists(st.integers(0, 6), min_size=1, max_size=30), data=st.data())
def test_the_top_holds_its_number_whatever_the_ties(risk, data):
    num_top = data.draw(st.integers(1, len(risk)))
    weights = top_weights(np.array(risk, float), num_top)
    np.testing.assert_allclose(weights, audit_oracles.top_weights(risk, num_top), atol=1e-12)
    assert weights.sum() == pytest.approx(num_top)
    order = data.draw(st.permutations(range(len(risk))))
    np.testing.assert_allclose(top_weights(np.array(risk, float)[order], num_top), weights[order])


def test_size_of_the_top():
    assert [num_in_top(n, 0.01) for n in (1, 99, 100, 101, 20_000)] == [1, 1, 1, 2, 200]
    assert num_in_top(300, 0.07) == 21  # 0.07 * 300 is 21.000000000000004
    for fraction, size in ((0.0, 5), (1.0, 5), (0.1, 0)):
        with pytest.raises(ValueError, match="top_fraction="):
            num_in_top(size, fraction)


@settings(max_examples=50, deadline=None)
@given(p_values=st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=12))
def test_holm_equals_the_slow_twin(p_values):
    np.testing.assert_allclose(holm(p_values), audit_oracles.holm(p_values))


@pytest.mark.parametrize("strata", [[0] * 9, [0, 0, 0, 0, 1, 1, 1, 1, 1]])
def test_permutation_p_is_that_of_all_permutations(strata):
    values = np.array([1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 1.0, -0.7, 0.0])
    label = np.array(list("aababbaac"))
    groups, stratum = coded_groups({"x": label, "y": label[::-1]}, 9), np.array(strata)
    permuted = permuted_sums(groups, values, stratum, 20_000, np.random.default_rng(0))
    found = two_sided_p(group_sums(groups, values), expected_sums(groups, values, stratum), permuted)
    for place, (attribute, group) in enumerate(groups.names):
        inside = (label if attribute == "x" else label[::-1]) == group
        assert group_sums(groups, values)[place] == pytest.approx(values[inside].sum())
        assert found[place] == pytest.approx(audit_oracles.all_permutations_p(values, inside, strata), abs=0.015)
    np.testing.assert_allclose(permuted.mean(axis=0), expected_sums(groups, values, stratum), atol=0.03)
    # Labels of a patient stay together: sums over the groups of an attribute are those of all patients.
    np.testing.assert_allclose(permuted[:, :3].sum(axis=1), values.sum(), atol=1e-12)


def test_bootstrap_equals_drawing_patients():
    """Same means and spreads as drawing patients with replacement and choosing the top again, two risks together."""
    rng = np.random.default_rng(1)
    code = rng.integers(0, 3, 400)
    one = np.round(rng.normal(size=400) + 0.5 * (code == 2), 1)
    two = np.round(one + rng.normal(size=400), 1)
    fast = bootstrap_rates([one, two], code, 20, 3000, rng)
    slow = np.empty((2, 2, 3000, 3))
    for resample in range(3000):
        who = rng.integers(0, 400, 400)
        for place, risk in enumerate((one, two)):
            weights = top_weights(risk[who], 20)
            for group in range(3):
                inside = code[who] == group
                slow[place, :, resample, group] = weights[inside].mean(), weights[~inside].mean()
    np.testing.assert_allclose(fast.mean(axis=2), slow.mean(axis=2), atol=0.002)
    np.testing.assert_allclose(fast.std(axis=2), slow.std(axis=2), rtol=0.08)
    difference = (fast[0] - fast[1]).std(axis=1), (slow[0] - slow[1]).std(axis=1)
    np.testing.assert_allclose(*difference, rtol=0.08)


def test_bootstrap_in_pieces_and_with_everybody_tied(monkeypatch):
    code = np.array([0, 1, 1, 0, 1])
    monkeypatch.setattr("dptrain.audit.top_share._DRAWN_VALUES", 10)
    rates = bootstrap_rates([np.ones(5)], code, 2, 50, np.random.default_rng(2))
    assert rates.shape == (1, 2, 50, 2)
    drawn = rates[0, 0, :, 0] > 0.0
    np.testing.assert_allclose(rates[0, 0, drawn, 0], 0.4)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"(?s)groups\['a'\].*groups\['b'\]"):
        coded_groups({"a": ["x"], "b": [["x"]]}, 2)
    with pytest.raises(ValueError, match="at least one attribute"):
        coded_groups({}, 2)
