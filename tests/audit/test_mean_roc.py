import numpy as np
import pytest

from dptrain.audit import tpr_at_fpr
from dptrain.audit.mean_roc import mean_roc
from tests.oracles.simulate import twin_membership


def test_each_point_is_the_mean_of_conservative_thresholds():
    rng = np.random.default_rng(0)
    membership = twin_membership(6, 80, rng)
    scores = np.round(rng.normal(size=membership.shape) + membership, 1)  # ties
    found = mean_roc(scores, membership, 30)
    for place in range(0, found.fpr_G.size - 1, 5):
        fpr = float(found.fpr_G[place])
        each = [tpr_at_fpr(row, member, fpr).tpr for row, member in zip(scores, membership, strict=True)]
        assert found.tpr_G[place] == pytest.approx(np.mean(each))
    assert (found.fpr_G[-1], found.tpr_G[-1]) == (1.0, 1.0)
    assert np.all(np.diff(found.tpr_G) >= 0)
    assert np.all(found.low_G <= found.tpr_G)
    assert found.num_nonmembers == (~membership).sum(axis=1).min()


def test_the_grid_begins_at_one_nonmember_and_is_even_on_a_log_axis():
    rng = np.random.default_rng(1)
    membership = twin_membership(4, 4000, rng)
    found = mean_roc(rng.normal(size=membership.shape), membership, 40)
    assert found.fpr_G[0] == pytest.approx(1 / found.num_nonmembers)
    assert found.fpr_G.size <= 40
    assert np.abs(found.tpr_G - found.fpr_G).max() < 0.05


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="members and non-members"):
        mean_roc(np.zeros((1, 3)), np.ones((1, 3), dtype=bool))
