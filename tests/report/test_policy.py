"""Policies as files: the shipped ones, misspelt ones, and that the shipped ones are ordered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dptrain.conf_dir import config_dir
from dptrain.errors import ConfigError
from dptrain.report.judge import judge
from dptrain.report.policy import Policy, load_policy, parse_policy
from tests.report.test_judge import GOOD, exposed


def test_the_shipped_policies_are_read_by_name() -> None:
    assert [load_policy(name).name for name in ("strict", "research", "none")] == ["strict", "research", "none"]
    assert load_policy("none") == Policy("none", "No limits")
    assert load_policy("strict").privacy.max_epsilon == 3


def test_the_shipped_policies_are_in_order() -> None:
    """What passes strict passes research, whatever the threshold that each counts patients at."""
    fine = replace(GOOD, exposed={0.8: exposed(0, 0.0, 3.0), 0.9: exposed(0, 0.0, 3.0)})
    assert judge(fine, load_policy("strict")).passed
    assert judge(fine, load_policy("research")).passed
    strict, research = load_policy("strict"), load_policy("research")
    assert strict.risk.patient_auc <= research.risk.patient_auc
    for part, name in (("privacy", "max_epsilon"), ("privacy", "max_delta_times_patients"), ("risk", "max_share"),
                       ("risk", "max_tpr"), ("performance", "max_loss")):  # fmt: skip
        assert getattr(getattr(strict, part), name) <= getattr(getattr(research, part), name)


def test_a_file_is_read_by_path(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("privacy:\n  max_epsilon: 2\n  max_delta: 1e-6\nrisk:\npower: {min_models: 128}\n")
    policy = load_policy(str(file))
    assert (policy.name, policy.privacy.max_epsilon, policy.privacy.max_delta) == ("ours", 2.0, 1e-6)
    assert policy.power.min_models == 128
    assert policy.risk.max_share is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("privacy: {max_epsilom: 3}", "privacy.max_epsilom=3 is not a setting here (did you mean 'max_epsilon'?)"),
        ("privcy: {max_epsilon: 3}", "privcy is not part of a policy (did you mean 'privacy'?)"),
        ("privacy: 3", "privacy=3 must be a group of rules"),
        ("- 3", "must hold the groups privacy, risk, groups, performance, power, not [3]"),
        ("privacy: {max_epsilon: -1}", "privacy.max_epsilon=-1.0 must be a finite number > 0"),
        ("privacy: {max_epsilon: .inf}", "privacy.max_epsilon=inf must be a number or null"),
        ("privacy: {unit: visit}", "privacy.unit='visit' must be patient, record or null"),
        ("privacy: {checked: maybe}", "privacy.checked='maybe' must be true or false"),
        ("risk: {max_share: 5}", "risk.max_share=5.0 must be in [0, 1]. It is a fraction, not percent. For 5% write"),
        ("risk: {patient_auc: 0.85}", "risk.patient_auc=0.85 must be one of 0.6, 0.7, 0.8, 0.9, 0.95"),
        ("risk: {at_fpr: 0.5}", "risk.at_fpr=0.5 must be one of "),
        ("groups: {max_ratio_in_top: 0.5}", "groups.max_ratio_in_top=0.5 must be at least 1"),
        ("groups: {max_higher: 0.4}", "groups.max_higher=0.4 must be in [0.5, 1]"),
        ("groups: {min_patients: 3}", "groups.min_patients=3 must be at least 10"),
        ("performance: {min_gain_over_baseline: 2}", "performance.min_gain_over_baseline=2.0 must be in [-1, 1]"),
        ("power: {min_models: 0}", "power.min_models=0 must be a finite number > 0"),
        ("power: {max_null_auc: 0.2}", "power.max_null_auc=0.2 must be in [0.5, 1]"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_policy(str(file))
    assert words in str(caught.value)


def test_all_problems_come_together() -> None:
    raw = {"privacy": {"max_epsilon": -1, "unit": "x"}, "risk": {"max_tpr": 7}, "powr": {}, "power": {"min_model": 3}}
    with pytest.raises(ConfigError) as caught:
        parse_policy(raw, "bad")
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("name", ["strickt", "nowhere/x.yaml", "nosuch"])
def test_no_such_policy(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(name)
    assert name in str(caught.value)


def test_a_folder_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read the policy"):
        load_policy(str(tmp_path))


def test_every_shipped_file_is_a_policy() -> None:
    for file in (config_dir() / "policy").glob("*.yaml"):
        assert load_policy(file.stem).description
