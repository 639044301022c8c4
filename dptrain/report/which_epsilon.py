"""Which epsilon? The largest one whose arm meets a policy, what it costs, and when the data cannot tell.

Looking at many arms and taking the best that passes is many looks: with K arms beyond a limit, chance lets one through
K times as often as one. So the limits on risk are walked through from the smallest epsilon upwards, and the walk stops
at the first arm that fails one (a fixed sequence; Maurer, Hothorn & Lehmacher 1995): an arm beyond a limit is chosen
with probability at most 2.5%, however many arms there are, because the first such arm in the walk must be let through.
Less epsilon never has more risk, so nothing is lost but luck. Arms that the policy forbids for what is known exactly
(epsilon, delta, number of models) are not chosen; performance is looked at in the one arm that is left, and has its own
2.5%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dptrain.report.figures import ArmFigures
from dptrain.report.judge import ArmVerdict, RuleVerdict
from dptrain.report.results import Estimate

RISK = ("risk.", "groups.")
PERFORMANCE = ("performance.",)
"""Rules of estimated figures, by the beginnings of their names; all others are known exactly."""


@dataclass(frozen=True)
class EpsilonChoice:
    """The answer for one policy."""

    policy: str
    looked_at: tuple[str, ...]
    """Private arms, epsilon rising."""
    chosen: str | None
    """None: no arm can be named."""
    stopped_at: str | None
    """First arm of the walk that fails a limit on risk; None if none does."""
    stopped_by: tuple[RuleVerdict, ...]
    """The rules that it fails."""
    refused_by: tuple[RuleVerdict, ...]
    """Without a choice: the rules that the most promising arm fails."""
    refused: str | None
    """Without a choice: that arm."""
    cannot_tell: tuple[str, ...]
    """Arms of larger epsilon that may meet the policy as well: nothing shows that they do not."""
    utility: Estimate | None
    """Performance of the chosen arm."""
    loss: Estimate | None
    """Of the chosen arm against the arm `none`, paired; negative is a gain. None without that arm."""
    overlapping: tuple[str, ...]
    """Arms of smaller epsilon that meet the policy, and whose loss has an interval that overlaps with the chosen
    one's."""

    @property
    def data_cannot_tell(self) -> bool:
        """Without a choice: whether more models or patients could show that some arm meets the policy."""
        return bool(self.refused_by) and not any(rule.outcome == "exceeded" for rule in self.refused_by)


def which_epsilon(policy: str, figures: Mapping[str, ArmFigures], verdicts: Sequence[ArmVerdict]) -> EpsilonChoice:
    """The choice among the private arms of a study.

    Args:
        policy: name of the policy, for the words.
        figures: of every arm, by label.
        verdicts: `judge` of every arm; those of arms without epsilon are not looked at.
    """
    private = [one for one in verdicts if figures[one.label].epsilon is not None]
    walk = sorted(private, key=lambda one: figures[one.label].epsilon or 0.0)
    place = next((index for index, one in enumerate(walk) if _failed(one, RISK)), len(walk))
    kept, beyond = walk[:place], walk[place:]
    allowed = [one for one in kept if not _failed_exactly(one)]
    best = allowed[-1] if allowed else None
    chosen = best if best is not None and best.passed else None
    refused = None if chosen is not None or not walk else best or walk[0]
    return EpsilonChoice(
        policy=policy,
        looked_at=tuple(one.label for one in walk),
        chosen=None if chosen is None else chosen.label,
        stopped_at=beyond[0].label if beyond else None,
        stopped_by=_failed(beyond[0], RISK) if beyond else (),
        refused=None if refused is None else refused.label,
        refused_by=() if refused is None else tuple(rule for rule in refused.rules if not rule.passed),
        cannot_tell=tuple(one.label for one in beyond if not one.surely_fails),
        utility=None if chosen is None else figures[chosen.label].utility,
        loss=None if chosen is None else _loss(figures[chosen.label]),
        overlapping=() if chosen is None else _overlapping(chosen, kept, figures),
    )


def _failed(verdict: ArmVerdict, names: tuple[str, ...]) -> tuple[RuleVerdict, ...]:
    return tuple(rule for rule in verdict.rules if rule.rule.startswith(names) and not rule.passed)


def _failed_exactly(verdict: ArmVerdict) -> bool:
    """Whether a rule about something that is known exactly fails."""
    return any(not rule.rule.startswith((*RISK, *PERFORMANCE)) and not rule.passed for rule in verdict.rules)


def _loss(figures: ArmFigures) -> Estimate | None:
    found = figures.difference_to_none
    return None if found is None else Estimate(-found.value, -found.high, -found.low)


def _overlapping(
    chosen: ArmVerdict, kept: Sequence[ArmVerdict], figures: Mapping[str, ArmFigures]
) -> tuple[str, ...]:
    mine = _loss(figures[chosen.label])
    found = []
    for one in kept:
        theirs = _loss(figures[one.label])
        if one is not chosen and one.passed and mine is not None and theirs is not None and theirs.low <= mine.high:
            found.append(one.label)
    return tuple(found)


def choice_words(choice: EpsilonChoice) -> tuple[str, ...]:
    """The answer in sentences."""
    if not choice.looked_at:
        return ("The study has no private arm to choose from.",)
    looks = f"{len(choice.looked_at)} arm{'s' if len(choice.looked_at) > 1 else ''}"
    if choice.chosen is None:
        words = [_refusal(choice, looks)]
    else:
        words = [
            f"The largest epsilon that meets the policy {choice.policy} is that of {choice.chosen} ({looks} looked at, "
            "from the smallest epsilon upwards).",
            _cost(choice),
        ]
        if choice.overlapping:
            more = "which would protect more"
            words.append(f"The interval of that change overlaps with that of {_list(choice.overlapping)}, {more}.")
    if choice.chosen is not None and choice.stopped_at is not None:
        words.append(f"{choice.stopped_at} fails: {_rules(choice.stopped_by)}.")
    if choice.chosen is not None and choice.cannot_tell:
        words.append(f"For {_list(choice.cannot_tell)} the data cannot tell: more models or patients might show more.")
    return tuple(words)


def _refusal(choice: EpsilonChoice, looks: str) -> str:
    why = f"{choice.refused} fails: {_rules(choice.refused_by)}"
    if choice.data_cannot_tell:
        return (
            f"The data cannot tell whether any epsilon meets the policy {choice.policy} ({looks} looked at). The most "
            f"promising arm, {why}. More models (fleet.num_models), more patients, or what is missing might show it."
        )
    return f"No epsilon of this study meets the policy {choice.policy} ({looks} looked at). {why}."


def _cost(choice: EpsilonChoice) -> str:
    assert choice.utility is not None
    performance = f"Its performance (AUROC) is {_interval(choice.utility)}"
    if choice.loss is None:
        return f"{performance}; what it costs is unknown without the arm none."
    change = Estimate(-choice.loss.value, -choice.loss.high, -choice.loss.low)
    sure = "" if change.low > 0 or change.high < 0 else ", which cannot be told from no change"
    return f"{performance}, a change of {_interval(change, '+.3f')} against no privacy{sure}."


def _rules(rules: Sequence[RuleVerdict]) -> str:
    return ", ".join(f"{rule.rule} ({rule.outcome.replace('_', ' ')})" for rule in rules)


def _interval(figure: Estimate, form: str = ".3f") -> str:
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def _list(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
