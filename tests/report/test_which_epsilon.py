"""Which epsilon: the walk, its words, and how often chance makes it name an arm beyond a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dptrain.report.disclosure import for_release
from dptrain.report.document import Choice, Document, JudgedArm
from dptrain.report.figures import ArmFigures
from dptrain.report.judge import ArmVerdict, judge
from dptrain.report.leaves import Remark
from dptrain.report.page.markdown import section_lines
from dptrain.report.page.sections import which_epsilon_section
from dptrain.report.policy import PerformanceRules, Policy, PrivacyRules, RiskRules
from dptrain.report.results import Estimate
from dptrain.report.suppression import Rule
from dptrain.report.which_epsilon import EpsilonChoice, choice_words, which_epsilon
from tests.report.test_judge import GOOD

POLICY = Policy("p", risk=RiskRules(max_tpr=0.02), performance=PerformanceRules(max_loss=0.05))
LOW, ACROSS, BEYOND = Estimate(0.01, 0.008, 0.012), Estimate(0.02, 0.01, 0.03), Estimate(0.05, 0.04, 0.06)
SMALL, LARGE = Estimate(-0.01, -0.03, 0.01), Estimate(-0.2, -0.22, -0.18)


def arm(epsilon: float | None, tpr: Estimate = LOW, difference: Estimate | None = SMALL, **changes: Any) -> ArmFigures:
    label = "none" if epsilon is None else f"eps={epsilon:g}"
    return replace(
        GOOD, label=label, epsilon=epsilon, patient_epsilon=epsilon, tpr_at_fpr={0.01: tpr},
        difference_to_none=difference, **changes,
    )  # fmt: skip


def choose(*arms: ArmFigures, policy: Policy = POLICY) -> EpsilonChoice:
    figures = {one.label: one for one in arms}
    return which_epsilon("p", figures, [judge(one, policy) for one in arms])


def test_the_largest_that_meets_the_policy_is_named_with_its_cost() -> None:
    found = choose(arm(None, BEYOND, None), arm(8, BEYOND), arm(3, LOW), arm(1, LOW, LARGE))
    assert found.looked_at == ("eps=1", "eps=3", "eps=8")
    assert (found.chosen, found.stopped_at) == ("eps=3", "eps=8")
    assert found.loss == Estimate(0.01, -0.01, 0.03)
    words = " ".join(choice_words(found))
    assert "is that of eps=3 (3 arms looked at" in words
    assert "a change of -0.010 (-0.030 to +0.010) against no privacy, which cannot be told from no change" in words
    assert "eps=8 fails: risk.max_tpr (exceeded)" in words
    assert "cannot tell" not in words


def test_an_arm_that_passes_beyond_one_that_fails_is_not_named() -> None:
    found = choose(arm(8, LOW), arm(3, ACROSS), arm(1, LOW))
    assert found.chosen == "eps=1"
    assert found.stopped_at == "eps=3"
    assert found.cannot_tell == ("eps=3", "eps=8")
    assert "For eps=3 and eps=8 the data cannot tell" in " ".join(choice_words(found))


def test_what_is_known_exactly_does_not_stop_the_walk() -> None:
    policy = replace(POLICY, privacy=PrivacyRules(max_epsilon=4))
    found = choose(arm(8), arm(3), arm(1), policy=policy)
    assert found.chosen == "eps=3"
    assert found.stopped_at is None


def test_performance_is_looked_at_in_one_arm_only() -> None:
    found = choose(arm(8, BEYOND), arm(3, LOW, LARGE), arm(1, LOW, SMALL))
    assert found.chosen is None
    assert found.refused == "eps=3"
    assert "No epsilon of this study meets" in choice_words(found)[0]


def test_too_little_data_is_said() -> None:
    found = choose(arm(8, ACROSS), arm(1, ACROSS))
    assert found.chosen is None
    assert found.data_cannot_tell
    assert "The data cannot tell whether any epsilon meets the policy" in choice_words(found)[0]
    assert "risk.max_tpr (unclear)" in choice_words(found)[0]


def test_nothing_to_choose_from() -> None:
    found = choose(arm(None))
    assert found.chosen is None
    assert choice_words(found) == ("The study has no private arm to choose from.",)


def test_overlapping_arms_are_named_and_others_are_not() -> None:
    found = choose(arm(8), arm(3), arm(1, LOW, Estimate(-0.045, -0.049, -0.041)))
    assert found.chosen == "eps=8"
    assert found.overlapping == ("eps=3",)
    assert "overlaps with that of eps=3, which would protect more" in " ".join(choice_words(found))


def test_without_the_arm_none_the_cost_is_unknown() -> None:
    found = choose(arm(3, difference=None), policy=replace(POLICY, performance=PerformanceRules()))
    assert found.chosen == "eps=3"
    assert "what it costs is unknown" in " ".join(choice_words(found))


def wrong_choices(choose_label: Callable[[dict[str, ArmFigures], Sequence[ArmVerdict]], str | None]) -> float:
    """How often an arm is chosen if all six are just beyond the limit, in 4,000 studies."""
    rng, limit, error, wrong = np.random.default_rng(5), 0.02, 0.004, 0
    for _ in range(4000):
        figures = {}
        for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
            value = limit * 1.0001 + error * rng.normal()
            one = arm(epsilon, Estimate(value, value - 1.96 * error, value + 1.96 * error))
            figures[one.label] = one
        policy = Policy("p", risk=RiskRules(max_tpr=limit))
        wrong += choose_label(figures, [judge(one, policy) for one in figures.values()]) is not None
    return wrong / 4000


def test_chance_lets_an_arm_beyond_the_limit_through_in_one_study_of_forty_at_most() -> None:
    """Six arms and one look's error: 2.5% and three standard errors. The naive choice errs five times as often."""
    assert wrong_choices(lambda figures, verdicts: which_epsilon("p", figures, verdicts).chosen) < 0.025 + 0.0075
    naive = wrong_choices(lambda _, verdicts: next((one.label for one in reversed(verdicts) if one.passed), None))
    assert naive > 0.1


def section_of(document: Document) -> str:
    (found,) = (one for one in [which_epsilon_section(document)] if one is not None)
    return "\n".join(section_lines(found))


@pytest.fixture
def with_choice(document: Document) -> Document:
    judged = (JudgedArm("eps=3", Remark("not met. risk.max_share: 3 of 120")),)
    return replace(document, choice=Choice("ours", Remark("for colleagues"), Remark("The largest is eps=3."), judged))


def test_the_page_says_it_in_a_section_of_its_own(document: Document, with_choice: Document) -> None:
    text = section_of(with_choice)
    assert text.startswith("## Which epsilon?")
    assert "The policy is “ours”: for colleagues." in text
    assert "The largest is ε = 3." in text
    assert "3 of 120" in text
    assert which_epsilon_section(document) is None


def test_a_release_does_not_say_what_was_judged_on_few_patients(with_choice: Document) -> None:
    text = section_of(for_release(with_choice, Rule()))
    assert text.startswith("## Which epsilon?")
    assert "3 of 120" not in text
    assert "The largest is" not in text
    assert text.count("not reported") == 2
