"""Arms and figures in words that a doctor understands; the one place where labels become language."""

from __future__ import annotations

import math
import re

from dptrain.report.results import ArmResult, StudyResult

METRIC_WORDS = {
    "auroc": "Diagnostic performance (AUROC)",
    "auroc_macro": "Diagnostic performance (mean AUROC)",
}


def short_name(arm: ArmResult) -> str:
    """A few words beside a point."""
    fixed = {"none": "no privacy", "matched": "private recipe,\nno protection", "clip": "clipping only"}
    return fixed.get(arm.label) or _promise(arm, "{risk}\n(ε = {epsilon})", short=True)


def long_name(arm: ArmResult) -> str:
    """The arm's line in the legend."""
    fixed = {
        "none": "no privacy: usual training",
        "matched": "control: private recipe without protection",
        "clip": "control: clipping without noise",
    }
    return fixed.get(arm.label) or _promise(arm, "no attack{on} {risk} (ε = {epsilon})", short=False)


def _promise(arm: ArmResult, words: str, *, short: bool) -> str:
    """What a private arm was asked for: its epsilon, or a cap on attacks with the epsilon that this took."""
    if not arm.target.is_by_risk:
        return f"ε = {arm.target_epsilon:g}" if short else f"differential privacy, ε = {arm.target_epsilon:g}"
    if arm.target.target_advantage is not None:
        most = _percent(arm.target.target_advantage)
        risk = f"advantage ≤ {most}" if short else f"with advantage above {most}"
    else:
        assert arm.target.target_tpr is not None
        assert arm.target.target_fpr is not None
        most = f"{_percent(arm.target.target_tpr)} at FPR {_percent(arm.target.target_fpr)}"
        risk = f"TPR ≤ {most}" if short else f"above TPR {most}"
    # Without a cap for patients (records are protected, and patients have several) the promise is about one record.
    on = "" if arm.cap is not None else " on one record"
    return words.format(risk=risk, on=on, epsilon=_rounded_up(arm.epsilon or 0.0))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.6g}%"


def _rounded_up(epsilon: float) -> str:
    """Three digits, never less than was spent."""
    if epsilon == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(epsilon)) - 2)
    return f"{math.ceil(epsilon / step * (1 - 1e-12)) * step:.3g}"


STAND_IN = re.compile("no patient identifiers: the unit of privacy is the ([a-z]+)")
"""How readers of data without patients warn, and what they count instead."""


def patient_word(result: StudyResult) -> str:
    """What a patient is in these data: a patient, or what is counted where there are no patient identifiers (image)."""
    found = [match[1] for match in map(STAND_IN.search, result.warnings) if match]
    return found[0] if found else "patient"


def explanation(result: StudyResult) -> str:
    """The lines below the legend."""
    word = patient_word(result)
    if word == "patient":
        return _abbreviations(result)
    return f"No patient identifiers in these data: read “{word}” for “patient”.\n{_abbreviations(result)}"


def _abbreviations(result: StudyResult) -> str:
    if any(arm.target.is_by_risk for arm in result.arms):
        return (
            "Bars: 95% intervals.  ε (epsilon): smaller is safer.  AUROC: 0.5 = guessing, 1 = all told rightly.  "
            "TPR: members found.  FPR: others accused.  Advantage: TPR - FPR."
        )
    return (
        "Bars: 95% intervals.  ε (epsilon): smaller means stronger protection.  "
        "AUROC: 0.5 = guessing, 1 = every patient told rightly."
    )


def subtitle(result: StudyResult) -> str:
    """One line: whose data, how many models, what is protected."""
    simulated = " (SIMULATED data)" if result.simulated else ""
    word = patient_word(result)
    unit = "one patient with all records" if word == "patient" else f"one {word}"
    if result.unit == "record":
        unit = "one single record"
    return (
        f"{result.cohort}{simulated}   ·   {result.num_patients:,} training {word}s, "
        f"{result.num_test_patients:,} test {word}s   ·   {result.num_models} models per point   ·   "
        f"ε protects {unit}"
    )
