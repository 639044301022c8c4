import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from dptrain.attacks import lira_offline, reference_means, rmia_offline, rmia_one_reference, rmia_online
from dptrain.attacks.offline_mean import A_WITHOUT_CHOICE, chosen_a
from dptrain.attacks.reference_means import reference_means as means_of
from dptrain.attacks.twins import model_units
from dptrain.audit import auc
from tests.oracles import attack_oracles
from tests.oracles.simulate import twin_membership

ATTACKS = (rmia_online, rmia_offline, rmia_one_reference)


def mean_auc(scores, membership):
    return np.mean([auc(row, member) for row, member in zip(scores, membership, strict=True)])


def fleet(num_models=12, num_records=15, num_population=9, seed=0, leak=1.0):
    """Log-probabilities of the records and of a population, and the memberships; records of their own level, spread."""
    rng = np.random.default_rng(seed)
    membership = twin_membership(num_models, num_records, rng)
    size = num_records + num_population
    signals = 2.0 * rng.normal(size=size) + rng.gamma(4.0, 0.25, size) * rng.normal(size=(num_models, size))
    signals[:, :num_records] += leak * membership
    log_p = special.log_expit(signals)
    return log_p[:, :num_records], membership, log_p[:, num_records:]


def slow(attack, log_p, membership, population):
    if attack is rmia_one_reference:
        return attack_oracles.rmia_one_reference(log_p, membership, population)
    a = None if attack is rmia_online else chosen_a(log_p, membership)
    return attack_oracles.rmia(log_p, membership, population, a)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("num_models", [10, 12])
def test_equals_the_slow_matrix(attack, num_models):
    log_p, membership, population = fleet(num_models)
    ratios = slow(attack, log_p, membership, population)
    np.testing.assert_allclose(attack(log_p, membership, population), np.log(ratios).mean(axis=2), rtol=1e-9, atol=1e-9)
    for gamma in (1.0, 1.7):
        fraction = attack(log_p, membership, population, score="fraction", gamma=gamma)
        np.testing.assert_allclose(fraction, (ratios >= gamma).mean(axis=2), atol=1e-12)


def test_pieces_change_nothing(monkeypatch):
    log_p, membership, population = fleet()
    before = log_p.copy(), membership.copy(), population.copy()
    whole = [attack(log_p, membership, population, score="fraction") for attack in ATTACKS]
    monkeypatch.setattr(reference_means, "_CHUNK_VALUES", 24)
    monkeypatch.setattr("dptrain.attacks.rmia._POPULATION_VALUES", 30)
    for attack, expected in zip(ATTACKS, whole, strict=True):
        np.testing.assert_array_equal(attack(log_p, membership, population, score="fraction"), expected)
        some = attack(log_p, membership, population, score="fraction", targets=[7, 2])
        np.testing.assert_array_equal(some, expected[[7, 2]])
    for now, then in zip((log_p, membership, population), before, strict=True):
        np.testing.assert_array_equal(now, then)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), attack=st.sampled_from(ATTACKS))
def test_invariances(seed, attack):
    """Order of records, of population and of units is of no account; nor is anything that the target does elsewhere."""
    log_p, membership, population = fleet(8, 10, 6, seed)
    rng = np.random.default_rng(seed)
    options = {} if attack is rmia_online else {"a": 0.6}
    scores = attack(log_p, membership, population, **options)
    order, order_z = rng.permutation(10), rng.permutation(6)
    np.testing.assert_allclose(
        attack(log_p[:, order], membership[:, order], population[:, order_z], **options),
        scores[:, order],
        rtol=1e-9,
        atol=1e-10,
    )
    rotated = np.roll(np.arange(8), 2)
    np.testing.assert_allclose(
        attack(log_p[rotated], membership[rotated], population[rotated], **options),
        scores[rotated],
        rtol=1e-9,
        atol=1e-10,
    )
    # The twin's answers and both memberships are not used; the score rises with the target's own probability.
    changed, flipped = log_p.copy(), membership.copy()
    changed[1] = np.log(rng.random(10))
    flipped[:2] = ~flipped[:2]
    np.testing.assert_allclose(attack(changed, flipped, population, **options)[0], scores[0], rtol=1e-9, atol=1e-12)
    raised = log_p.copy()
    raised[0, 3] /= 2.0
    higher = attack(raised, membership, population, **options)[0]
    assert higher[3] > scores[0, 3]
    np.testing.assert_allclose(np.delete(higher, 3), np.delete(scores[0], 3), rtol=1e-9, atol=1e-12)
    # The same more likely population lowers all scores by the same and leaves their order.
    assert np.ptp(attack(log_p, membership, population * [[0.5], *[[1.0]] * 7], **options)[0] - scores[0]) < 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gamma=st.floats(0.2, 5.0))
