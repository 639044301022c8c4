"""A thinned curve holds true points only, both ends, and looks the same."""

from __future__ import annotations

import numpy as np
import pytest

from dptrain.report.thinning import survival_points


@pytest.mark.parametrize("num_patients", [1, 30, 50_000])
def test_every_point_is_exact_and_the_ends_are_there(num_patients: int) -> None:
    auc = np.random.default_rng(0).beta(20, 20, num_patients)
    x, y = survival_points(auc)
    assert len(x) <= 240
    assert np.all(np.diff(x) > 0)
    for place in range(0, len(x), 10):
        assert y[place] == (auc >= x[place]).sum()
    assert (x[-1], y[-1]) == (auc.max(), 1)
    assert y[0] == num_patients


def test_between_points_the_curve_errs_by_less_than_a_line_is_wide() -> None:
    auc = np.random.default_rng(1).beta(20, 20, 50_000)
    x, y = survival_points(auc)
    grid = np.linspace(x[0], x[-1], 2000)
    drawn = y[np.minimum(np.searchsorted(x, grid), len(x) - 1)]
    true = np.array([(auc >= at).sum() for at in grid])
    assert np.abs(np.log10(drawn / true)).max() < 0.035, "a tenth of a decade is 8 pixels"


def test_patients_without_an_auc_are_left_out() -> None:
    x, y = survival_points(np.array([0.5, np.nan, 0.7, 0.7]))
    assert (x.tolist(), y.tolist()) == ([0.5, 0.7], [3, 2])
