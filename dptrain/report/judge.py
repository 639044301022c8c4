"""A policy held against figures: a verdict per rule, in sentences.

What has an interval must keep the limit with its *unfavourable end*. So an arm whose true value lies beyond a limit
passes that rule with probability at most 2.5%, and since every rule must pass, that also bounds the probability that
the verdict passes at all (an intersection-union test needs no correction for the number of rules). An arm with too few
models or patients has wide intervals and fails: not knowing is never a pass. Why a rule failed is told apart:

* `exceeded`: the whole interval lies beyond the limit, and for counts chance alone would show fewer;
* `unclear`: the interval reaches across the limit, or has no width and says nothing about its error;
* `too_few`: the number of models or patients cannot resolve the figure at all;
* `missing`: the study has no such figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dptrain.audit.subgroups import GroupRisk
from dptrain.report.figures import ArmFigures
from dptrain.report.policy import Policy
from dptrain.report.results import Estimate

WITHIN, EXCEEDED, UNCLEAR, TOO_FEW, MISSING = "within", "exceeded", "unclear", "too_few", "missing"


@dataclass(frozen=True)
class RuleVerdict:
    """One rule, judged."""

    rule: str
    """As in the policy: `risk.max_share`."""
    outcome: str
    """`within` passes; every other outcome fails."""
    words: str
    """The figure, the limit, and why it failed."""
    limit: float | str | None = None
    figure: Estimate | None = None
    """Value and interval (all three equal for what is known exactly); None if there is none."""
    n: int | None = None
    """Patients (or models) behind the figure."""

    @property
    def passed(self) -> bool:
        return self.outcome == WITHIN


@dataclass(frozen=True)
class ArmVerdict:
    """One arm, judged by every rule that the policy has."""

    label: str
    rules: tuple[RuleVerdict, ...]

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)

    @property
    def surely_fails(self) -> bool:
        """Whether more models or patients could not help."""
        return any(rule.outcome == EXCEEDED for rule in self.rules)


def judge(figures: ArmFigures, policy: Policy) -> ArmVerdict:
    """Every rule of the policy for one arm."""
    rules = [*_privacy(figures, policy), *_risk(figures, policy), *_groups(figures, policy)]
    return ArmVerdict(figures.label, (*rules, *_performance(figures, policy), *_power(figures, policy)))


def _privacy(figures: ArmFigures, policy: Policy) -> Iterator[RuleVerdict]:
    rules = policy.privacy
    for_patients = rules.unit == "patient"
    epsilon = figures.patient_epsilon if for_patients else figures.epsilon
    whom = "a patient with all records" if for_patients or figures.unit == "patient" else "one record"
    if rules.unit is not None:
        has = MISSING if epsilon is None else WITHIN
        said = "no epsilon protects" if epsilon is None else "epsilon protects"
        yield RuleVerdict("privacy.unit", has, f"{said} {whom}", rules.unit)
    if rules.max_epsilon is not None:
        yield _exact("privacy.max_epsilon", epsilon, rules.max_epsilon, f"epsilon for {whom}")
    if rules.max_delta is not None:
        yield _exact("privacy.max_delta", figures.delta, rules.max_delta, "delta")
    if rules.max_delta_times_patients is not None:
        product = None if figures.delta is None else figures.delta * figures.num_patients
        words = f"delta times {figures.num_patients:,} training patients"
        yield _exact("privacy.max_delta_times_patients", product, rules.max_delta_times_patients, words)
    if rules.max_tpr is not None:
        cap = figures.cap_tpr_at_fpr.get(rules.at_fpr)
        words = f"TPR at FPR {rules.at_fpr:g} that the guarantee leaves to any attack on a patient"
        yield _exact("privacy.max_tpr", cap, rules.max_tpr, words)
    if rules.checked:
        yield _checked(figures)


def _checked(figures: ArmFigures) -> RuleVerdict:
    evidence = figures.evidence
    if evidence.preflight is None or evidence.ledger is None:
        lacking = [name for name in ("preflight", "ledger") if getattr(evidence, name) is None]
        return RuleVerdict("privacy.checked", MISSING, f"no record of {' and '.join(lacking)}")
    wrong = [f"preflight: {evidence.preflight}"] if evidence.preflight != "passed" else []
    wrong += evidence.ledger
    if wrong:
        return RuleVerdict("privacy.checked", EXCEEDED, f"the guarantee does not hold: {'; '.join(wrong)}")
    words = f"preflight passed, the ledgers of {figures.num_models} models agree with what is accounted"
    return RuleVerdict("privacy.checked", WITHIN, words)


def _risk(figures: ArmFigures, policy: Policy) -> Iterator[RuleVerdict]:
    rules = policy.risk
    if rules.max_share is not None:
        yield _share(figures, rules.patient_auc, rules.max_share)
    if rules.max_tpr is not None:
        words = f"TPR of the attack at FPR {rules.at_fpr:g}"
        found = figures.tpr_at_fpr.get(rules.at_fpr)
        if found is None:
            words = f"{words} cannot be estimated with {figures.num_patients:,} patients"
            yield RuleVerdict("risk.max_tpr", TOO_FEW, words, rules.max_tpr)
        else:
            yield _at_most("risk.max_tpr", found, rules.max_tpr, words, figures.num_models)


def _share(figures: ArmFigures, threshold: float, limit: float) -> RuleVerdict:
    """The share of exposed patients; as much as chance alone would show is not held against the arm, nor for it."""
    words = f"share of patients with a patient AUC of at least {threshold:g}"
    one = figures.exposed.get(threshold)
    if one is None or not one.num_patients:
        return RuleVerdict("risk.max_share", MISSING, f"{words}: not measured", limit)
    if not one.resolvable:
        words = f"{words}: cannot be told with {figures.num_models} models, chance alone shows {one.null_expected:.3g}"
        return RuleVerdict("risk.max_share", TOO_FEW, f"{words} patients", limit, None, one.num_patients)
    share = Estimate(*(value / one.num_patients for value in (one.count, one.low, one.high)))
    verdict = _at_most("risk.max_share", share, limit, words, one.num_patients)
    if verdict.outcome == EXCEEDED and one.count <= one.null_high:
        return replace(verdict, outcome=UNCLEAR, words=f"{verdict.words}; chance may show as many")
    return verdict


def _groups(figures: ArmFigures, policy: Policy) -> Iterator[RuleVerdict]:
    rules = policy.groups
    for name, limit, attribute in (
        ("groups.max_ratio_in_top", rules.max_ratio_in_top, "relative_change"),
        ("groups.max_higher", rules.max_higher, "higher"),
    ):
        if limit is not None:
            yield _worst_group(figures, name, limit, attribute, rules.min_patients)


def _worst_group(figures: ArmFigures, name: str, limit: float, attribute: str, min_patients: int) -> RuleVerdict:
    """The verdict of the group that does worst; groups too small to have a figure are named."""
    judged: list[RuleVerdict] = []
    small = []
    for group in figures.groups:
        if group.num_patients >= figures.num_patients:
            continue
        if not group.reportable or group.num_patients < min_patients:
            small.append(f"{group.attribute} {group.group}")
        else:
            judged.append(_at_most(name, _group_figure(group, attribute), limit, _group_words(group, attribute),
                                   group.num_patients))  # fmt: skip
    beside = f"; not judged (n<{min_patients}): {', '.join(small)}" if small else ""
    if not judged:
        words = "no group of patients to compare: the cohort names no group attribute with two groups large enough"
        return RuleVerdict(name, MISSING, words + beside, limit)
    worst = max(judged, key=_badness)
    words = f"{worst.words} (worst of {len(judged)} groups){beside}"
    return RuleVerdict(name, worst.outcome, words, limit, worst.figure, worst.n)


def _group_figure(group: GroupRisk, attribute: str) -> Estimate:
    found = group.relative_change if attribute == "relative_change" else group.higher
    shift = 1.0 if attribute == "relative_change" else 0.0
    return Estimate(found.value + shift, found.low + shift, found.high + shift)


def _group_words(group: GroupRisk, attribute: str) -> str:
    who = f"{group.attribute} {group.group}"
    if attribute == "relative_change":
        return f"{who}: share among the most exposed 1% over share of all"
    return f"{who}: probability of a higher risk than others"


def _badness(verdict: RuleVerdict) -> tuple[int, float]:
    order = (WITHIN, UNCLEAR, TOO_FEW, MISSING, EXCEEDED).index(verdict.outcome)
    return order, -math.inf if verdict.figure is None else verdict.figure.high


def _performance(figures: ArmFigures, policy: Policy) -> Iterator[RuleVerdict]:
    rules, n = policy.performance, figures.num_test_patients
    if rules.min_utility is not None:
        yield _at_least("performance.min_utility", figures.utility, rules.min_utility, "AUROC on test patients", n)
    if rules.max_loss is not None:
        if figures.label == "none":
            yield RuleVerdict("performance.max_loss", WITHIN, "this is the arm without privacy", rules.max_loss)
        else:
            found = figures.difference_to_none
            loss = None if found is None else Estimate(-found.value, -found.high, -found.low)
            yield _at_most("performance.max_loss", loss, rules.max_loss, "loss of AUROC against the arm none", n)
    if rules.min_gain_over_baseline is not None:
        words = "AUROC minus that of logistic regression with the same privacy"
        limit = rules.min_gain_over_baseline
        yield _at_least("performance.min_gain_over_baseline", figures.gain_over_baseline, limit, words, n)


def _power(figures: ArmFigures, policy: Policy) -> Iterator[RuleVerdict]:
    rules = policy.power
    for name, value, limit, words in (
        ("min_models", figures.num_models, rules.min_models, "models per arm"),
        ("min_patients", figures.num_patients, rules.min_patients, "training patients"),
        ("min_test_patients", figures.num_test_patients, rules.min_test_patients, "test patients"),
    ):
        if limit is not None:
            outcome = WITHIN if value >= limit else TOO_FEW
            text = f"{value:,} {words}; at least {limit:,}"
            yield RuleVerdict(f"power.{name}", outcome, text, limit, Estimate(value, value, value), value)
    if rules.max_null_auc is not None:
        words = f"patient AUC that chance alone shows for the most exposed 1%, with {figures.num_models} models"
        verdict = _exact("power.max_null_auc", figures.null_p99, rules.max_null_auc, words)
        yield replace(verdict, outcome=TOO_FEW) if verdict.outcome == EXCEEDED else verdict


def _exact(name: str, value: float | None, limit: float, words: str) -> RuleVerdict:
    """A figure that is known, not estimated."""
    if value is None or not math.isfinite(value):
        return RuleVerdict(name, MISSING, f"{words}: there is none; at most {limit:g}", limit)
    outcome = WITHIN if value <= limit else EXCEEDED
    return RuleVerdict(name, outcome, f"{words}: {value:.4g}; at most {limit:g}", limit, Estimate(value, value, value))


def _at_most(name: str, found: Estimate | None, limit: float, words: str, n: int | None) -> RuleVerdict:
    return _estimated(name, found, limit, words, n, upper=True)


def _at_least(name: str, found: Estimate | None, limit: float, words: str, n: int | None) -> RuleVerdict:
    return _estimated(name, found, limit, words, n, upper=False)


def _estimated(
    name: str, found: Estimate | None, limit: float, words: str, n: int | None, *, upper: bool
) -> RuleVerdict:
    """The unfavourable end of the interval against the limit."""
    bound = f"{'at most' if upper else 'at least'} {limit:g}"
    if found is None or not all(math.isfinite(value) for value in (found.value, found.low, found.high)):
        return RuleVerdict(name, MISSING, f"{words}: there is no figure; {bound}", limit, None, n)
    text = f"{words}: {found.value:.4g} ({found.low:.4g} to {found.high:.4g}); {bound}"
    unfavourable, favourable = (found.high, found.low) if upper else (found.low, found.high)
    beyond = (lambda value: value > limit) if upper else (lambda value: value < limit)
    if beyond(favourable):
        return RuleVerdict(name, EXCEEDED, text, limit, found, n)
    if beyond(unfavourable):
        return RuleVerdict(name, UNCLEAR, f"{text}: cannot be told with these data", limit, found, n)
    if found.low == found.high:
        return RuleVerdict(name, UNCLEAR, f"{text}: an interval without width says nothing", limit, found, n)
    return RuleVerdict(name, WITHIN, text, limit, found, n)
