import numpy as np
import pytest
from scipy import special

from dptrain.audit import patient_auc
from dptrain.audit.remeasure import remeasure
from tests.oracles import audit_oracles
from tests.oracles.simulate import twin_membership


def draw(seed, num_models=16, num_patients=300, share=0.15):
    rng = np.random.default_rng(seed)
    membership = twin_membership(num_models, num_patients, rng)
    leak = np.where(rng.random(num_patients) < share, rng.gamma(2.0, 1.0, num_patients), 0.0)
    return rng.normal(size=membership.shape) + leak * membership, membership, leak, rng


def test_figures_are_those_of_the_two_halves():
    evidence, membership, _, _ = draw(0)
    evidence = np.round(evidence)  # ties at the cut
    before = evidence.copy(), membership.copy()
    found = remeasure(evidence, membership, np.random.default_rng(5), top_fraction=0.1, num_resamples=20)
    first = np.random.default_rng(5).permutation(np.arange(0, 16, 2))
    models = [np.sort(np.concatenate([half, half + 1])) for half in (first[:4], first[4:])]
    aucs = [np.array(audit_oracles.patient_auc(evidence[m], membership[m])) for m in models]
    assert found.num_picked == 30
    assert found.num_twin_pairs == (4, 4)
    picked, again = [], []
    for (one, other), direction in zip(((0, 1), (1, 0)), found.directions, strict=True):
        weight = np.array(audit_oracles.top_weights(np.round(aucs[one], 12).tolist(), 30))
        np.testing.assert_array_equal(direction.patient_S, np.flatnonzero(weight))
        np.testing.assert_allclose(direction.weight_S, weight[weight > 0])
        np.testing.assert_allclose(direction.picked_auc_S, aucs[one][weight > 0])
        np.testing.assert_allclose(direction.remeasured_auc_S, aucs[other][weight > 0])
        picked.append(weight @ aucs[one] / 30)
        again.append(weight @ aucs[other] / 30)
    assert found.picked == pytest.approx(np.mean(picked))
    assert found.remeasured.value == pytest.approx(np.mean(again))
    assert found.shrinkage == pytest.approx((np.mean(picked) - np.mean(again)) / (np.mean(picked) - 0.5))
    np.testing.assert_array_equal(evidence, before[0])
    np.testing.assert_array_equal(membership, before[1])


def test_without_leakage_all_of_it_was_luck():
    results = []
    for seed in range(80):
        evidence, membership, _, rng = draw(seed, share=0.0)
        found = remeasure(evidence, membership, rng, top_fraction=0.05, num_resamples=20)
        results.append((found.picked, found.remeasured.value))
    picked, again = np.mean(results, axis=0)
    assert picked > 0.9
    # 15 patients, 4 pairs, 2 directions, 80 runs: standard error about 0.004.
    assert again == pytest.approx(0.5, abs=0.012)


def coverage(runs, num_models, share):
    hits, bias = [], []
    for seed in range(runs):
        evidence, membership, leak, rng = draw(seed, num_models, 300, share)
        found = remeasure(evidence, membership, rng, top_fraction=0.05, num_resamples=100)
        truth = np.mean([
            one.weight_S @ special.ndtr(leak[one.patient_S] / 2**0.5) / one.weight_S.sum() for one in found.directions
        ])  # fmt: skip
        hits.append(found.remeasured.low <= truth <= found.remeasured.high)
        bias.append((found.remeasured.value - truth, found.picked - truth))
    return np.mean(hits), np.mean(bias, axis=0)


def test_the_remeasured_auc_is_unbiased_and_its_interval_covers():
    hits, (again, picked) = coverage(150, 32, 0.1)
    assert hits > 0.90  # 0.95 less 3 standard errors
    assert abs(again) < 0.006
    assert picked > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("num_models", "share"), [(16, 0.0), (16, 0.15), (32, 0.05), (64, 0.15)])
def test_the_interval_covers_in_many_designs(num_models, share):
    hits, _ = coverage(500, num_models, share)
    assert 0.925 < hits < 0.985


def test_patients_stay_who_they_are():
    evidence, membership, _, _ = draw(2, 24)
    found = remeasure(evidence, membership, np.random.default_rng(1), num_resamples=20)
    whole = patient_auc(evidence, membership)
    assert whole[found.directions[0].patient_S].mean() > 0.8
    assert {d.patient_S.size for d in found.directions} <= set(range(3, 301))


@pytest.mark.parametrize(
    ("membership", "options", "words"),
    [
        (np.random.default_rng(0).random((8, 5)) < 0.5, {}, "without a twin"),
        (twin_membership(6, 5, np.random.default_rng(0)), {}, "at least 8 models"),
        (twin_membership(8, 5, np.random.default_rng(0)), {"num_resamples": 2}, "num_resamples=2"),
        (twin_membership(8, 5, np.random.default_rng(0)), {"top_fraction": 0.0}, "top_fraction=0.0"),
    ],
)
def test_what_does_not_fit_is_refused(membership, options, words):
    with pytest.raises(ValueError, match=words):
        remeasure(np.zeros(membership.shape), membership, np.random.default_rng(0), **options)
