import numpy as np
import pytest
from scipy import special

from dptrain.attacks import (
    ATTACKS,
    attack_named,
    default_attack,
    expand_membership,
    max_over_records,
    sum_over_records,
    threshold_scores,
)
from tests.oracles import attack_oracles
from tests.oracles.simulate import null_fleet


@pytest.mark.parametrize("name", list(ATTACKS))
class TestEveryAttack:
    """The contract of the protocol."""

    def draw(self, leak=0.0):
        signals, membership, patient = null_fleet(12, 400, np.random.default_rng(0), records=2)
        members = expand_membership(membership, patient)
        return signals + leak * signals.std(axis=0) * members, members

    def run(self, name, log_odds, members, targets=None):
        """The attack on what it wants to be given."""
        attack = ATTACKS[name]
        population = 3.0 * np.random.default_rng(1).normal(size=(len(log_odds), 50))
        log_probability = attack.signal == "log_probability"
        signals, population = (
            special.log_expit(values) if log_probability else values for values in (log_odds, population)
        )
        before = signals.copy(), population.copy()
        scores = attack.function(signals, members, targets=targets, population_MZ=population)
        np.testing.assert_array_equal(signals, before[0])
        np.testing.assert_array_equal(population, before[1])
        kept = scores.copy()
        scores[:] = 7.0
        np.testing.assert_array_equal(signals, before[0])
        return kept

    def test_gives_a_finite_score_to_every_target_and_record(self, name):
        signals, members = self.draw()
        attack = ATTACKS[name]
        assert attack.name == name
        assert len(attack.description) > 20
        scores = self.run(name, signals, members)
        assert scores.shape == signals.shape
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(self.run(name, signals, members, [3]), scores[[3]])

    def test_higher_means_member(self, name):
        signals, members = self.draw(leak=2.0)
        signals = signals - signals.mean(axis=0) if name == "threshold" else signals
        scores = self.run(name, signals, members)
        assert scores[members].mean() > scores[~members].mean()

    def test_leaves_its_inputs_alone_and_aliases_nothing(self, name):
        signals, members = self.draw()
        before = members.copy()
        self.run(name, signals, members)
        np.testing.assert_array_equal(members, before)

    def test_does_not_depend_on_the_target_own_membership(self, name):
        signals, members = self.draw()
        scores = self.run(name, signals, members)
        flipped = members.copy()
        flipped[4:6] = ~flipped[4:6]  # the target and its twin swap places
        np.testing.assert_allclose(self.run(name, signals, flipped)[4], scores[4], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.needs_population])
def test_a_missing_population_is_said(name):
    with pytest.raises(ValueError, match=f"attack='{name}' needs population_MZ"):
        ATTACKS[name].function(np.full((4, 2), -1.0), np.zeros((4, 2), bool))


def test_names_and_defaults():
    assert default_attack(64).name == "lira_online_shrunk"
    assert default_attack(66).name == "lira_online"
    assert default_attack(2).name == "threshold"
    assert attack_named("lira_offline", "pooled").name == "lira_offline_pooled"
    assert attack_named("lira_online").name == attack_named("lira_online", "per_record").name
    for name, variance in (("lire", None), ("threshold", "pooled"), ("lira_online", "own"), ("rmia_online", "pooled")):
        with pytest.raises(ValueError, match="unknown"):
            attack_named(name, variance)
    with pytest.raises(ValueError, match="num_models=0"):
        default_attack(0)


def test_threshold_is_a_copy_of_the_signal():
    signals = np.arange(6.0).reshape(2, 3)
    scores = threshold_scores(signals, targets=[1])
    assert scores.tolist() == [[3.0, 4.0, 5.0]]
    scores[:] = 0
    assert signals[1, 0] == 3.0


def test_records_are_gathered_by_patient():
    rng = np.random.default_rng(1)
    patient = np.concatenate([np.arange(7), rng.integers(0, 7, 20)])
    rng.shuffle(patient)
    scores = rng.normal(size=(3, patient.size))
    for gather, how in ((sum_over_records, sum), (max_over_records, max)):
        expected = [attack_oracles.gather(row, patient, 7, how) for row in scores]
        np.testing.assert_allclose(gather(scores, patient, 7), expected, rtol=1e-12, atol=1e-12)
    membership = rng.random((3, 7)) < 0.5
    expected = [[membership[m][p] for p in patient] for m in range(3)]
    np.testing.assert_array_equal(expand_membership(membership, patient), expected)


def test_patients_that_do_not_fit_are_refused():
    scores = np.zeros((2, 3))
    for patient, words in (
        ([0, 1], "shape"),
        ([0, 1, 2], r"0\.\.1"),
        ([0, 0, 0], "no record"),
        ([0, 1, -1], r"0\.\.1"),
    ):
        with pytest.raises(ValueError, match=words):
            sum_over_records(scores, patient, 2)
    with pytest.raises(ValueError, match="bool"):
        expand_membership(np.zeros((2, 3)), [0, 1])
    with pytest.raises(ValueError, match=r"0\.\.2"):
        expand_membership(np.zeros((2, 3), bool), [0, 3])
