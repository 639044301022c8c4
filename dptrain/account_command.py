"""`dptrain account`: what a mechanism costs and what it keeps attackers from, before anything is trained.

    dptrain account --sampling-rate 0.01 --num-steps 500 --noise-multiplier 1.0 --delta 1e-5
    dptrain account --sampling-rate 0.01 --num-steps 500 --target-epsilon 2 --delta 1e-5
    dptrain account --sampling-rate 0.01 --num-steps 500 --target-tpr 0.05 --at-fpr 0.01 --delta 1e-5
    dptrain account --sampling-rate 0.01 --num-steps 500 --target-advantage 0.1 --delta 1e-5 --json

Arguments in, text out; `privacy/summary.py` has the numbers. In the table epsilons and caps are rounded up.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from dptrain.arguments import ArgumentParser
from dptrain.errors import ConfigError
from dptrain.privacy.accounting import Accounting
from dptrain.privacy.calibration import calibrate_noise, calibrate_to_advantage, calibrate_to_tpr
from dptrain.privacy.summary import FPRS, MechanismSummary, summarise

DIGITS = 4
"""Significant digits of a bound in the table."""

MOST_STEPS = 10_000_000
"""dp-accounting's composition takes time in proportion to the number of steps: 4 s here, and minutes for 1e9."""


@dataclass(frozen=True)
class Question:
    """The checked arguments; exactly one of noise and the three targets is there."""

    sampling_rate: float
    num_steps: int
    delta: float
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    target_tpr: float | None = None
    at_fpr: float | None = None
    target_advantage: float | None = None
    as_json: bool = False


def answer(arguments: Sequence[str]) -> str:
    """The text that `dptrain account ARGUMENTS` prints. Raises ConfigError listing everything that is wrong."""
    question = parse(arguments)
    try:
        noise_multiplier = _noise(question)
        summary = summarise(question.sampling_rate, noise_multiplier, question.num_steps, question.delta)
    except ArithmeticError as error:
        raise ConfigError(f"The privacy loss is too large to compute ({error}). Use more noise.") from None
    except ValueError as error:
        advice = "" if question.noise_multiplier is not None else " Ask for less, or take fewer steps."
        raise ConfigError(f"{error}{advice}") from None
    return as_json(summary) if question.as_json else as_table(summary, _reason_for_noise(question))


def parse(arguments: Sequence[str]) -> Question:
    """Checked arguments; every problem is found before it stops."""
    parser = ArgumentParser(
        "dptrain account",
        "Epsilon by every accountant, the caps on every attack, and what record-level privacy means for "
        "a patient. Give the noise, or one target that the noise is searched for.",
    )
    # Texts here, numbers below: argparse would stop at the first that is wrong and not say what to do.
    parser.add_argument("--sampling-rate", metavar="Q", help="probability of a unit per step, in (0, 1]")
    parser.add_argument("--num-steps", metavar="T", help="number of noisy steps")
    parser.add_argument("--delta", metavar="D", help="delta of the guarantee; below 1 / number of patients")
    parser.add_argument("--noise-multiplier", metavar="S", help="sigma, in units of the clipping norm")
    parser.add_argument("--target-epsilon", metavar="E", help="search the smallest noise with at most this epsilon")
    parser.add_argument("--target-tpr", metavar="T", help="... no attack with a true-positive rate above T at --at-fpr")
    parser.add_argument("--at-fpr", metavar="F", help="false-positive rate of --target-tpr")
    parser.add_argument("--target-advantage", metavar="A", help="... no attack with TPR - FPR above A")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    given = parser.parse_args(_with_values_attached(arguments))
    problems: list[str] = []
    sampling_rate = _fraction(problems, "--sampling-rate", given.sampling_rate, may_be_one=True)
    num_steps = _count(problems, "--num-steps", given.num_steps)
    delta = _fraction(problems, "--delta", given.delta)
    question = Question(
        sampling_rate=sampling_rate if sampling_rate is not None else math.nan,
        num_steps=num_steps if num_steps is not None else 0,
        delta=delta if delta is not None else math.nan,
        noise_multiplier=_positive(
            problems, "--noise-multiplier", given.noise_multiplier, "Without noise there is no epsilon."
        ),
        target_epsilon=_positive(
            problems, "--target-epsilon", given.target_epsilon, "A run without DP has nothing to account."
        ),
        target_tpr=_fraction(problems, "--target-tpr", given.target_tpr),
        at_fpr=_fraction(problems, "--at-fpr", given.at_fpr),
        target_advantage=_fraction(problems, "--target-advantage", given.target_advantage),
        as_json=given.json,
    )
    for flag, value, what in (
        ("--sampling-rate", given.sampling_rate, "the probability of a unit per step, for example 0.01"),
        ("--num-steps", given.num_steps, "the number of noisy steps, for example 500"),
        ("--delta", given.delta, "well below 1 / number of patients, for example 1e-5"),
    ):
        if value is None:
            problems.append(f"{flag} is missing: give {what}.")
    _check_targets(problems, given, question)
    if problems:
        raise ConfigError(problems)
    return question


