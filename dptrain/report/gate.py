"""`dptrain gate STUDY --policy POLICY`: may a model like those of this study be released?

Exit code 0: every arm asked about meets the policy. 1: it does not, or the data cannot tell. 2: nothing could be judged
(no such policy or study, an arm without all its models, a damaged file). The figures are computed from the folder anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dptrain import __version__
from dptrain.arguments import ArgumentParser
from dptrain.errors import StudyError
from dptrain.options import near_miss
from dptrain.report.analysis import analyse
from dptrain.report.contradictions import GuaranteeRefuted
from dptrain.report.document import Choice, JudgedArm
from dptrain.report.figures import arm_figures, read_evidence
from dptrain.report.judge import ArmVerdict, judge
from dptrain.report.leaves import Remark
from dptrain.report.policy import Policy, load_policy
from dptrain.report.results import StudyResult
from dptrain.report.verdict import Verdict, as_dict, verdict_text
from dptrain.report.which_epsilon import EpsilonChoice, choice_words, which_epsilon
from dptrain.study.atomic import write_json
from dptrain.study.folder import StudyFolder

VERDICT = "verdict.json"
CHOSEN = "chosen"
"""In place of a label: the arm of the largest epsilon that meets the policy, or the one that comes closest."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What was asked."""

    study: Path
    policy: str
    arms: tuple[str, ...]
    """Labels; () asks about every private arm."""


def parse(arguments: Sequence[str]) -> Request:
    """The checked arguments; raises ConfigError."""
    parser = ArgumentParser(
        "dptrain gate",
        "Hold a study against a policy. Exit code 0: met; 1: not met, or the data cannot tell; 2: nothing was judged.",
    )
    parser.add_argument("study", metavar="STUDY", help="folder of the study")
    parser.add_argument("--policy", required=True, help="strict, research, none, or a file (docs/gate.md)")
    help_arm = "such as eps=3, or chosen; may be repeated (default: every private arm)"
    parser.add_argument("--arm", action="append", default=[], metavar="LABEL", help=help_arm)
    given = parser.parse_args(list(arguments))
    return Request(Path(given.study), given.policy, tuple(dict.fromkeys(given.arm)))


def gate(arguments: Sequence[str]) -> tuple[bool, str]:
    """Judge, write `verdict.json` into the study's folder; whether it passed, and the text to print.

    Raises ConfigError or StudyError where nothing can be judged; an older verdict is then gone.
    """
    request = parse(arguments)
    if (request.study / "study.json").exists():
        _withdraw(request.study / VERDICT)
    policy = load_policy(request.policy)
    verdict = judge_study(StudyFolder.open(request.study), policy, request.arms)
    write_json(request.study / VERDICT, as_dict(verdict))
    return verdict.passed, f"{verdict_text(verdict)}\nFigures and limits: {request.study / VERDICT}"


def _withdraw(path: Path) -> None:
    """An older verdict may not stand while a new one is made, nor if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(f"Cannot replace the older verdict {path}: {error.strerror or error}.") from error


def judge_arms(
    study: StudyFolder, result: StudyResult, policy: Policy
) -> tuple[dict[str, ArmVerdict], EpsilonChoice]:
    """Every complete arm of an analysed study, judged, and the epsilon to choose."""
    evidence, seed = read_evidence(study), int(study.settings["seed"])
    figures = {arm.label: arm_figures(result, arm.label, evidence[arm.label], seed) for arm in result.arms}
    verdicts = {label: judge(one, policy) for label, one in figures.items()}
    return verdicts, which_epsilon(policy.name, figures, list(verdicts.values()))


def judge_study(study: StudyFolder, policy: Policy, labels: Sequence[str] = ()) -> Verdict:
    """The verdict about some arms, or about every private one."""
    asked = _arms(study, [label for label in labels if label != CHOSEN])
    cohort = study.info["cohort"]
    about = (str(study.info["name"]), str(study.info["fingerprint"]), __version__, bool(cohort["simulated"]), policy)
    try:
        result = analyse(study)
    except GuaranteeRefuted as refuted:
        return Verdict(*about, (), refuted.by_arm, None)
    verdicts, choice = judge_arms(study, result, policy)
    best = choice.chosen or choice.refused
    wanted = [best if label == CHOSEN and best is not None else label for label in labels or asked]
    return Verdict(*about, tuple(verdicts[label] for label in dict.fromkeys(wanted)), {}, choice)


def choice_for_report(study: StudyFolder, result: StudyResult, policy: Policy) -> Choice:
    """What a report document says about a policy."""
    verdicts, choice = judge_arms(study, result, policy)
    return Choice(
        policy=policy.name,
        description=Remark(policy.description),
        answer=Remark(" ".join(choice_words(choice))),
        arms=tuple(JudgedArm(label, Remark(_summary(verdicts[label]))) for label in choice.looked_at),
    )


def _summary(verdict: ArmVerdict) -> str:
    failed = [rule for rule in verdict.rules if not rule.passed]
    if not failed:
        return f"met: {len(verdict.rules)} rules" if verdict.rules else "no limits"
    return "not met. " + "; ".join(f"{rule.rule}: {rule.words}" for rule in failed)


def _arms(study: StudyFolder, labels: Sequence[str]) -> list[str]:
    """Labels to judge, all of them complete; raises StudyError."""
    begun = study.arm_labels()
    asked = list(labels) or [label for label in begun if study.arm(label).epsilon is not None]
    if not asked:
        raise StudyError(
            f"{study.path} has no private arm (it has {', '.join(begun) or 'none at all'}). Train one with "
            "privacy.epsilon=3, or name the arm to judge: --arm none."
        )
    problems = [
        f"--arm {label}: the study has no such arm{near_miss(label, begun)}; it has {', '.join(begun)}."
        for label in asked
        if label not in begun
    ]
    problems += [
        f"Arm {label} lacks models: {len(study.finished_blocks(label))} of {len(study.blocks(label))} blocks are "
        "there. Run the study's command again, or name the arms to judge with --arm."
        for label in asked
        if label in begun and not study.is_complete(label)
    ]
    if problems:
        raise StudyError(problems)
    return asked
