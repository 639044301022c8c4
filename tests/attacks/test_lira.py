import numpy as np
import pytest
from scipy import special, stats

from dptrain.attacks import find_twins, lira_offline, lira_online, model_units
from dptrain.attacks import moments as moments_module
from dptrain.attacks.gaussian import Moments, predict, tail_score, variance_prior
from dptrain.audit import auc, patient_auc
from tests.oracles import attack_oracles
from tests.oracles.simulate import null_fleet, twin_membership


def mean_auc(scores, membership):
    return np.mean([auc(row, member) for row, member in zip(scores, membership, strict=True)])


def fleet(num_models=12, num_records=30, seed=0, leak=1.0):
    rng = np.random.default_rng(seed)
    signals, membership, _ = null_fleet(num_models, num_records, rng)
    return signals + leak * membership, membership


def independent_coins(num_models, num_records, seed=0):
    rng = np.random.default_rng(seed)
    signals, _, _ = null_fleet(num_models, num_records, rng)
    return signals, rng.random(signals.shape) < 0.5


@pytest.mark.parametrize("variance", ["per_record", "pooled"])
def test_online_equals_the_slow_twin(variance):
    for signals, membership in (fleet(12, 15), independent_coins(20, 12, seed=3)):
        signals = signals + 1e4  # a large common offset must cost no digits
        expected = attack_oracles.lira_online(signals, membership, variance)
        np.testing.assert_allclose(lira_online(signals, membership, variance), expected, rtol=1e-8, atol=1e-9)


def test_shrunk_is_the_student_t_predictive():
    signals, membership = fleet(10, 40)
    scores = lira_online(signals, membership, "shrunk")
    for target in (0, 7):
        models = attack_oracles.references(membership, target)
        groups = [attack_oracles.sides(signals, membership, models, n) for n in range(40)]
        expected = np.zeros((2, 40))
        for side in (0, 1):
            chosen = [g[side] for g in groups]
            count = np.array([len(g) for g in chosen])
            squares = np.array([np.var(g) * len(g) for g in chosen])
            moments = Moments(count, np.array([np.mean(g) for g in chosen]), squares)
            prior = variance_prior(moments.count_N, moments.squares_N, 1.0)
            for n in range(40):
                expected[side, n] = attack_oracles.shrunk_log_density(signals[target, n], chosen[n], *prior)
        np.testing.assert_allclose(scores[target], expected[0] - expected[1], rtol=1e-8, atol=1e-9)


def test_offline_ranks_as_the_one_sided_probability():
    signals, membership = fleet(12, 40)
    scores = lira_offline(signals, membership, "per_record")
    probability = attack_oracles.lira_offline_probability(signals, membership)
    np.testing.assert_allclose(-np.expm1(-scores), probability, rtol=1e-9, atol=1e-12)


def test_offline_does_not_saturate():
    signals, membership = fleet(12, 40)
    signals[0, :2] += [300.0, 600.0]
    assert lira_offline(signals, membership, "per_record")[0, 1] > lira_offline(signals, membership, "per_record")[0, 0]


def test_offline_is_one_sided():
    # Only the far-too-high are members; models sometimes also answer far too low, on non-members.
    rng = np.random.default_rng(4)
    signals, membership, _ = null_fleet(32, 2000, rng)
    spread = signals.std(axis=0)
    signals += membership * 0.5 * spread
    low = ~membership & (rng.random(signals.shape) < 0.1)
    signals -= low * 3.0 * spread
    scores = lira_offline(signals, membership, "per_record")
    density = np.empty_like(signals)
    for target in range(4):
        models = np.array(attack_oracles.references(membership, target))
        out = np.where(membership[models], np.nan, signals[models])
        density[target] = -stats.norm.logpdf(signals[target], np.nanmean(out, axis=0), np.nanstd(out, axis=0))
    one_sided = mean_auc(scores[:4], membership[:4])
    two_sided = mean_auc(density[:4], membership[:4])
    assert one_sided > 0.62
    assert two_sided < one_sided - 0.05


def test_the_twin_must_not_be_a_reference(monkeypatch):
    # Balanced halves: with the twin among the references, the number of IN references is the answer.
    signals, membership, _ = null_fleet(6, 4000, np.random.default_rng(5))
    with_exclusion = mean_auc(lira_online(signals, membership, "per_record"), membership)
    monkeypatch.setattr(moments_module, "find_twins", lambda membership: np.full(len(membership), -1))
    without = mean_auc(lira_online(signals, membership, "per_record"), membership)
    assert abs(with_exclusion - 0.5) < 0.012
    assert without < 0.4


@pytest.mark.parametrize("variance", ["per_record", "pooled", "shrunk"])
@pytest.mark.parametrize("attack", [lira_online, lira_offline])
def test_chance_without_leakage_and_power_with_it(attack, variance):
    rng = np.random.default_rng(6)
    signals, membership, _ = null_fleet(16, 1500, rng)
    spread = signals.std(axis=0)
    assert abs(mean_auc(attack(signals, membership, variance), membership) - 0.5) < 0.012
    leaking = signals + 2.0 * spread * membership
    assert mean_auc(attack(leaking, membership, variance), membership) > 0.75


def test_pooled_variance_is_within_records():
    # Levels of records differ by a thousand times their spread; only the latter may enter.
    rng = np.random.default_rng(7)
    membership = twin_membership(16, 500, rng)
    signals = rng.normal(size=membership.shape) + membership + 1000.0 * rng.normal(size=500)
    scores = lira_online(signals, membership, "pooled")
    shifted = lira_online(signals - signals.mean(axis=0), membership, "pooled")
    np.testing.assert_allclose(scores, shifted, rtol=1e-7, atol=1e-8)
    assert mean_auc(scores, membership) > 0.68


