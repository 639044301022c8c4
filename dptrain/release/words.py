"""The statement as Markdown: the same twelve points, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def as_markdown(statement: Mapping[str, Any]) -> str:
    """The text of statement.md."""
    lines = ["# Privacy statement", ""]
    if statement["void"]:
        lines += ["**There is no guarantee. What ran is not what was accounted:**", ""]
        lines += [f"- {reason}" for reason in statement["void"]]
    else:
        unit = statement["unit"]["words"]
        lines += [
            f"**(epsilon, delta) = ({epsilon_words(statement['epsilon'])}, {statement['delta']:g})** for {unit}.",
            "",
            "What this means: the limits on every attack in point 6. What it does not mean: point 7.",
        ]
    for number, (title, text) in enumerate(_points(statement), 1):
        lines += ["", f"## {number}. {title}", "", *text]
    return "\n".join(lines) + "\n"


def _points(statement: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        ("Setting", _setting(statement["setting"])),
        ("What is protected", _unit(statement["unit"])),
        ("Neighbouring relation", [f"{_sentence(statement['relation']['words'])} (`{statement['relation']['name']}`)"]),
        ("Mechanism", _mechanism(statement["mechanism"])),
        ("Sampling", _sampling(statement["sampling"])),
        ("Accounting and its error", _accounting(statement["accounting"])),
        ("Not covered by epsilon", [f"- {sentence}" for sentence in statement["outside"]]),
        ("Tuning", _tuning(statement["tuning"])),
        ("Audit", [*_audit(statement["audit"]), *_lower_bound(statement.get("lower_bound"))]),
        ("Performance", _utility(statement["utility"])),
        ("Earlier releases on these patients", _earlier(statement["earlier_releases"])),
        ("Versions and preflight", _versions(statement["versions_and_preflight"])),
    ]


def _setting(point: Mapping[str, Any]) -> list[str]:
    simulated = " SIMULATED patients." if point["simulated"] else ""
    return [
        f"Central differential privacy. Cohort: {point['cohort']}.{simulated} Network: {point['network']}.",
        "",
        f"- Trusted: {point['trusted']}.",
        f"- Released: {point['released']}.",
        f"- Protected against: {point['against']}.",
    ]


def _unit(point: Mapping[str, Any]) -> list[str]:
    lines = [_sentence(point["words"])]
    if point["patient_epsilon"]:
        lines += ["", "| records of a patient | epsilon of the patient |", "|---|---|"]
        lines += [f"| {records} | {epsilon_words(value)} |" for records, value in point["patient_epsilon"].items()]
    return lines


def _mechanism(point: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{point['name']}.",
        "",
        f"- noise multiplier {point['noise_multiplier']:.6g}, clipping norm {point['clipping_norm']:g}, "
        f"{point['num_steps']} steps, divisor {point['divisor']:g} (public)",
        f"- noise: {point['noise']}",
    ]
    if point["num_processes"] > 1:
        lines.append(
            f"- the training was continued {point['num_processes'] - 1} times with fresh noise; "
            f"{point['num_lost_steps']} steps were lost in kills and count as spent"
        )
    return lines


def _sampling(point: Mapping[str, Any]) -> list[str]:
    checked = _sentence("Checked: " + point["checked"])
    rate = f"Sampling rate {point['sampling_rate']:g}"
    if point["sampling_rate"] == 1:
        rate += ": every unit is in every step, and nothing is gained from sampling"
    return [f"{_sentence(point['scheme'])} {rate}. {checked}"]


def _accounting(point: Mapping[str, Any]) -> list[str]:
    if point["epsilon"] is None:
        return [_sentence(point["words"])]
    values = [
        f"{name.upper()} {epsilon_words(value)}" for name, value in point["by_accountant"].items() if value is not None
    ]
    caps = point["caps"]
    return [
        f"epsilon {epsilon_words(point['epsilon'])} at delta {point['delta']:g} by {point['accountant']} "
        f"({point['error']}). Side by side: {', '.join(values)}.",
        "",
        "No attack on one unit can do better than this:",
        "",
        "| | at most |",
        "|---|---|",
        *(
            f"| members found (fraction) at a false-positive rate of {fpr} | {cap_words(tpr)} |"
            for fpr, tpr in caps["tpr_at_fpr"].items()
        ),
        f"| AUC (0.5 = guessing) | {cap_words(caps['auc'])} |",
        f"| advantage (TPR - FPR) | {cap_words(caps['advantage'])} |",
        *(
            f"| belief that the unit was a member, from a prior of {prior} | {cap_words(value)} |"
            for prior, value in caps["posterior_at_prior"].items()
        ),
    ]


def _tuning(point: Mapping[str, Any]) -> list[str]:
    cost = "" if point.get("epsilon") is None else f" All together: epsilon {epsilon_words(point['epsilon'])}."
    return [f"Declared: {point['declared']}.{cost}"]


def _audit(point: Mapping[str, Any] | None) -> list[str]:
    if point is None:
        return ["None was named. Measure the risk with a study (`dptrain -m ...`) and name it with `release.study`."]
    attack, cap = point["attack"], point["cap"]
    lines = [
        f"{point['models']} models, {point['words']}.",
        "",
        f"- average attack ({attack['name']}): AUC {_range(attack, 'auc')}"
        + ("" if cap is None else f"; the guarantee allows {cap['auc']:.3f}"),
    ]
    if point.get("withheld"):
        lines.append(f"- the most exposed 1% of patients: {point['withheld']}")
    elif point["patient_auc_p99"] is not None:
        chance = point["patient_auc_p99_null"]
        beside = "" if chance is None else f"; chance alone shows {chance:.3f}"
        lines.append(f"- the most exposed 1% of patients: patient AUC {point['patient_auc_p99']:.3f}{beside}")
    return lines


def _lower_bound(bound: Mapping[str, Any] | None) -> list[str]:
    if bound is None:
        return []
    return [
        "",
        f"Planted canaries: {bound['num_canaries']}, each in this training by a coin. {bound['num_correct']} of "
        f"{bound['num_guesses']} guesses of their coins from the model's answers are right. With "
        f"{bound['confidence']:.0%} confidence epsilon is at least {bound['epsilon_lower_bound']:.3g} "
        f"({bound['method']}); so many canaries could prove {bound['largest_possible']:.3g} at most.",
    ]


def _utility(point: Mapping[str, Any] | None) -> list[str]:
    if point is None:
        return ["All patients were trained on, so none is left to measure performance. See the study of the audit."]
    return [
        f"{point['metric']} on test patients that took no part in the training, 95% interval over patients.",
        "",
        *group_performance(point),
    ]


def group_performance(point: Mapping[str, Any]) -> list[str]:
    """Performance of all test patients and of each group, as a table."""
    rows = [("all", point["all"]), *((f"{group}: {value}", one) for group, values in point["groups"].items()
                                    for value, one in values.items())]  # fmt: skip
    return [
        "| test patients | performance |",
        "|---|---|",
        *(f"| {name} | {_performance(one, point['smallest'])} |" for name, one in rows),
    ]


def _performance(one: Mapping[str, Any] | None, smallest: int) -> str:
    if one is None:
        return f"not reported (n<{smallest})"
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _earlier(point: Mapping[str, Any]) -> list[str]:
    if not point["runs"]:
        return [_sentence(point["words"])]
    total = "" if point["epsilon_of_all"] is None else f"epsilon {epsilon_words(point['epsilon_of_all'])}: "
    return [
        "| arm | cohort | state | patients | unit | epsilon |",
        "|---|---|---|---|---|---|",
        *(
            f"| {run['arm']} | {run['cohort']} | {run['state']} | {run['patients']} | {run['unit']} | "
            f"{epsilon_words(run['epsilon'])} |"
            for run in point["runs"]
        ),
        "",
        _sentence(f"{total}{point['words']}"),
    ]


def _versions(point: Mapping[str, Any]) -> list[str]:
    names = ", ".join(f"{name} {value}" for name, value in point.items() if name != "preflight")
    preflight = point["preflight"]
    findings = preflight.get("findings") or []
    verdict = "passed" if not findings else f"FAILED: {len(findings)} findings"
    return [f"{names}. Preflight {verdict}."]


def _range(values: Mapping[str, Any], name: str) -> str:
    if values.get(name) is None:
        return "not estimable"
    if values.get(f"{name}_low") is None:
        return f"{values[name]:.3f}"
    return f"{values[name]:.3f} ({values[f'{name}_low']:.3f} to {values[f'{name}_high']:.3f})"


def epsilon_words(value: float | None) -> str:
    """Three significant digits, rounded up: a guarantee must not look better than it is."""
    if value is None:
        return "none found"
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.6g}"


def cap_words(value: float) -> str:
    """Four decimals, rounded up, at most 1."""
    return f"{min(1.0, math.ceil(value * 1e4 - 1e-9) / 1e4):.4f}"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."