def _with_values_attached(arguments: Sequence[str]) -> list[str]:
    """`--delta -1e-5` as `--delta=-1e-5`: argparse takes a negative number with an exponent for a flag."""
    attached: list[str] = []
    for argument in arguments:
        if attached and attached[-1].startswith("--") and "=" not in attached[-1] and _is_number(argument):
            attached[-1] += f"={argument}"
        else:
            attached.append(argument)
    return attached


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_targets(problems: list[str], given: argparse.Namespace, question: Question) -> None:
    choices = {
        "--noise-multiplier": given.noise_multiplier,
        "--target-epsilon": given.target_epsilon,
        "--target-tpr": given.target_tpr,
        "--target-advantage": given.target_advantage,
    }
    chosen = [f"{flag}={value}" for flag, value in choices.items() if value is not None]
    if not chosen:
        problems.append(f"The noise is missing: give one of {', '.join(choices)}.")
    if len(chosen) > 1:
        problems.append(f"{' and '.join(chosen)} were given together; expected one of them. Leave the others out.")
    if given.target_tpr is not None and given.at_fpr is None:
        problems.append(
            f"--target-tpr={given.target_tpr} needs the false-positive rate where it holds, for example --at-fpr 0.01."
        )
    if given.at_fpr is not None and given.target_tpr is None:
        problems.append(f"--at-fpr={given.at_fpr} belongs to --target-tpr, which is missing. Give both or none.")
    tpr, fpr = question.target_tpr, question.at_fpr
    if tpr is not None and fpr is not None and not fpr < tpr:
        problems.append(
            f"--target-tpr={given.target_tpr} must be above --at-fpr={given.at_fpr}: guessing alone reaches TPR = FPR. "
            "Raise --target-tpr or lower --at-fpr."
        )


