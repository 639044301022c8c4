"""A document as sections: title, sentences, picture, tables. Both HTML and Markdown are written from these."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from dptrain.report.document import Document
from dptrain.report.page import figures, rows, setting_tables, tables
from dptrain.report.page.rows import Panel, forest
from dptrain.report.page.scene import Drawn, draw
from dptrain.report.page.table import Table

WORDS = {
    "tradeoff": "Up is better diagnosis, left is less risk: the best place is the top left corner. Inside the grey "
    "band nothing can be told from luck. The controls only show where a difference comes from; they protect nobody.",
    "survival": "The further to the right a curve reaches beyond the grey band, the more surely single patients are "
    "recognised.",
    "roc": "A curve above the dotted line finds more members than guessing would; no attack whatsoever can reach the "
    "shaded region of a private level.",
    "paired": "Left of the dashed line is a loss of diagnostic performance in the first column and a gain in safety in "
    "the others.",
    "groups": "Each line is a group of patients: further right means more surely recognised in the first two columns "
    "and better diagnosed in the third.",
    "access": "Each line is a way to hide part of the model's answers: if the marks stay to the right, hiding did not "
    "protect.",
    "performance": "Further right is better in the first two columns, further left in the third; in the last the "
    "dashed line is right, and left of it the model is too sure of itself.",
}
"""One sentence per picture that needs no training in statistics."""


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    key: str
    title: str
    before: tuple[str, ...] = ()
    """Paragraphs above the picture."""
    drawn: Drawn | None = None
    caption: str = ""
    description: str = ""
    """For those who do not see the picture."""
    tables: tuple[Table, ...] = ()
    after: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    """A list."""
    code: tuple[str, ...] = field(default=())
    """Commands."""


def sections(document: Document) -> tuple[Section, ...]:
    """All parts of a study's page after the summary."""
    found = [
        _trade_off(document),
        which_epsilon_section(document),
        _survival(document),
        _paired(document),
        _groups(document),
        _roc(document),
        _access(document),
        _performance(document),
        _mechanism(document),
        Section("not-tested", "What was not tested", items=document.not_tested),
        _repeat(document),
        Section("words", "The words used here", tables=(setting_tables.glossary(document),)),
    ]
    return tuple(one for one in found if one is not None)


def _picture(document: Document, key: str, title: str, function: object, detail: str) -> tuple[Drawn | None, str, str]:
    caption = _with_word(document, WORDS[key])
    described = f"{caption} {detail} All numbers are in the table below."
    return draw(document, key, title, described, function), caption, described  # type: ignore[arg-type]


def _trade_off(document: Document) -> Section:
    title = "What privacy costs, and what it buys"
    labels = ", ".join(arm.name for arm in document.arms)
    drawn, caption, described = _picture(
        document,
        "tradeoff",
        title,
        figures.trade_off,
        f"One point for each of: {labels}. Across: the attack AUC that the most exposed "
        f"{document.headline_percent}% of patients reach; up: AUROC.",
    )
    return Section("tradeoff", title, (), drawn, caption, described, (tables.trade_off(document),))


def which_epsilon_section(document: Document) -> Section | None:
    """The answer for a policy; None if no policy was named."""
    choice = document.choice
    if choice is None:
        return None
    description = choice.description.text
    before = (
        f"The policy is “{choice.policy}”{f': {description}' if description else ''}. A limit counts as kept only if "
        "the unfavourable end of the 95% interval keeps it: where the data cannot tell, the answer is no.",
        choice.answer.withheld or _with_names(document, choice.answer.text or ""),
    )
    return Section("policy", "Which epsilon?", before, tables=(tables.policy(document),))


def _with_names(document: Document, text: str) -> str:
    """Private arms by the names that the page gives them."""
    for arm in document.arms:
        if arm.is_private:
            text = re.sub(rf"(?<!\S){re.escape(arm.label)}(?=[\s,.;:]|$)", arm.name, text)
    return text


def _survival(document: Document) -> Section:
    word = document.summary.patient_word
    title = f"How many {word}s are recognised, and how surely"
    drawn, caption, described = _picture(
        document, "survival", title, figures.survival, "Curves of the number of patients at or above each attack AUC."
    )
    return Section("survival", title, (), drawn, caption, described, tables.exposed(document))


def _roc(document: Document) -> Section:
    title = "The attack on average, and what no attack can do"
    drawn, caption, described = _picture(
        document, "roc", title, figures.roc, "True-positive rate against false-positive rate on log axes."
    )
    return Section("roc", title, (), drawn, caption, described, (tables.attack(document),))