def test_the_fraction_is_a_rising_step_function_of_the_log_ratio(seed, gamma):
    log_p, membership, population = fleet(8, 30, 7, seed)
    for attack in ATTACKS:
        ratio = attack(log_p, membership, population)
        fraction = attack(log_p, membership, population, score="fraction", gamma=gamma)
        assert np.isin(np.rint(fraction * 7), np.arange(8)).all()
        for row, steps in zip(ratio, fraction, strict=True):
            assert (np.diff(steps[np.argsort(row)]) >= 0).all()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("score", ["log_ratio", "fraction"])
def test_chance_without_leakage_and_power_with_it(attack, score):
    log_p, membership, population = fleet(16, 3000, 200, seed=1, leak=0.0)
    # 16 targets of 3000 records: the standard error of the mean AUC is about 0.0035 (targets share references).
    assert abs(mean_auc(attack(log_p, membership, population, score=score), membership) - 0.5) < 0.011
    log_p, membership, population = fleet(16, 1500, 200, seed=2, leak=2.0)
    plain = mean_auc(log_p, membership)
    assert mean_auc(attack(log_p, membership, population, score=score), membership) > plain + 0.05


def test_all_equal_answers_tie():
    """All models certain, or all alike: every record counts as an average population record."""
    membership = twin_membership(8, 20, np.random.default_rng(4))
    for value in (0.0, -0.7, -800.0):
        same, population = np.full((8, 20), value), np.full((8, 5), value)
        online = rmia_online(same, membership, population)
        offline = rmia_offline(same, membership, population)
        np.testing.assert_allclose(online, 0.0, atol=1e-12)
        np.testing.assert_allclose(offline, 0.0, atol=1e-12)
        assert (np.ptp(online, axis=1) == 0.0).all()
    certain = rmia_online(np.zeros((8, 20)), membership, np.zeros((8, 5)), score="fraction")
    assert (certain == 1.0).all()  # a ratio of exactly gamma counts


def test_ties_between_records_stay_ties():
    log_p, membership, population = fleet(8, 12)
    log_p = np.hstack([log_p, log_p])
    membership = np.hstack([membership, membership])
    for attack in ATTACKS:
        scores = attack(log_p, membership, population)
        np.testing.assert_array_equal(scores[:, :12], scores[:, 12:])


def test_tiny_references_beside_a_certain_target_keep_their_digits():
    """The target is sure, its OUT references have 1e-20 to 1e-40: subtracting from a running sum would leave noise."""
    membership = twin_membership(8, 200, np.random.default_rng(5))
    rng = np.random.default_rng(6)
    log_p = np.where(membership, -1e-3, -np.log(10.0) * rng.uniform(20, 40, membership.shape))
    log_p[0] = -1e-6
    units = model_units(membership)
    found = np.concatenate([m.log_out_UC[0] for m in means_of(log_p, membership, units)])
    outside = np.where(membership[2:], 0.0, np.exp(log_p[2:])).sum(axis=0)
    count = (~membership[2:]).sum(axis=0)
    some = count > 0
    np.testing.assert_allclose(found[some], np.log(outside[some] / count[some]), rtol=1e-13)
    assert (found[~some] == -np.inf).all()


