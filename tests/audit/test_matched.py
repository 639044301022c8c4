import numpy as np
import pytest

from dptrain.audit import matched, paired_difference, patient_auc
from dptrain.audit.matched import half_sample_auc
from tests.oracles.simulate import leaky_evidence, twin_membership


def arms(seed, num_models=16, num_patients=200, model_effect=0.0):
    rng = np.random.default_rng(seed)
    membership = twin_membership(num_models, num_patients, rng)
    leaky = leaky_evidence(membership, rng, 0.15, model_effect)
    return leaky, 0.5 * leaky + rng.normal(size=leaky.shape), membership, rng


def test_auc_of_half_samples_equals_recomputing():
    a, _, membership, rng = arms(0, 12, 30)
    a = np.round(a)  # ties
    chosen = rng.permuted(np.tile([True, True, False, False, True, False], (7, 1)), axis=1)
    result = half_sample_auc(a, membership, chosen)
    for row, pairs in zip(result, chosen, strict=True):
        models = np.repeat(pairs, 2)
        np.testing.assert_allclose(row, patient_auc(a[models], membership[models]), atol=1e-6)


def test_estimates_are_the_plain_differences():
    a, b, membership, rng = arms(1)
    before = a.copy(), b.copy(), membership.copy()
    result = paired_difference(a, b, membership, rng, num_resamples=20)
    auc_a, auc_b = patient_auc(a, membership), patient_auc(b, membership)
    assert result.mean.estimate == pytest.approx((auc_a - auc_b).mean())
    assert result.quantiles[0.5].estimate == pytest.approx(np.median(auc_a) - np.median(auc_b))
    assert result.counts[0.8].estimate == (auc_a >= 0.8).sum() - (auc_b >= 0.8).sum()
    assert (result.num_patients, result.num_twin_pairs) == (200, 8)
    for difference in (result.mean, *result.quantiles.values(), *result.counts.values()):
        for low, high in (difference.patients, difference.twin_pairs, difference.both):
            assert low <= difference.estimate <= high
        widths = [high - low for low, high in (difference.patients, difference.both)]
        assert widths[1] >= widths[0]
    for now, then in zip((a, b, membership), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_swapping_the_arms_changes_the_sign():
    a, b, membership, _ = arms(2)
    one = paired_difference(a, b, membership, np.random.default_rng(0), num_resamples=20)
    two = paired_difference(b, a, membership, np.random.default_rng(0), num_resamples=20)
    assert one.mean.estimate == pytest.approx(-two.mean.estimate)
    assert one.mean.both == pytest.approx((-two.mean.both[1], -two.mean.both[0]))
    same = paired_difference(a, a, membership, np.random.default_rng(0), num_resamples=20)
    assert same.mean.both == (0.0, 0.0)
    assert same.counts[0.9].patients[1] > 0  # 0 against 0 is not certain


def covering(model_effect, fixed_patients, runs):
    """Coverage of `both` (new patients) or `twin_pairs` (the same patients), for mean, median and the count at 0.8."""
    fixed = np.random.default_rng(99)
    leak = np.where(fixed.random(200) < 0.15, fixed.gamma(2.0, 1.0, 200), 0.0)
    rows = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        membership = twin_membership(32, 200, rng)
        if not fixed_patients:
            leak = np.where(rng.random(200) < 0.15, rng.gamma(2.0, 1.0, 200), 0.0)
        strength = np.exp(model_effect * rng.normal(size=(32, 1)))
        a = rng.normal(size=membership.shape) + leak * strength * membership
        b = rng.normal(size=membership.shape) + 0.3 * leak * strength * membership
        result = paired_difference(a, b, membership, rng, quantiles=(0.5,), thresholds=(0.8,), num_resamples=100)
        parts = (result.mean, result.quantiles[0.5], result.counts[0.8])
        rows.append([(d.estimate, *(d.twin_pairs if fixed_patients else d.both)) for d in parts])
    rows = np.array(rows)
    truth = rows[:, :, 0].mean(axis=0)
    return ((rows[:, :, 1] <= truth) & (truth <= rows[:, :, 2])).mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("model_effect", [0.0, 0.5])
@pytest.mark.parametrize("fixed_patients", [True, False])
def test_intervals_cover(model_effect, fixed_patients):
    coverage = covering(model_effect, fixed_patients, 300)
    assert (coverage >= 0.91).all(), coverage
    assert coverage[0] <= 0.985, coverage


@pytest.mark.parametrize(
    ("a", "b", "membership", "words"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), np.zeros((4, 3), bool), "must be the same"),
        (np.zeros((4, 3)), np.zeros((4, 3)), np.zeros((4, 3), bool), "without a twin"),
        (np.zeros((2, 3)), np.zeros((2, 3)), np.array([[True] * 3, [False] * 3]), "at least 2 pairs"),
    ],
)
def test_what_does_not_fit_is_refused(a, b, membership, words):
    with pytest.raises(ValueError, match=words):
        paired_difference(a, b, membership, np.random.default_rng(0))


def test_many_patients_are_seen_through_some_of_them(monkeypatch):
    """With half of the patients looked at, intervals are those of all of them: not twice, not 1.4 times as wide."""
    a, b, membership, _ = arms(3, 16, 3000, model_effect=0.5)
    whole = paired_difference(a, b, membership, np.random.default_rng(0), num_resamples=400)
    monkeypatch.setattr(matched, "MOST_PATIENTS", 1500)
    part = paired_difference(a, b, membership, np.random.default_rng(0), num_resamples=400)
    # Quantiles of the few AUCs that 16 models can have jump, so that their bootstrap is coarse.
    for one, other, rel in (
        (whole.mean, part.mean, 0.25),
        (whole.quantiles[0.5], part.quantiles[0.5], 0.4),
        (whole.quantiles[0.99], part.quantiles[0.99], 0.4),
        (whole.counts[0.8], part.counts[0.8], 0.25),
    ):
        assert one.estimate == other.estimate
        for name in ("patients", "twin_pairs", "both"):
            widths = [np.diff(getattr(each, name))[0] for each in (one, other)]
            assert widths[1] == pytest.approx(widths[0], rel=rel), name
