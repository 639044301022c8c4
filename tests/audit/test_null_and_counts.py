import numpy as np
import pytest

from dptrain.audit import (
    adjusted_p_values,
    benjamini_hochberg,
    exposed_counts,
    null_patient_auc,
    patient_auc,
    permuted_memberships,
)
from tests.oracles import audit_oracles
from tests.oracles.simulate import leaky_evidence, twin_membership


def test_null_is_the_distribution_over_all_swaps():
    rng = np.random.default_rng(0)
    membership = twin_membership(10, 1, rng)
    evidence = rng.integers(0, 6, size=(10, 1)).astype(float) + 3.0 * (np.arange(10)[:, None] // 2 == 1)
    exact = audit_oracles.all_swaps_auc(evidence, membership).ravel()
    null = null_patient_auc(evidence, membership, 20_000, rng)
    for threshold in (0.3, 0.5, 0.6, 0.72, 0.8):
        expected = (exact >= threshold - 1e-12).mean()
        assert null.expected_count(threshold) == pytest.approx(expected, abs=0.015)
    assert null.mean.mean == pytest.approx(0.5, abs=0.005)


def test_lookup_of_swaps_equals_recomputing(monkeypatch):
    # The same coins through `patient_auc`: bit h % 8 of byte h // 8 swaps pair h.
    rng = np.random.default_rng(1)
    membership = twin_membership(22, 40, rng)
    evidence = leaky_evidence(membership, rng)
    coins = np.random.default_rng(7).integers(0, 256, size=(2, 40, 5), dtype=np.uint8)
    null = null_patient_auc(evidence, membership, 5, np.random.default_rng(7))
    for permutation in range(5):
        bits = np.unpackbits(coins[:, :, permutation], axis=0, bitorder="little").reshape(16, 40)[:11]
        design = np.empty_like(membership)
        design[0::2], design[1::2] = bits == 0, bits == 1
        risk = patient_auc(evidence, design)
        for threshold in (0.4, 0.5, 0.65):
            assert null.counts(threshold)[permutation] == (risk >= threshold - 1e-9).sum()


def test_permuted_memberships_stay_in_twins_and_move():
    rng = np.random.default_rng(2)
    membership = twin_membership(8, 500, rng)
    before = membership.copy()
    first, second = permuted_memberships(membership, 2, rng)
    np.testing.assert_array_equal(membership, before)
    for permuted in (first, second):
        assert (permuted[0::2] != permuted[1::2]).all()
        assert (permuted != membership).mean() == pytest.approx(0.5, abs=0.05)
    assert (first != second).any()


def test_other_designs_keep_the_number_of_models_per_patient():
    rng = np.random.default_rng(3)
    membership = rng.random((15, 3000)) < 0.4
    membership[:, 0] = True
    permuted = next(permuted_memberships(membership, 1, rng))
    np.testing.assert_array_equal(permuted.sum(axis=0), membership.sum(axis=0))
    evidence = rng.normal(size=membership.shape)
    null = null_patient_auc(evidence, membership, 30, rng)
    risk = patient_auc(evidence, membership)
    assert null.num_patients == 2999 == np.isfinite(risk).sum()
    assert null.mean.mean == pytest.approx(0.5, abs=0.003)
    for threshold in (0.6, 0.8):
        assert (risk >= threshold).sum() == pytest.approx(null.expected_count(threshold), rel=0.2)


@pytest.mark.parametrize(("num_models", "tail"), [(16, 1.9e-2), (32, 1.4e-3), (64, 9e-6)])
def test_null_tails_are_those_of_the_design(num_models, tail):
    rng = np.random.default_rng(4)
    membership = twin_membership(num_models, 4000, rng)
    null = null_patient_auc(rng.normal(size=membership.shape), membership, 200, rng)
    assert null.expected_count(0.8) / 4000 == pytest.approx(tail, rel=0.9 if num_models == 64 else 0.15)
    assert null.survival_mean_T[0] == 1.0
    assert (np.diff(null.survival_mean_T) <= 0).all()
    # A mean may leave the band only where the count is nearly always the same, by less than one patient.
    assert (null.survival_low_T <= null.survival_mean_T + 1 / 4000).all()
    assert (null.survival_mean_T <= null.survival_high_T + 1 / 4000).all()
    assert null.median.low <= null.median.high < null.p99.low < null.p99.high < null.maximum.high


def test_common_model_effects_do_not_disturb_the_null():
    # A model that is surer of everybody makes the AUCs of all patients noisier; swapping twins knows that.
    rng = np.random.default_rng(5)
    membership = twin_membership(16, 5000, rng)
    evidence = rng.normal(size=membership.shape) + 2.0 * rng.normal(size=(16, 1))
    null = null_patient_auc(evidence, membership, 200, rng)
    observed = (patient_auc(evidence, membership) >= 0.7 - 1e-9).sum()
    assert null.counts(0.7).min() <= observed <= null.counts(0.7).max()


def test_counts_with_their_null():
    rng = np.random.default_rng(6)
    membership = twin_membership(64, 1000, rng)
    evidence = leaky_evidence(membership, rng)
    risk = patient_auc(evidence, membership)
    null = null_patient_auc(evidence, membership, 50, rng)
    counts = {c.threshold: c for c in exposed_counts(risk, null)}
    assert list(counts) == [0.6, 0.7, 0.8, 0.9, 0.95]
    for threshold, c in counts.items():
        assert c.count == sum(1 for a in risk if a >= threshold)
        assert c.low <= c.count <= c.high
        assert c.null_expected == null.counts(threshold).mean()
        assert c.resolvable == (c.null_expected <= 1)
    assert not counts[0.6].resolvable
    assert counts[0.8].resolvable
    with pytest.raises(ValueError, match="999 patients"):
        exposed_counts(risk[:-1], null)
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        exposed_counts(risk, null, (1.5,))


def test_list_of_exposed_patients():
    p_values = np.array([0.001, np.nan, 0.5, 0.011, 0.02, 0.04, 0.9])
    for rate in (0.01, 0.05, 0.2):
        expected = audit_oracles.benjamini_hochberg(p_values.tolist(), rate)
        assert benjamini_hochberg(p_values, rate).tolist() == expected
    assert np.isnan(adjusted_p_values(p_values)[1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjusted_p_values([0.2, 1.4])


def test_false_discoveries_stay_at_the_rate():
    rng = np.random.default_rng(7)
    false_shares, listed_by_chance = [], 0
    for _ in range(40):
        membership = twin_membership(32, 600, rng)
        noise = rng.normal(size=membership.shape)
        leak = np.where(np.arange(600) < 60, 2.5, 0.0)
        evidence = noise + leak * membership
        null = null_patient_auc(evidence, membership, 100, rng)
        listed = benjamini_hochberg(null.p_values(patient_auc(evidence, membership)), 0.1)
        false_shares.append(listed[60:].sum() / max(1, listed.sum()))
        null = null_patient_auc(noise, membership, 100, rng)
        listed_by_chance += benjamini_hochberg(null.p_values(patient_auc(noise, membership)), 0.1).any()
        assert listed[:60].sum() > 40
    assert np.mean(false_shares) < 0.13
    assert listed_by_chance / 40 < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("model_effect", [0.0, 0.3])
def test_count_interval_covers_the_expected_count(model_effect):
    results = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        membership = twin_membership(32, 400, rng)
        evidence = leaky_evidence(membership, rng, 0.15, model_effect)
        null = null_patient_auc(evidence, membership, 2, rng)
        results.append(
            [(c.count, c.low, c.high) for c in exposed_counts(patient_auc(evidence, membership), null, (0.8, 0.9))]
        )
    results = np.array(results)
    truth = results[:, :, 0].mean(axis=0)
    coverage = ((results[:, :, 1] <= truth) & (truth <= results[:, :, 2])).mean(axis=0)
    assert (coverage >= 0.92).all(), coverage


def test_nothing_to_permute_is_refused():
    with pytest.raises(ValueError, match="nothing to permute"):
        null_patient_auc(np.zeros((4, 2)), np.ones((4, 2), bool), 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="num_permutations=0"):
        null_patient_auc(np.zeros((4, 2)), twin_membership(4, 2, np.random.default_rng(0)), 0, np.random.default_rng(0))
