"""Rules of a policy: cases with their outcomes, mutants of the rules that these cases kill, and what stricter means."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.audit.counts import ExposedCount
from dptrain.audit.interval import NOT_ESTIMABLE, Interval
from dptrain.audit.subgroups import Excess, GroupRisk
from dptrain.report import judge as judge_module
from dptrain.report.figures import ArmFigures, Evidence
from dptrain.report.judge import judge
from dptrain.report.policy import (
    GroupRules,
    PerformanceRules,
    Policy,
    PowerRules,
    PrivacyRules,
    RiskRules,
)
from dptrain.report.results import Estimate

NO_EXCESS = Excess(1.0, 0.0, 0.0, 1.0, 1.0)


def group(name: str, ratio: Estimate, higher: Estimate, size: int = 100, reportable: bool = True) -> GroupRisk:
    change = Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1)
    return GroupRisk("sex", name, size, reportable, size / 1000, 0.1, 1.0, NO_EXCESS, None, change,
                     Interval(higher.value, higher.low, higher.high))  # fmt: skip


def exposed(count: int = 2, low: float = 0.3, high: float = 7.0, **changes: Any) -> ExposedCount:
    values: dict[str, Any] = {"null_expected": 0.0, "null_high": 0.0, "resolvable": True, "num_patients": 1000}
    return ExposedCount(0.9, count, low=low, high=high, **(values | changes))


EVEN = Estimate(1.0, 0.7, 1.4)
SAME = Estimate(0.5, 0.45, 0.55)
GOOD = ArmFigures(
    label="eps=3",
    unit="patient",
    epsilon=2.9,
    patient_epsilon=2.9,
    delta=1e-5,
    num_models=64,
    num_patients=1000,
    num_test_patients=400,
    evidence=Evidence("passed", ()),
    cap_tpr_at_fpr={0.01: 0.15},
    exposed={0.9: exposed()},
    tpr_at_fpr={0.01: Estimate(0.015, 0.012, 0.018), 0.001: None},
    null_p99=0.68,
    groups=(group("f", EVEN, SAME), group("m", EVEN, SAME)),
    utility=Estimate(0.85, 0.82, 0.88),
    difference_to_none=Estimate(-0.02, -0.03, -0.01),
    gain_over_baseline=Estimate(0.05, 0.01, 0.09),
)
POLICY = Policy(
    "test",
    privacy=PrivacyRules("patient", 3.0, 1e-4, 0.1, True, 0.2),
    risk=RiskRules(0.9, 0.01, 0.02),
    groups=GroupRules(1.5, 0.6),
    performance=PerformanceRules(0.8, 0.05, 0.0),
    power=PowerRules(64, 1000, 300, 0.7),
)
"""Every rule is in force."""

CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "good": ({}, {}),
    "epsilon above": ({"epsilon": 3.1, "patient_epsilon": 3.1}, {"privacy.max_epsilon": "exceeded"}),
    "epsilon at the limit": ({"epsilon": 3.0, "patient_epsilon": 3.0}, {}),
    "record unit, patients at 9": ({"unit": "record", "patient_epsilon": 9.0}, {"privacy.max_epsilon": "exceeded"}),
    "record unit, patients unknown": (
        {"unit": "record", "patient_epsilon": None},
        {"privacy.unit": "missing", "privacy.max_epsilon": "missing"},
    ),
    "delta above": ({"delta": 2e-4}, {"privacy.max_delta": "exceeded", "privacy.max_delta_times_patients": "exceeded"}),
    "delta fits a small cohort only": (
        {"delta": 9e-5, "num_patients": 2000},
        {"privacy.max_delta_times_patients": "exceeded"},
    ),
    "no delta": ({"delta": None}, {"privacy.max_delta": "missing", "privacy.max_delta_times_patients": "missing"}),
    "cap above": ({"cap_tpr_at_fpr": {0.01: 0.21}}, {"privacy.max_tpr": "exceeded"}),
    "no cap": ({"cap_tpr_at_fpr": {}}, {"privacy.max_tpr": "missing"}),
    "preflight found something": ({"evidence": Evidence("2 findings", ())}, {"privacy.checked": "exceeded"}),
    "no preflight": ({"evidence": Evidence(None, ())}, {"privacy.checked": "missing"}),
    "ledger disagrees": ({"evidence": Evidence("passed", ("29 steps",))}, {"privacy.checked": "exceeded"}),
    "no ledger": ({"evidence": Evidence("passed", None)}, {"privacy.checked": "missing"}),
    "share surely above": ({"exposed": {0.9: exposed(30, 20.0, 43.0)}}, {"risk.max_share": "exceeded"}),
    "share may be above": ({"exposed": {0.9: exposed(6, 2.2, 13.0)}}, {"risk.max_share": "unclear"}),
    "as many by chance": (
        {"exposed": {0.9: exposed(30, 20.0, 43.0, null_expected=0.9, null_high=30.0)}},
        {"risk.max_share": "unclear"},
    ),
    "threshold not resolvable": (
        {"exposed": {0.9: exposed(0, 0.0, 3.7, null_expected=1.2, resolvable=False)}},
        {"risk.max_share": "too_few"},
    ),
    "share not measured": ({"exposed": {}}, {"risk.max_share": "missing"}),
    "tpr surely above": ({"tpr_at_fpr": {0.01: Estimate(0.03, 0.025, 0.035)}}, {"risk.max_tpr": "exceeded"}),
    "tpr may be above": ({"tpr_at_fpr": {0.01: Estimate(0.018, 0.012, 0.024)}}, {"risk.max_tpr": "unclear"}),
    "tpr without width": ({"tpr_at_fpr": {0.01: Estimate(0.0, 0.0, 0.0)}}, {"risk.max_tpr": "unclear"}),
    "tpr not estimable": ({"tpr_at_fpr": {0.01: None}}, {"risk.max_tpr": "too_few"}),
    "tpr is not a number": (
        {"tpr_at_fpr": {0.01: Estimate(0.01, float("nan"), float("nan"))}},
        {"risk.max_tpr": "missing"},
    ),
    "one group worse": (
        {"groups": (group("f", EVEN, SAME), group("m", Estimate(3.0, 2.0, 4.0), Estimate(0.7, 0.65, 0.75)))},
        {"groups.max_ratio_in_top": "exceeded", "groups.max_higher": "exceeded"},
    ),
    "first group worse": (
        {"groups": (group("f", Estimate(1.3, 0.9, 1.9), Estimate(0.58, 0.5, 0.66)), group("m", EVEN, SAME))},
        {"groups.max_ratio_in_top": "unclear", "groups.max_higher": "unclear"},
    ),
    "a group too small to judge does worse": (
        {"groups": (group("f", EVEN, SAME), group("m", EVEN, SAME), group("x", Estimate(3.0, 2.0, 4.0), SAME, 9))},
        {},
    ),
    "small groups only": (
        {"groups": (replace(group("f", EVEN, SAME, 5, False), relative_change=NOT_ESTIMABLE, higher=NOT_ESTIMABLE),)},
        {"groups.max_ratio_in_top": "missing", "groups.max_higher": "missing"},
    ),
    "one group of everybody": (
        {"groups": (group("f", EVEN, SAME, 1000),)},
        {"groups.max_ratio_in_top": "missing", "groups.max_higher": "missing"},
    ),
    "no groups": ({"groups": ()}, {"groups.max_ratio_in_top": "missing", "groups.max_higher": "missing"}),
    "useless": ({"utility": Estimate(0.7, 0.65, 0.75)}, {"performance.min_utility": "exceeded"}),
    "maybe useless": ({"utility": Estimate(0.82, 0.79, 0.85)}, {"performance.min_utility": "unclear"}),
    "costly": ({"difference_to_none": Estimate(-0.1, -0.12, -0.08)}, {"performance.max_loss": "exceeded"}),
    "maybe costly": ({"difference_to_none": Estimate(-0.04, -0.06, -0.02)}, {"performance.max_loss": "unclear"}),
    "better than none": ({"difference_to_none": Estimate(0.1, 0.08, 0.12)}, {}),
    "no arm none": ({"difference_to_none": None}, {"performance.max_loss": "missing"}),
    "the arm none itself": ({"label": "none", "difference_to_none": None}, {}),
    "no better than logistic regression": (
        {"gain_over_baseline": Estimate(0.0, -0.02, 0.02)},
        {"performance.min_gain_over_baseline": "unclear"},
    ),
    "no baseline": ({"gain_over_baseline": None}, {"performance.min_gain_over_baseline": "missing"}),
    "few models": ({"num_models": 62}, {"power.min_models": "too_few"}),
    "few patients": ({"num_patients": 999}, {"power.min_patients": "too_few"}),
    "few test patients": ({"num_test_patients": 299}, {"power.min_test_patients": "too_few"}),
    "chance shows much": ({"null_p99": 0.71}, {"power.max_null_auc": "too_few"}),
}


def outcomes(changes: dict[str, Any], judge_with: Any = judge) -> dict[str, str]:
    """Outcome of every rule that does not pass."""
    verdict = judge_with(replace(GOOD, **changes), POLICY)
    assert verdict.passed == all(rule.outcome == "within" for rule in verdict.rules)
    return {rule.rule: rule.outcome for rule in verdict.rules if rule.outcome != "within"}


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    changes, expected = CASES[name]
    assert outcomes(changes) == expected


def test_every_rule_is_in_force_and_nothing_is_judged_without_rules() -> None:
    assert len({rule.rule for rule in judge(GOOD, POLICY).rules}) == 17
    assert judge(GOOD, Policy("none")).rules == ()


def test_every_verdict_names_figure_limit_and_patients() -> None:
    for rule in judge(GOOD, POLICY).rules:
        assert rule.words
        if rule.rule not in ("privacy.unit", "privacy.checked"):
            assert rule.limit is not None
            assert rule.figure is not None
            assert f"{rule.figure.value:.4g}" in rule.words.replace(",", "") or rule.n == rule.figure.value


def test_small_groups_are_named_and_not_dropped() -> None:
    small = replace(group("x", EVEN, SAME, 4, False), relative_change=NOT_ESTIMABLE, higher=NOT_ESTIMABLE)
    verdict = judge(replace(GOOD, groups=(*GOOD.groups, small)), POLICY)
    assert verdict.passed
    for rule in verdict.rules:
        assert not rule.rule.startswith("groups.") or "not judged (n<10): sex x" in rule.words


MUTANTS = {
    "the value instead of the unfavourable end": (
        "(found.high, found.low) if upper",
        "(found.value, found.low) if upper",
    ),
    "the favourable end for minima": ("else (found.low, found.high)", "else (found.high, found.high)"),
    "minima judged as maxima": ("else (lambda value: value < limit)", "else (lambda value: value > limit)"),
    "no figure is a pass": ('MISSING, f"{words}: there is no figure', 'WITHIN, f"{words}: there is no figure'),
    "an unknown epsilon is a pass": ('MISSING, f"{words}: there is none', 'WITHIN, f"{words}: there is none'),
    "unresolvable counts are read": ("if not one.resolvable:", "if False:"),
    "what cannot be told is a pass": ('UNCLEAR, f"{text}: cannot', 'WITHIN, f"{text}: cannot'),
    "a width of zero is trusted": ("if found.low == found.high:", "if False:"),
    "chance is held against the arm": ("one.count <= one.null_high", "False"),
    "epsilon of a record for a patient": ("if for_patients else figures.epsilon", "if False else figures.epsilon"),
    "no epsilon, still protected": ("MISSING if epsilon is None else WITHIN", "WITHIN"),
    "delta without the patients": ("figures.delta * figures.num_patients", "figures.delta"),
    "findings of the preflight ignored": ('if evidence.preflight != "passed" else []', "if False else []"),
    "ledger ignored": ("wrong += evidence.ledger", "pass"),
    "no preflight, no matter": ("evidence.preflight is None or evidence", "False or evidence"),
    "no ledger, no matter": ("or evidence.ledger is None:\n", "or False:\n"),
    "too few for a TPR is a pass": ('"risk.max_tpr", TOO_FEW', '"risk.max_tpr", WITHIN'),
    "the best group": ("worst = max(judged", "worst = min(judged"),
    "the last group": ("worst = max(judged, key=_badness)", "worst = judged[-1]"),
    "the first group": ("worst = max(judged, key=_badness)", "worst = judged[0]"),
    "excess instead of ratio": ("shift = 1.0", "shift = 0.0"),
    "groups of everybody": ("if group.num_patients >= figures.num_patients:", "if False:"),
    "small groups": ("if not group.reportable or group.num_patients < min_patients:", "if not group.reportable:"),
    "no group, no matter": ("MISSING, words + beside", "WITHIN, words + beside"),
    "a gain counted as a loss": ("Estimate(-found.value, -found.high, -found.low)", "found"),
    "fewer models are enough": ("WITHIN if value >= limit else TOO_FEW", "WITHIN"),
    "more patients than asked for are too many": ("WITHIN if value >= limit", "WITHIN if value <= limit"),
    "the limit itself is beyond": ("WITHIN if value <= limit else EXCEEDED", "WITHIN if value < limit else EXCEEDED"),
    "every exact limit kept": ("WITHIN if value <= limit else EXCEEDED", "WITHIN"),
    "counts instead of shares": ("value / one.num_patients for value", "value for value"),
    "NaN ends read": ("(found.value, found.low, found.high))", "(found.value,))"),
    "one passing rule is enough": ("return all(rule.passed", "return any(rule.passed"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_rules_are_killed_by_a_case(name: str) -> None:
    old, new = MUTANTS[name]
    source = Path(judge_module.__file__).read_text("utf-8")
    assert source.count(old) >= 1, "the mutant no longer fits the source"
    mutant = types.ModuleType("mutant")
    mutant.__dict__["__name__"] = judge_module.__name__
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant.__dict__)

    def differs(changes: dict[str, Any], expected: dict[str, str]) -> bool:
        try:
            return outcomes(changes, mutant.judge) != expected
        except (AssertionError, ZeroDivisionError, TypeError):
            return True

    assert any(differs(*case) for case in CASES.values())


fractions = st.floats(0, 1)
maybe = lambda strategy: st.none() | strategy  # noqa: E731


@st.composite
def estimates(draw: Any) -> Estimate:
    low, value, high = sorted(draw(st.tuples(fractions, fractions, fractions)))
    return Estimate(value, low, high)


@st.composite
def any_figures(draw: Any) -> ArmFigures:
    count, null = draw(st.integers(0, 20)), draw(fractions) * 2
    sized = [group(name, Estimate(3 * ratio.value, 3 * ratio.low, 3 * ratio.high), higher, size, size >= 10)
             for name, ratio, higher, size in draw(st.lists(st.tuples(st.sampled_from("fmx"), estimates(), estimates(),
                                                                      st.integers(5, 1000)), max_size=3))]  # fmt: skip
    epsilon = draw(maybe(st.floats(0.1, 20)))
    return replace(
        GOOD,
        label=draw(st.sampled_from(["none", "eps=3"])),
        epsilon=epsilon,
        patient_epsilon=None if epsilon is None else draw(maybe(st.floats(epsilon, 40))),
        delta=draw(maybe(st.floats(1e-7, 1e-2))),
        num_models=draw(st.integers(4, 200)),
        num_test_patients=draw(st.integers(10, 500)),
        evidence=Evidence(draw(st.sampled_from([None, "passed", "1"])), draw(st.sampled_from([None, (), ("x",)]))),
        cap_tpr_at_fpr=draw(st.fixed_dictionaries({}, optional={0.01: fractions})),
        exposed={0.9: exposed(count, count * 0.5, count * 1.5 + 3, null_expected=null, resolvable=null <= 1)},
        tpr_at_fpr={0.01: draw(maybe(estimates()))},
        null_p99=draw(st.floats(0.5, 1)),
        groups=tuple(sized),
        utility=draw(estimates()),
        difference_to_none=draw(maybe(estimates())),
        gain_over_baseline=draw(maybe(estimates())),
    )  # fmt: skip


MAXIMA = (("privacy", "max_epsilon", 20.0), ("privacy", "max_delta", 1.0), ("privacy", "max_delta_times_patients", 5.0),
          ("privacy", "max_tpr", 1.0), ("risk", "max_share", 0.05), ("risk", "max_tpr", 1.0),
          ("performance", "max_loss", 1.0))  # fmt: skip
MINIMA = (("performance", "min_utility", 1.0), ("performance", "min_gain_over_baseline", 1.0),
          ("power", "min_models", 200), ("power", "min_patients", 2000),
          ("power", "min_test_patients", 500))  # fmt: skip
SHIFTED = (("groups", "max_ratio_in_top", 1.0, 4.0), ("groups", "max_higher", 0.5, 1.0),
           ("power", "max_null_auc", 0.5, 1.0))  # fmt: skip
UNITS = (None, "record", "patient")


@st.composite
def lax_and_strict(draw: Any) -> tuple[Policy, Policy]:
    """Two policies, the second at least as strict in every rule."""
    policies = [Policy("lax"), Policy("strict")]

    def put(part: str, name: str, lax: Any, strict: Any) -> None:
        for index, value in enumerate((lax, strict)):
            rules: Any = replace(getattr(policies[index], part), **{name: value})
            policies[index] = replace(policies[index], **{part: rules})

    limits = [(part, name, 0.0, most, False) for part, name, most in MAXIMA]
    limits += [(part, name, 0.0, most, True) for part, name, most in MINIMA]
    limits += [(part, name, low, high, False) for part, name, low, high in SHIFTED]
    for part, name, low, high, is_minimum in limits:
        number = st.integers(1, int(high)) if part == "power" and is_minimum else st.floats(max(low, 1e-9), high)
        first, second = sorted([draw(number), draw(number)], reverse=not is_minimum)
        if draw(st.booleans()):
            put(part, name, draw(st.sampled_from([None, first])), second)
    lax, strict = sorted([draw(st.integers(0, 2)), draw(st.integers(0, 2))])
    put("privacy", "unit", UNITS[lax], UNITS[strict])
    lax_checked, strict_checked = sorted([draw(st.booleans()), draw(st.booleans())])
    put("privacy", "checked", lax_checked, strict_checked)
    return policies[0], policies[1]


@given(any_figures(), lax_and_strict())
@settings(max_examples=150, deadline=None)
def test_a_stricter_policy_never_turns_a_fail_into_a_pass(figures: ArmFigures, policies: tuple[Policy, Policy]) -> None:
    lax, strict = policies
    assert not judge(figures, strict).passed or judge(figures, lax).passed


@given(any_figures(), st.sampled_from([field.name for field in dataclasses.fields(ArmFigures)]))
@settings(max_examples=80, deadline=None)
def test_taking_a_figure_away_never_turns_a_fail_into_a_pass(figures: ArmFigures, name: str) -> None:
    empty: dict[str, Any] = {
        "epsilon": None, "patient_epsilon": None, "delta": None, "evidence": Evidence(), "cap_tpr_at_fpr": {},
        "exposed": {}, "tpr_at_fpr": {}, "null_p99": float("nan"), "groups": (), "gain_over_baseline": None,
        "utility": Estimate(*[float("nan")] * 3), "difference_to_none": None,
    }  # fmt: skip
    if name in empty:
        poorer = judge(replace(figures, **{name: empty[name]}), POLICY)
        assert not poorer.passed or judge(figures, POLICY).passed
