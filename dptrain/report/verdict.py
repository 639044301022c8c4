"""Verdicts about the arms of a study, as text for a release pipeline's log and as `verdict.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dptrain.report.judge import ArmVerdict, RuleVerdict
from dptrain.report.policy import Policy
from dptrain.report.results import Estimate
from dptrain.report.which_epsilon import EpsilonChoice, choice_words

SCHEMA = 1
"""Raised when a key of verdict.json is renamed, removed or changes its meaning."""
DECIMALS = 6


@dataclass(frozen=True)
class Verdict:
    """A policy held against the arms that were asked about."""

    study: str
    """Name."""
    fingerprint: str
    """Of the study's configuration."""
    version: str
    """Of dptrain."""
    simulated: bool
    policy: Policy
    arms: tuple[ArmVerdict, ...]
    refuted: Mapping[str, tuple[str, ...]]
    """Arms whose guarantee an attack refuted, and how; any of them fails the whole study."""
    choice: EpsilonChoice | None
    """Which epsilon, among all private arms of the study; None if a guarantee is refuted."""

    @property
    def passed(self) -> bool:
        """Every arm passes every rule, and no guarantee of the study is refuted."""
        return bool(self.arms) and all(arm.passed for arm in self.arms) and not self.refuted


def verdict_text(verdict: Verdict) -> str:
    """One line per rule; failures are in capitals."""
    policy = verdict.policy
    simulated = " (SIMULATED data)" if verdict.simulated else ""
    lines = [f"gate: study {verdict.study}{simulated}, policy {policy.name}: {policy.description or 'no description'}"]
    for label, reasons in verdict.refuted.items():
        lines += ["", f"arm {label}: FAIL, an attack does better than its guarantee allows"]
        lines += [f"  {reason}" for reason in reasons]
    for arm in verdict.arms:
        failed = sum(not rule.passed for rule in arm.rules)
        total = f"{len(arm.rules)} rule{'' if len(arm.rules) == 1 else 's'}"
        lines += ["", f"arm {arm.label}: {f'FAIL, {failed} of {total}' if failed else f'pass, {total}'}"]
        lines += [_line(rule) for rule in arm.rules]
    lines += ["", "Brackets: 95% interval; its unfavourable end is held against the limit."] if verdict.arms else []
    if not any(arm.rules for arm in verdict.arms) and not verdict.refuted:
        lines.append("This policy has no limits: a pass says nothing about risk.")
    elif verdict.choice is not None:
        lines += ["", "Which epsilon? " + " ".join(choice_words(verdict.choice))]
    names = ", ".join([arm.label for arm in verdict.arms] or verdict.refuted)
    lines.append(f"gate: {'PASS' if verdict.passed else 'FAIL'} ({names})")
    return "\n".join(lines)


def _line(rule: RuleVerdict) -> str:
    return f"  {'pass' if rule.passed else 'FAIL'}  {rule.rule:<32} {rule.words}"


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """The content of verdict.json; see docs/gate.md."""
    return {
        "schema": SCHEMA,
        "passed": verdict.passed,
        "study": {"name": verdict.study, "fingerprint": verdict.fingerprint, "simulated": verdict.simulated},
        "dptrain": verdict.version,
        "policy": verdict.policy.to_dict(),
        "refuted": {label: list(reasons) for label, reasons in verdict.refuted.items()},
        "arms": [
            {"label": arm.label, "passed": arm.passed, "rules": [_rule(rule) for rule in arm.rules]}
            for arm in verdict.arms
        ],
        "choice": None if verdict.choice is None else _choice(verdict.choice),
    }


def _choice(choice: EpsilonChoice) -> dict[str, Any]:
    return {
        "looked_at": list(choice.looked_at),
        "chosen": choice.chosen,
        "data_cannot_tell": choice.data_cannot_tell,
        "stopped_at": choice.stopped_at,
        "refused": choice.refused,
        "cannot_tell": list(choice.cannot_tell),
        "overlapping": list(choice.overlapping),
        "utility": _figure(choice.utility),
        "loss": _figure(choice.loss),
        "words": list(choice_words(choice)),
    }


def _rule(rule: RuleVerdict) -> dict[str, Any]:
    return {
        "rule": rule.rule,
        "passed": rule.passed,
        "outcome": rule.outcome,
        "limit": rule.limit,
        **_figure(rule.figure),
        "n": rule.n,
        "words": rule.words,
    }


def _figure(figure: Estimate | None) -> dict[str, float | None]:
    if figure is None:
        return {"value": None, "low": None, "high": None}
    return {name: round(getattr(figure, name), DECIMALS) + 0.0 for name in ("value", "low", "high")}
