"""Scores piece by piece are the scores; several signals of a record make one score."""

import numpy as np
import pytest

from dptrain.attacks import ATTACKS, moments, reference_means
from dptrain.attacks.patient import add_pieces, max_of_pieces, max_over_records, sum_over_records
from dptrain.attacks.views import scores_over_views
from tests.oracles.simulate import twin_membership


def draw(name, num_models=10, num_patients=25, dtype=np.float64):
    rng = np.random.default_rng(4)
    patient = rng.permutation(np.concatenate([np.arange(num_patients), rng.integers(0, num_patients, 15)]))
    membership = twin_membership(num_models, num_patients, rng)[:, patient]
    signals = rng.normal(size=membership.shape) + membership
    population = rng.normal(size=(num_models, 30))
    if ATTACKS[name].signal == "log_probability":
        signals, population = -np.logaddexp(0.0, -signals), -np.logaddexp(0.0, -population)
    return signals.astype(dtype), membership, population.astype(dtype), patient


@pytest.mark.parametrize("name", ATTACKS)
def test_pieces_add_up_to_the_scores_of_patients(name, monkeypatch):
    monkeypatch.setattr(moments, "PIECE_RECORDS", 7)
    monkeypatch.setattr(moments.slices, "__defaults__", (7,))
    monkeypatch.setattr(reference_means, "_CHUNK_VALUES", 60)
    signals, membership, population, patient = draw(name)
    given = {"targets": [3, 4, 9], "population_MZ": population}
    whole = ATTACKS[name].function(signals, membership, **given)
    pieces = list(ATTACKS[name].pieces(signals, membership, **given))
    seen = np.zeros(whole.shape, dtype=int)
    for place, records, scores in pieces:
        np.testing.assert_allclose(scores, whole[place, records], rtol=1e-9, atol=1e-10)
        seen[place, records] += 1
    assert (seen == 1).all(), "every target and record once"
    assert len(pieces) > 3 or name in ("threshold", "rmia_one_reference")
    totals = add_pieces(pieces, patient, 3, 25)
    np.testing.assert_allclose(totals, sum_over_records(whole, patient, 25), rtol=1e-9, atol=1e-10)
    largest = max_of_pieces(pieces, patient, 3, 25)
    np.testing.assert_allclose(largest, max_over_records(whole, patient, 25), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ATTACKS)
def test_float32_signals_stay_and_give_nearly_the_same(name):
    signals, membership, population, _ = draw(name, dtype=np.float32)
    before = signals.copy()
    rough = ATTACKS[name].function(signals, membership, population_MZ=population)
    exact = ATTACKS[name].function(signals.astype(float), membership, population_MZ=population.astype(float))
    assert rough.dtype == np.float64
    np.testing.assert_allclose(rough, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(signals, before)


@pytest.mark.parametrize("name", ["threshold", "lira_online_shrunk", "lira_offline", "rmia_online"])
def test_queries_are_attacked_one_by_one_and_averaged(name):
    signals, membership, population, _ = draw(name)
    rng = np.random.default_rng(1)
    views = np.stack([signals, np.minimum(signals + rng.normal(size=signals.shape), 0.0)], axis=2)
    populations = np.stack([population, population - 0.1], axis=2)
    found = scores_over_views(ATTACKS[name], views, membership, "mean", targets=[2], population_MZV=populations)
    alone = [
        ATTACKS[name].function(views[:, :, v], membership, targets=[2], population_MZ=populations[:, :, v])
        for v in (0, 1)
    ]
    np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2.0, rtol=1e-9, atol=1e-10)


def test_labels_add_up_where_they_are_present():
    signals, membership, _, _ = draw("lira_online_shrunk")
    views = np.stack([signals, signals[:, ::-1], signals**2], axis=2)
    views[:, :10, 0] = np.nan
    views[:, 3, :] = np.nan
    attack = ATTACKS["lira_online_shrunk"]
    found = scores_over_views(attack, views, membership, "sum")
    expected = np.zeros(membership.shape)
    for v in range(3):
        known = ~np.isnan(views[0, :, v])
        expected[:, known] += attack.function(views[:, known, v], membership[:, known])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    assert (found[:, 3] == 0.0).all(), "no label, no evidence"


def test_several_independent_labels_tell_more_than_their_sum():
    # One label leaks, the other is louder: the sum of signals drowns what attacking the labels apart hears.
    rng = np.random.default_rng(2)
    membership = twin_membership(32, 400, rng)
    views = np.stack([rng.normal(size=(32, 400)) + membership, 5.0 * rng.normal(size=(32, 400))], axis=2)
    attack = ATTACKS["lira_online_shrunk"]

    def gap(scores):
        return scores[membership].mean() - scores[~membership].mean()

    apart = scores_over_views(attack, views, membership, "sum")
    together = attack.function(views.sum(axis=2), membership)
    assert gap(apart) / apart.std() > gap(together) / together.std() + 0.3


def test_views_that_do_not_fit_are_refused():
    attack, members = ATTACKS["threshold"], np.zeros((4, 3), bool)
    half = np.zeros((4, 3, 2))
    half[0, 0, 0] = np.nan
    for views, combination, words in (
        (np.zeros((4, 3)), "mean", "models, records, views"),
        (np.zeros((4, 3, 2)), "max", "combination='max'"),
        (half, "mean", "in some models only"),
    ):
        with pytest.raises(ValueError, match=words):
            scores_over_views(attack, views, members, combination)
    with pytest.raises(ValueError, match=r"population\.shape"):
        scores_over_views(attack, np.zeros((4, 3, 2)), members, "mean", population_MZV=np.zeros((4, 3, 1)))