def _number(problems: list[str], flag: str, text: str | None, expected: str) -> float | None:
    """The number, None if it was not given or is none (then there is a problem)."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isnan(value):
        return value
    hint = ""
    if text.endswith("%") and _is_number(text[:-1]):
        hint = f" Write {float(text[:-1]) / 100:.6g} for {text}."
    problems.append(f"{flag}={text} must be {expected}.{hint}")
    return None


def _fraction(problems: list[str], flag: str, text: str | None, may_be_one: bool = False) -> float | None:
    interval = "(0, 1]" if may_be_one else "(0, 1)"
    value = _number(problems, flag, text, f"a fraction in {interval}")
    if value is None or 0 < value < 1 or (may_be_one and value == 1):
        return value
    hint = f"It is a fraction, not percent: for {text}% write {value / 100:.6g}." if 1 <= value < 100 else (
        "A private release needs a little of it." if flag == "--delta" else "Take a number between 0 and 1."
    )  # fmt: skip
    problems.append(f"{flag}={text} must be in {interval}. {hint}")
    return None


def _positive(problems: list[str], flag: str, text: str | None, hint: str) -> float | None:
    value = _number(problems, flag, text, "a finite number > 0")
    if value is None or (value > 0 and math.isfinite(value)):
        return value
    problems.append(f"{flag}={text} must be a finite number > 0. {hint}")
    return None


def _count(problems: list[str], flag: str, text: str | None) -> int | None:
    value = _number(problems, flag, text, "a whole number >= 1")
    if value is None:
        return None
    if 1 <= value <= MOST_STEPS and value == int(value):
        return int(value)
    problems.append(
        f"{flag}={text} must be a whole number >= 1."
        if not value > MOST_STEPS
        else f"{flag}={text} must be a whole number of at most {MOST_STEPS:,}. No accountant here is fast beyond that."
    )
    return None


def _noise(question: Question) -> float:
    q, num_steps = question.sampling_rate, question.num_steps
    if question.target_epsilon is not None:
        return calibrate_noise(question.target_epsilon, q, num_steps, question.delta).noise_multiplier
    if question.target_tpr is not None and question.at_fpr is not None:
        return calibrate_to_tpr(question.target_tpr, question.at_fpr, q, num_steps).noise_multiplier
    if question.target_advantage is not None:
        return calibrate_to_advantage(question.target_advantage, q, num_steps).noise_multiplier
    assert question.noise_multiplier is not None
    return question.noise_multiplier


def _reason_for_noise(question: Question) -> str:
    if question.noise_multiplier is not None:
        return "as given"
    if question.target_epsilon is not None:
        promise = f"epsilon <= {question.target_epsilon!r}"
    elif question.target_tpr is not None:
        promise = f"TPR <= {question.target_tpr!r} at FPR {question.at_fpr!r}"
    else:
        promise = f"advantage <= {question.target_advantage!r}"
    return f"smallest with {DIGITS} digits for {promise}"


def as_json(summary: MechanismSummary) -> str:
    """Finite numbers or null, unrounded."""
    accounting = summary.accounting
    content = {
        "noise_multiplier": accounting.noise_multiplier,
        "epsilon": {name: _finite(getattr(accounting, name)) for name in ("prv", "pld", "rdp")},
        "tpr_at_fpr": {f"{fpr:g}": _finite(summary.tpr_at_fpr[fpr]) for fpr in FPRS},
        "auc": _finite(summary.auc),
        "advantage": _finite(summary.advantage),
        "patient_epsilon": {str(records): _finite(value) for records, value in summary.patient_epsilon.items()},
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def as_table(summary: MechanismSummary, reason_for_noise: str) -> str:
    """Three columns: what, how much, and what to know about it."""
    accounting, gaussian = summary.accounting, summary.gaussian
    sections: list[tuple[str, list[tuple[str, str, str]]]] = [
        (
            "mechanism",
            [
                ("sampling rate", _plain(accounting.sampling_rate), "probability of a unit per step"),
                ("steps", f"{accounting.num_steps}", ""),
                ("noise multiplier", _plain(accounting.noise_multiplier), reason_for_noise),
            ],
        ),
        (
            f"epsilon at delta {_plain(accounting.delta)}, for adding or removing one unit",
            [
                ("PRV", *_bound(accounting.prv, summary.reasons.get("prv", ""))),
                ("PLD", *_bound(accounting.pld, summary.reasons.get("pld", ""))),
                ("RDP", *_bound(accounting.rdp, summary.reasons.get("rdp", "never too small, often loose"))),
                ("closed form", *_bound(summary.closed_form, summary.reasons.get("closed form", "exact"))),
                ("reported", *_bound(accounting.epsilon, _why_reported(accounting))),
            ],
        ),
        (
            "cap: no attack on one unit can do better",
            [
                *(
                    (f"TPR at FPR {fpr:g}", _up(tpr), f"guessing: {fpr:g}")
                    for fpr, tpr in summary.tpr_at_fpr.items()
                ),
                ("advantage (TPR - FPR)", _up(summary.advantage), "guessing: 0"),
                ("AUC", _up(summary.auc), "guessing: 0.5"),
                ("mu-GDP", f"mu {gaussian.mu:.4g}", f"{gaussian.label}; TPR {gaussian.max_tpr(0.01):.4g} at FPR 0.01"),
            ],
        ),
        (
            "probability of membership that an attacker can reach at most",
            [
                (
                    f"prior {prior:g} ({prior:.0%})",
                    _up(summary.posterior_by_epsilon[prior]),
                    f"from epsilon; {_up(summary.posterior_after_alarm[prior])} after an alarm at FPR 0.01",
                )
                for prior in summary.posterior_by_epsilon
            ],
        ),
        (
            "epsilon of a whole patient, if records are the unit (privacy.unit=record)",
            [
                (f"{records} record{'s' if records > 1 else ''}", *_bound(value, summary.reasons.get(str(records), "")))
                for records, value in summary.patient_epsilon.items()
            ],
        ),
    ]  # fmt: skip
    rows = [row for _, section in sections for row in section]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines: list[str] = []
    for title, section in sections:
        lines += ["", title, *(f"  {a:<{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in section)]
    remarks = [note for note in accounting.notes if note.partition(": ")[0] not in ("PRV", "PLD", "RDP")]
    unit = "With privacy.unit=patient the unit is a patient with all records, and the epsilon above is the patient's."
    return "\n".join([*lines[1:], "", unit, *remarks])


def _why_reported(accounting: Accounting) -> str:
    if accounting.accountant == "closed form":
        return "the closed form"
    others = [name.upper() for name in ("prv", "pld") if getattr(accounting, name) is not None]
    return f"the larger of {' and '.join(others)}" if len(others) == 2 else "the only one fit to report"


def _bound(value: float | None, remark: str) -> tuple[str, str]:
    return ("-" if value is None else _up(value)), remark


def _plain(value: float) -> str:
    """As Python writes it, without a trailing `.0`."""
    return repr(float(value)).removesuffix(".0")


def _up(value: float) -> str:
    """Four significant digits, rounded up."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    number = Decimal(repr(float(value)))
    step = Decimal(1).scaleb(number.adjusted() - DIGITS + 1)
    rounded = number.quantize(step, rounding=ROUND_CEILING)
    return f"{rounded:f}" if 1e-5 <= value < 1e7 else f"{float(rounded):.{DIGITS}g}"