def _paired(document: Document) -> Section | None:
    if not any(arm.paired for arm in document.arms):
        return None
    title = "Before and after, patient by patient"
    panels = (
        Panel("Diagnostic performance", lambda arm: arm.paired.utility if arm.paired else None, 0.0),
        Panel("Recognition, average", lambda arm: arm.paired.patient_auc_mean if arm.paired else None, 0.0),
        Panel("Recognition, top 1%", lambda arm: arm.paired.patient_auc_p99 if arm.paired else None, 0.0),
    )
    drawn, caption, described = _picture(
        document, "paired", title, forest(panels, skip=("none",)), "Each level minus usual training, with intervals."
    )
    before = (
        "Every level was trained on the same halves of the same patients as the usual training, so every "
        "difference is taken within the same patient and between models that saw the same patients.",
    )
    return Section("paired", title, before, drawn, caption, described, (tables.paired(document),))


def _groups(document: Document) -> Section | None:
    if not document.groups:
        return None
    title = "Groups of patients: risk and performance, before and with privacy"
    drawn, caption, described = _picture(
        document, "groups", title, rows.groups, "Rows are groups; columns are risk and performance."
    )
    return Section("groups", title, (), drawn, caption, described, tables.groups(document))


def _access(document: Document) -> Section | None:
    if not any(arm.access for arm in document.arms):
        return None
    title = "Would it be enough to let the model say less?"
    drawn, caption, described = _picture(
        document, "access", title, rows.access, "Rows are what the model answers; marks are levels of privacy."
    )
    after = (
        "Saying less never protects as differential privacy does: it limits neither other attackers nor an attacker "
        "who asks many times, nor one who gets hold of the model.",
    )
    return Section("access", title, (), drawn, caption, described, tables.access(document), after)


def _performance(document: Document) -> Section:
    title = "How well the models diagnose, and whether their probabilities can be believed"
    panels = (
        Panel("AUROC", lambda arm: arm.performance.auroc),
        Panel("AUPRC", lambda arm: arm.performance.auprc),
        Panel("Brier score", lambda arm: arm.performance.brier),
        Panel("Calibration slope", lambda arm: arm.performance.calibration_slope, 1.0),
    )
    drawn, caption, described = _picture(
        document, "performance", title, forest(panels), "Four measures for each level, with intervals."
    )
    return Section("performance", title, (), drawn, caption, described, tables.performance(document))


def _mechanism(document: Document) -> Section:
    unit = "one patient with all records" if document.summary.unit == "patient" else "one single record"
    if document.summary.patient_word != "patient":
        unit = f"one {document.summary.patient_word}"
    spent = [(arm.name, arm.privacy.epsilon) for arm in document.arms if arm.privacy.epsilon is not None]
    factors = ", ".join(f"{_factor(math.exp(value))} at {name}" for name, value in spent if value < 50)
    before = (
        f"Epsilon (ε) and delta (δ) are guaranteed about adding or removing {unit}. They follow from the parameters "
        "below by accounting, not from attacks, and hold for any attacker: whatever is seen, the odds that somebody "
        "was in the training data can grow by at most a factor of e to the power of ε, except with a probability of "
        "about δ"
        + (f". That is a factor of {factors}." if factors else "."),
    )
    after = tuple(f"Not covered by epsilon: {text}" for text in document.summary.outside_dp)
    return Section(
        "mechanism",
        "How privacy was made, and how it was accounted",
        before,
        tables=setting_tables.mechanism(document),
        after=after,
    )


def _factor(value: float) -> str:
    """Three digits, in figures and not in powers of ten: 2.72, 2,980."""
    return f"{value:.3g}" if value < 1000 else f"{round(value, 2 - math.floor(math.log10(value))):,.0f}"


def _repeat(document: Document) -> Section:
    repeat = document.repeat
    return Section(
        "repeat",
        "How to repeat it",
        (
            f"Made by dptrain {repeat.dptrain}; fingerprint of the configuration {repeat.fingerprint[:16]}. The same "
            "folder gives the same report. STUDY stands for a new folder; the settings file lies in repeat/ beside "
            "this page.",
        ),
        code=repeat.commands,
        tables=(setting_tables.settings(repeat.settings),),
    )


def _with_word(document: Document, text: str) -> str:
    word = document.summary.patient_word
    return text if word == "patient" else text.replace("patient", word)


def keys(found: Sequence[Section]) -> list[tuple[str, str]]:
    """(key, title) for a table of contents."""
    return [(one.key, one.title) for one in found]
