"""How many models are enough: the interval over models covers, and what is foretold for larger fleets comes true."""

from __future__ import annotations

import numpy as np
import pytest

from dptrain.attacks.twins import model_units
from dptrain.audit.enough import (
    fraction_at_least,
    headline_interval,
    is_resolvable,
    models_needed,
    p99,
    p99_interval,
    stability,
)
from dptrain.audit.patients import patient_auc
from dptrain.cohorts.membership import draw_membership


def fleet(seed: int, num_models: int, num_patients: int = 300):  # type: ignore[no-untyped-def]
    """Evidence of patients who leak differently; models share some noise, so that twins and models matter."""
    rng = np.random.default_rng([seed, num_models])
    leak = np.random.default_rng(1).exponential(0.5, num_patients)
    leak[:9] = 1.2
    membership = draw_membership(seed, num_models, num_patients)
    return rng.standard_normal(membership.shape) + leak * membership, membership, model_units(membership)


@pytest.mark.parametrize("headline", [p99, fraction_at_least(0.8)], ids=["p99", "count"])
def test_the_interval_covers_other_models(headline) -> None:
    truth = np.mean([headline(patient_auc(*fleet(seed, 32)[:2])) for seed in range(1000, 1080)])
    found = [headline_interval(*fleet(seed, 32), headline) for seed in range(60)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.88 <= covered <= 1.0


def test_the_interval_shrinks_with_the_root_of_the_models() -> None:
    widths = {}
    for num_models in (32, 128):
        found = [headline_interval(*fleet(seed, num_models), fraction_at_least(0.8)) for seed in range(10)]
        widths[num_models] = np.mean([one.high - one.low for one in found])
    assert widths[32] / widths[128] == pytest.approx(2.0, rel=0.35)
    assert np.isnan(headline_interval(*fleet(1, 6), p99).value)


def test_where_no_spread_is_seen_the_interval_is_open_below() -> None:
    membership = draw_membership(1, 32, 40)
    found = p99_interval(10.0 * membership, membership, model_units(membership))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 16))
    usual = fleet(3, 32)
    assert p99_interval(*usual) == headline_interval(*usual, p99)


def test_models_needed() -> None:
    assert models_needed(32, 0.04, 0.02) == 128
    assert models_needed(32, 0.01, 0.02) == 32
    assert models_needed(30, 0.021, 0.02) == 34
    with pytest.raises(ValueError, match="wanted=0"):
        models_needed(32, 0.04, 0.0)


def test_a_threshold_is_resolvable_when_chance_lifts_nobody() -> None:
    assert not is_resolvable(16, 400, 0.8)
    assert is_resolvable(64, 400, 0.9)


def test_stability_is_measured_on_parts_and_foretold_for_larger_fleets() -> None:
    rng = np.random.default_rng(3)
    found = stability(*fleet(5, 32, 800), rng)
    assert [one.num_models for one in found] == [8, 16, 32, 64, 128]
    assert [one.is_measured for one in found] == [True, True, False, False, False]
    errors = [one.standard_error for one in found]
    assert errors == sorted(errors, reverse=True)
    later = {one.num_models: one for one in stability(*fleet(6, 128, 800), rng) if one.is_measured}
    foretold = {one.num_models: one for one in found}
    assert foretold[64].reliability == pytest.approx(later[64].reliability, abs=0.06)
    assert foretold[64].standard_error == pytest.approx(later[64].standard_error, rel=0.15)
    assert later[64].overlap >= found[0].overlap
    assert stability(*fleet(5, 8), rng) == ()
