"""Patient-level epsilon under record-level DP."""

from __future__ import annotations

import numpy as np
import pytest

from dptrain.privacy.accounting import epsilon_gaussian, epsilon_pld, reported_epsilon
from dptrain.privacy.patient_level import MAX_COMPONENTS, cohort_patient_level, patient_epsilon, patient_step
from dptrain.privacy.pld import StepMixture, mixture_delta

DELTA = 1e-5


def test_reference_figures() -> None:
    """DESIGN.md section 3: sigma 1, q 0.01, T 500."""
    values = [patient_epsilon(k, 0.01, 1.0, 500, DELTA) for k in (1, 2, 4, 8, 16)]
    assert values == pytest.approx([1.33, 2.86, 6.24, 14.1, 34.0], rel=0.01)


def test_full_batch_is_one_gaussian_of_sensitivity_k() -> None:
    assert patient_epsilon(4, 1.0, 8.0, 10, DELTA) == epsilon_gaussian(2.0, 10, DELTA)


@pytest.mark.parametrize("removed", [True, False])
def test_mixture_of_two_is_the_subsampled_gaussian(removed: bool) -> None:
    """Against the closed form of one step, and dp-accounting's own mixture (slow, so a few epsilons only)."""
    mechanisms = pytest.importorskip("dp_accounting.pld.privacy_loss_mechanism")
    adjacency = mechanisms.AdjacencyType.REMOVE if removed else mechanisms.AdjacencyType.ADD
    epsilons = np.linspace(-0.09, 3, 20) if removed else np.linspace(-3, 0.1, 20)
    two = mixture_delta(StepMixture.poisson(0.1), 1.3, epsilons, removed=removed)
    theirs = mechanisms.GaussianPrivacyLoss(1.3, sampling_prob=0.1, adjacency_type=adjacency)
    assert two == pytest.approx(theirs.get_delta_for_epsilon(epsilons), abs=1e-10)
    step = patient_step(3, 0.1)
    epsilons = np.linspace(-0.2, 3, 8) if removed else np.linspace(-3, 0.3, 8)
    mixture = mechanisms.MixtureGaussianPrivacyLoss(
        1.3, step.sensitivities, step.probabilities, adjacency_type=adjacency
    )
    expected = np.asarray(mixture.get_delta_for_epsilon(epsilons))
    assert mixture_delta(step, 1.3, epsilons, removed=removed) == pytest.approx(expected, abs=1e-8)


def test_bracketed_by_record_level_and_by_full_sensitivity() -> None:
    """More than one record, less than all k records entering together with probability 1 - (1 - q)^k."""
    alone = reported_epsilon(0.02, 2.0, 200, DELTA)[0]
    together = epsilon_pld(1 - 0.98**5, 2.0 / 5, 200, DELTA)
    assert alone < patient_epsilon(5, 0.02, 2.0, 200, DELTA) < together


def test_many_records_are_merged_upwards() -> None:
    step = patient_step(500, 0.2)
    assert len(step.sensitivities) <= MAX_COMPONENTS
    assert sum(step.probabilities) == pytest.approx(1)
    assert step.sensitivities[-1] == 500
    assert np.dot(step.sensitivities, step.probabilities) >= 100


def test_cohort() -> None:
    level = cohort_patient_level([1] * 60 + [2] * 35 + [4] * 5, 0.01, 1.0, 500, DELTA)
    assert level.records_quantiles == {"p50": 1, "p90": 2, "p99": 4, "max": 4}
    assert level.epsilon == level.epsilon_quantiles["max"] == level.epsilon_by_records[4]
    assert level.epsilon_quantiles["p50"] < level.epsilon_quantiles["p90"] < level.epsilon
    assert level.num_patients == 100


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="num_records=0 must be >= 1"):
        patient_epsilon(0, 0.1, 1.0, 10, DELTA)
    with pytest.raises(ValueError, match="at least one patient"):
        cohort_patient_level([], 0.1, 1.0, 10, DELTA)
    with pytest.raises(ValueError, match="noise_multiplier=0 must be > 0"):
        patient_epsilon(2, 0.1, 0, 10, DELTA)