def test_shrinking_beats_own_variance_with_few_references():
    rng = np.random.default_rng(8)
    membership = twin_membership(8, 4000, rng)
    signals = rng.normal(size=membership.shape) + 1.5 * membership
    aucs = {v: mean_auc(lira_online(signals, membership, v), membership) for v in ("per_record", "shrunk")}
    assert aucs["shrunk"] > aucs["per_record"] + 0.02


def test_prior_of_equal_variances_is_strong_and_of_different_ones_weak():
    rng = np.random.default_rng(9)
    count = np.full(4000, 9)

    def moments(true_variance):
        return count, true_variance * rng.chisquare(8, 4000)

    variance, df = variance_prior(*moments(np.full(4000, 2.0)), 2.0)
    assert variance == pytest.approx(2.0, rel=0.03)
    assert df > 100
    variance, df = variance_prior(*moments(2.0 * 5.0 / rng.chisquare(5, 4000)), 2.0)
    assert df == pytest.approx(5.0, rel=0.2)
    assert variance == pytest.approx(2.0, rel=0.1)


def test_student_tail_is_close_to_exact_and_rising():
    z = np.linspace(-30, 60, 400)
    for df in (4.0, 12.0, 80.0):
        side = predict(Moments(np.array([1]), np.zeros(1), np.zeros(1)), "pooled")
        predictive = type(side)(np.zeros(400), np.ones(400), np.full(400, df), np.ones(400))
        score = tail_score(predictive, z)
        assert (np.diff(score) > 0).all()
        exact = -special.ndtri(np.maximum(stats.t.sf(z, df), 1e-300))
        middle = np.abs(z) < 6
        approximate = -special.ndtri_exp(-score)
        assert np.abs(exact - approximate)[middle].max() < 0.03


@pytest.mark.parametrize("attack", [lira_online, lira_offline])
@pytest.mark.parametrize("variance", ["per_record", "pooled", "shrunk", None])
def test_few_references_degrade_gracefully(attack, variance):
    # Four models in twins leave one IN and one OUT reference.
    signals, membership = fleet(4, 50)
    assert np.isfinite(attack(signals, membership, variance)).all()
    # Independent coins leave records without any IN (or OUT) reference: no evidence.
    signals, membership = independent_coins(6, 20)
    membership[:, 0], membership[:, 1] = True, False
    scores = attack(signals, membership, variance)
    assert np.isfinite(scores).all()
    assert (scores[:, 0] == (0.0 if attack is lira_online else np.log(2.0))).all()
    constant = np.ones((8, 5))
    scores = attack(constant, twin_membership(8, 5, np.random.default_rng(0)), variance)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) == 0.0


def test_targets_select_rows():
    signals, membership = fleet(8, 20)
    whole = lira_online(signals, membership, "shrunk")
    np.testing.assert_array_equal(lira_online(signals, membership, "shrunk", targets=[5, 0]), whole[[5, 0]])
    whole = lira_offline(signals, membership)
    np.testing.assert_array_equal(lira_offline(signals, membership, targets=[3]), whole[[3]])


def test_inputs_are_not_changed():
    signals, membership = fleet()
    before = signals.copy(), membership.copy()
    for attack in (lira_online, lira_offline):
        attack(signals, membership)
    np.testing.assert_array_equal(signals, before[0])
    np.testing.assert_array_equal(membership, before[1])


def test_leave_one_out_pooled_over_models_is_biased_per_patient():
    # STATISTICS.md: right for the ROC of one model, wrong for one patient over models (null mean 0.44).
    signals, membership, _ = null_fleet(64, 1500, np.random.default_rng(10))
    scores = lira_online(signals, membership, "per_record")
    assert abs(mean_auc(scores, membership) - 0.5) < 0.01
    assert patient_auc(scores, membership).mean() == pytest.approx(0.445, abs=0.015)


@pytest.mark.parametrize(
    ("signals", "membership", "words"),
    [
        (np.zeros(3), np.zeros(3, bool), "signals.shape"),
        (np.full((4, 2), np.nan), np.zeros((4, 2), bool), "row 0"),
        (np.zeros((4, 2)), np.zeros((4, 3), bool), "expand_membership"),
        (np.zeros((4, 2)), np.full((4, 2), 0.3), "bool"),
        (np.zeros((2, 2)), np.array([[1, 0], [0, 1]]), "at least 4 models"),
    ],
)
def test_what_does_not_fit_is_refused(signals, membership, words):
    with pytest.raises(ValueError, match=words):
        lira_online(signals, membership)


def test_unknown_variance_and_targets_are_refused():
    signals, membership = fleet(4, 5)
    with pytest.raises(ValueError, match="variance='own'"):
        lira_online(signals, membership, "own")
    with pytest.raises(ValueError, match=r"0\.\.3"):
        lira_online(signals, membership, targets=[4])


def test_twins_are_found_wherever_they_are():
    rng = np.random.default_rng(11)
    rows = twin_membership(6, 40, rng)
    assert find_twins(rows).tolist() == [1, 0, 3, 2, 5, 4]
    order = [0, 4, 2, 1, 5, 3]
    assert find_twins(rows[order]).tolist() == [3, 4, 5, 0, 1, 2]
    assert model_units(rows[order]).tolist() == [0, 1, 2, 0, 1, 2]
    assert find_twins(rng.random((5, 40)) < 0.5).tolist() == [-1] * 5
    assert find_twins(np.vstack([rows[:1], rows[:2]])).tolist() in ([2, -1, 0], [-1, 2, 1])