def test_records_without_references_are_average():
    log_p, _, population = fleet(8, 12)
    membership = np.random.default_rng(7).random(log_p.shape) < 0.5
    membership[:, 0], membership[:, 1] = True, False
    online, offline = (attack(log_p, membership, population) for attack in (rmia_online, rmia_offline))
    assert np.isfinite(online).all()
    assert np.isfinite(offline).all()
    assert (online[:, :2] == 0.0).all()
    assert (offline[:, 0] == 0.0).all()
    assert (offline[:, 1] != 0.0).all()


def test_a_is_chosen_without_the_target_and_its_set():
    log_p, membership, _ = fleet(16, 400, leak=2.0)
    a = chosen_a(log_p, membership)
    assert (a[0::4] == a[0]).all()
    for target in (0, 3):
        changed = log_p.copy()
        same_set = np.flatnonzero((np.arange(16) // 2) % 2 == (target // 2) % 2)
        changed[same_set] = np.log(np.random.default_rng(8).random((same_set.size, 400)))
        assert chosen_a(changed, membership)[target] == a[target]
    assert (chosen_a(log_p[:6], membership[:6]) == A_WITHOUT_CHOICE).all()


def test_a_follows_how_much_models_memorise():
    """Where members are certain, a near 0 is right; where models answer alike, a = 1 (the plain mean of OUT) is."""
    log_p, membership, population = fleet(32, 2000, seed=9, leak=0.3)
    weak = chosen_a(log_p, membership).mean()
    strong_log_p, strong_membership, _ = fleet(32, 2000, seed=9, leak=6.0)
    strong = chosen_a(strong_log_p, strong_membership).mean()
    assert strong < 0.5 < weak
    best = mean_auc(rmia_offline(log_p, membership, population), membership)
    for a in (0.0, 0.5, 1.0):
        assert best > mean_auc(rmia_offline(log_p, membership, population, a=a), membership) - 0.003


def test_online_uses_what_offline_cannot_see_and_one_reference_is_weakest():
    log_p, membership, population = fleet(32, 2000, seed=10, leak=1.5)
    power = [mean_auc(attack(log_p, membership, population), membership) for attack in ATTACKS]
    assert power[0] > power[1] > power[2] > 0.65
    signals = log_p - special.log1p(-np.exp(log_p))
    assert abs(power[1] - mean_auc(lira_offline(signals, membership), membership)) < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_p": np.full((8, 5), 0.5)}, "at most 0"),
        ({"log_p": np.full((8, 5), np.nan)}, "row 0"),
        ({"population": np.zeros((7, 4))}, r"\(8, Z\)"),
        ({"membership": np.zeros((8, 4), bool)}, "membership.shape"),
        ({"score": "ratio"}, "log_ratio, fraction"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"targets": [8]}, r"0\.\.7"),
        ({"a": 1.5}, "a=1.5"),
        ({"log_p": -np.ones((2, 5)), "membership": np.eye(2, 5) > 0, "population": -np.ones((2, 3))}, None),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    log_p, membership, population = fleet(8, 5, 4)
    arrays = {"log_p": log_p, "membership": membership, "population": population} | {
        name: change[name] for name in ("log_p", "membership", "population") if name in change
    }
    options = {name: value for name, value in change.items() if name not in arrays}
    if words is None:
        arrays["membership"][1] = ~arrays["membership"][0]
        words = "at least 4 models"
    with pytest.raises(ValueError, match=words):
        rmia_offline(arrays["log_p"], arrays["membership"], arrays["population"], **options)


def test_problems_are_collected():
    log_p, membership, _ = fleet(8, 5, 4)
    with pytest.raises(ValueError, match=r"(?s)\(8, Z\).*score='x'.*gamma=-1"):
        rmia_online(log_p, membership, np.zeros((3, 2)), score="x", gamma=-1)
