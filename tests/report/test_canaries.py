"""The lower bound meets the claim: an arm whose canaries prove more than its epsilon is refuted, others are not."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from dptrain.audit.lower_bound import EpsilonLowerBound
from dptrain.cohorts.membership import draw_membership
from dptrain.report.analysis import analyse
from dptrain.report.canaries import as_dict, bound_of_release, contradiction
from dptrain.report.contradictions import GuaranteeRefuted
from dptrain.report.disclosure import Rule, for_release
from dptrain.report.page.setting_tables import mechanism
from dptrain.report.results import LowerBoundResult
from dptrain.report.tradeoff import as_dict as tradeoff_dict
from dptrain.report.tradeoff import tradeoff_csv
from dptrain.study.arm_record import Canaries
from tests.report.fake_study import EPS_3, NONE, FakeStudy, document_for

NUM = 64


@dataclass(frozen=True)
class WithCanaries(FakeStudy):
    """Canaries that leak in every arm by `canary_leak` standard deviations."""

    canary_leak: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings["privacy"] = {"delta": 1e-3}

    def canaries(self, label: str) -> Canaries:
        rng = np.random.default_rng([self.seed, len(label)])
        membership = draw_membership(self.seed, self.num_models, self.num_train + NUM)[:, -NUM:]
        labels = rng.integers(0, 2, NUM)
        signal = rng.standard_normal(membership.shape) + rng.normal(0, 5, NUM) + self.canary_leak * membership
        logits = ((2 * labels - 1) * signal)[:, :, None].astype(np.float32)
        return Canaries(logits, labels, membership)


def test_canaries_that_leak_too_much_refute_the_arm() -> None:
    study = WithCanaries(fake_arms=(NONE, EPS_3), num_models=32, canary_leak=8.0)
    with pytest.raises(GuaranteeRefuted, match="Arm eps=3 is refuted: its canaries") as refuted:
        analyse(study)
    assert list(refuted.value.by_arm) == ["eps=3"]
    assert "2.999 is accounted" in "\n".join(refuted.value.by_arm["eps=3"])


def test_canaries_that_leak_little_stand_beside_the_claim() -> None:
    study = WithCanaries(fake_arms=(NONE, EPS_3), num_models=32, canary_leak=1.5)
    result = analyse(study)
    content = tradeoff_dict(result)
    assert content["num_patients"] == study.num_train
    for arm in content["arms"]:
        bound = arm["lower_bound"]
        assert 0 < bound["epsilon_lower_bound"] < 2.5 < bound["largest_possible"]
        assert bound["num_canaries"] == NUM
        assert bound["num_models"] == 32
        assert bound["num_coins"] == NUM * 16
        assert bound["confidence"] == 0.95
        assert bound["largest_of_models"] == pytest.approx(1.35, abs=0.01)
        assert bound["method"] == "f_dp_one_run"
        assert set(bound["by_method"]) == {"f_dp_one_run", "one_run", "clopper_pearson"}
    assert "lower_bound.epsilon_lower_bound" in tradeoff_csv(result).splitlines()[0]
    json.dumps(content, allow_nan=False)


def test_pages_show_the_bound_beside_the_claim_and_the_release_keeps_it() -> None:
    study = WithCanaries(fake_arms=(NONE, EPS_3), num_models=32, canary_leak=1.5)
    document = document_for(analyse(study, details=True))
    assert not any("planted worst-case" in sentence for sentence in document.not_tested)
    assert any("planted worst-case" in sentence for sentence in document_for(analyse(
        FakeStudy(fake_arms=(NONE, EPS_3)), details=True)).not_tested)  # fmt: skip
    table = next(table for table in mechanism(document) if "planted canaries prove" in table.caption)
    assert [row[0] for row in table.rows] == [arm.name for arm in document.arms]
    assert table.rows[1][2] == f"{document.arms[1].privacy.lower_bound['epsilon_lower_bound']:.2f}"
    assert for_release(document, Rule()).arms[1].privacy.lower_bound == document.arms[1].privacy.lower_bound


def test_without_canaries_there_is_no_bound() -> None:
    result = analyse(FakeStudy(fake_arms=(NONE, EPS_3)))
    assert [arm["lower_bound"] for arm in tradeoff_dict(result)["arms"]] == [None, None]
    assert "lower_bound" not in tradeoff_csv(result)


def test_the_claim_is_exceeded_only_above_it() -> None:
    one = EpsilonLowerBound(1.5, "f_dp_one_run", 40, 38, 64, 0.95, 2.6)
    bound = LowerBoundResult(one, 64, 1, {one.method: one})
    assert contradiction(1.5, 1e-5, bound) is None
    assert "38 of 40 guesses right" in str(contradiction(1.49, 1e-5, bound))
    assert as_dict(bound)["epsilon_lower_bound"] <= 1.5


def test_a_release_is_scored_against_its_untrained_network() -> None:
    rng = np.random.default_rng(5)
    coins, labels = rng.random(200) < 0.5, rng.integers(0, 2, 200)
    sign = (2 * labels - 1)[:, None]
    before = rng.normal(0, 20, (200, 1))
    after = before + sign * (rng.normal(0, 1, (200, 1)) + 4 * coins[:, None])
    found = bound_of_release(after.astype(np.float32), before.astype(np.float32), labels, coins, "binary", 1e-5)
    assert found.headline.epsilon > 1.5
    blind = bound_of_release(after.astype(np.float32), 0 * before.astype(np.float32), labels, coins, "binary", 1e-5)
    assert blind.headline.epsilon < 0.5
