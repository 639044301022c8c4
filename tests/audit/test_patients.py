import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.audit import (
    patient_attack_auc,
    patient_auc,
    patient_auc_knolle2026,
    patient_auc_standard_error,
    patient_evidence,
)
from tests.oracles import audit_oracles
from tests.oracles.simulate import null_fleet, twin_membership


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_patient_auc_equals_the_slow_twin_under_ties(num_models, num_patients, seed):
    rng = np.random.default_rng(seed)
    evidence = rng.integers(0, 4, size=(num_models, num_patients)).astype(float)
    membership = rng.random((num_models, num_patients)) < 0.5
    before = evidence.copy(), membership.copy()
    result = patient_auc(evidence, membership)
    np.testing.assert_allclose(result, audit_oracles.patient_auc(evidence, membership))
    np.testing.assert_allclose(patient_auc(np.exp(evidence), membership), result)
    order = rng.permutation(num_patients)
    np.testing.assert_allclose(patient_auc(evidence[:, order], membership[:, order]), result[order])
    np.testing.assert_array_equal(evidence, before[0])
    np.testing.assert_array_equal(membership, before[1])


def test_evidence_is_the_scaled_sum_of_centred_signals():
    rng = np.random.default_rng(0)
    patient = np.array([0, 1, 1, 2, 0, 1])
    signals = 100.0 * rng.normal(size=6) + rng.normal(size=(5, 6))
    centred = signals - signals.mean(axis=0)
    spread = np.sqrt((centred**2).sum() / (4 * 6))
    expected = np.stack([centred[:, patient == p].sum(axis=1) for p in range(3)], axis=1) / spread
    np.testing.assert_allclose(patient_evidence(signals, patient, 3), expected, atol=1e-10)


def test_constant_patients_are_chance_and_one_sided_patients_are_nan():
    rng = np.random.default_rng(1)
    membership = twin_membership(10, 4, rng)
    signals = rng.normal(size=(10, 4))
    signals[:, 0] = 0.1 + 0.2  # its mean over 10 models is not exactly itself
    assert patient_auc(patient_evidence(signals, np.arange(4), 4), membership)[0] == 0.5
    membership[:, 1], membership[:, 2] = True, False
    assert np.isnan(patient_auc(signals, membership)).tolist() == [False, True, True, False]
    assert patient_auc(membership.astype(float), membership)[[0, 3]].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("num_models", "sd", "tail"), [(16, 0.149, 1.9e-2), (32, 0.103, 1.4e-3), (64, 0.0722, None)])
def test_null_facts_of_evidence(num_models, sd, tail):
    signals, membership, patient = null_fleet(num_models, 12_000, np.random.default_rng(2))
    risk = patient_auc(patient_evidence(signals, patient, 12_000), membership)
    assert risk.mean() == pytest.approx(0.5, abs=3.5 * sd / np.sqrt(12_000))
    assert risk.std() == pytest.approx(sd, rel=0.03)
    half = num_models // 2
    assert patient_auc_standard_error(0.5, half, half) == pytest.approx(sd, rel=0.02)
    if tail is not None:
        assert (risk >= 0.8).mean() == pytest.approx(tail, rel=0.15 if num_models == 16 else 0.6)


def test_crossfit_equals_the_slow_twin():
    signals, membership, patient = null_fleet(16, 6, np.random.default_rng(3), records=2)
    membership[0::2] ^= True
    membership[1::2] ^= True
    counts = membership[0:16:1].reshape(4, 2, 2, 6).sum(axis=(1, 2))
    assert (counts > 0).all()
    expected = audit_oracles.crossfit_auc(signals, membership, patient, 4)
    np.testing.assert_allclose(patient_attack_auc(signals, membership, patient, 4, "pooled"), expected, atol=1e-12)


@pytest.mark.parametrize("variance", ["per_record", "pooled", "shrunk"])
def test_crossfit_is_unbiased_without_leakage_and_sees_leakage(variance):
    signals, membership, patient = null_fleet(64, 2500, np.random.default_rng(4))
    risk = patient_attack_auc(signals, membership, patient, 4, variance)
    assert risk.mean() == pytest.approx(0.5, abs=0.007)
    assert risk.std() == pytest.approx(0.098, abs=0.006)
    leaking = signals + 2.0 * signals.std(axis=0) * membership
    assert np.median(patient_attack_auc(leaking, membership, patient, 4, variance)) > 0.85


def test_crossfit_with_the_fewest_models():
    signals, membership, patient = null_fleet(4, 20, np.random.default_rng(5))
    risk = patient_attack_auc(signals, membership, patient)
    assert np.isin(risk, [0.0, 0.25, 0.5, 0.75, 1.0]).all()
    with pytest.raises(ValueError, match="at least 4 models"):
        patient_attack_auc(signals[:2], membership[:2], patient)


def test_knolle2026_equals_the_slow_twin_and_grows_with_records():
    rng = np.random.default_rng(6)
    signals, membership, patient = null_fleet(20, 8, rng, records=3)
    expected = audit_oracles.knolle2026(signals, membership, patient)
    result = patient_auc_knolle2026(signals, membership, patient)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    np.testing.assert_allclose(
        patient_auc_knolle2026(signals, membership, patient, clip=True), np.maximum(expected, 0.5)
    )
    # STATISTICS.md: 0.665 at 50 models and 30 records without any leakage.
    signals, membership, patient = null_fleet(50, 300, rng, records=30)
    assert patient_auc_knolle2026(signals, membership, patient).mean() == pytest.approx(0.665, abs=0.01)
    assert patient_auc(patient_evidence(signals, patient, 300), membership).mean() == pytest.approx(0.5, abs=0.016)


def test_standard_error_follows_the_models():
    # Hanley & McNeil 1982: 0.041, 0.072, 0.103 at chance for 200, 64, 32 models.
    for half, expected in ((100, 0.041), (32, 0.072), (16, 0.103)):
        assert patient_auc_standard_error(0.5, half, half) == pytest.approx(expected, abs=1e-3)
    assert patient_auc_standard_error(0.3, 32, 32) == patient_auc_standard_error(0.7, 32, 32)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        patient_auc_standard_error(1.2, 32, 32)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"membership\.shape"):
        patient_auc(np.zeros((4, 3)), np.zeros((4, 2), bool))
    with pytest.raises(ValueError, match="no record"):
        patient_evidence(np.zeros((4, 3)), [0, 0, 0], 2)
    with pytest.raises(ValueError, match="row 1"):
        patient_evidence(np.array([[0.0], [np.inf]]), [0], 1)
