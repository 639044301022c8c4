"""What the study found, in one paragraph and in words that need no training in statistics.

Every sentence is written from the leaves of the document at hand. A sentence whose figures were withheld or could not
be estimated says so or is left out; none is written from anything but the figures it names.

How a patient's attack AUC is put into words: it is the probability that of two models, one trained with the patient and
one without, the attacker tells which is which. So 0.91 is "in 91 of 100 such pairs", and 0.5 is guessing.
"""

from __future__ import annotations

import math

from dptrain.report.document import Arm, Document
from dptrain.report.leaves import Figure
from dptrain.report.page import numbers

LOOKS_CERTAIN = 0.95
"""Attack AUC from which chance alone is as good as certainty."""


def finding(document: Document) -> tuple[str, ...]:
    """The sentences of the paragraph."""
    words = [_question(document)]
    before = document.arm("none")
    if before is not None:
        words += _before(document, before)
    private = _ends([arm for arm in document.arms if arm.is_private])
    for arm in private:
        words.append(_with_privacy(document, arm))
    words += _limits(document, private)
    if before is not None and private and measurable(before, document.headline_percent):
        words += _share_of_recipe(document, before, private[0])
    words += _cautions(document)
    return tuple(words)


def of_100(value: float) -> str:
    """A probability as a number of 100 pairs; certainty only for certainty."""
    hundred = 100.0 * value
    if value < 1.0 and hundred > 99.5:
        return "more than 99 of 100"
    return f"{math.floor(hundred + 0.5):d} of 100"


def at_least(value: float) -> str:
    """`at least 91 of 100`; certainty is not "at least"."""
    return of_100(value) if value >= 1.0 or 100.0 * value > 99.5 else f"at least {of_100(value)}"


def measurable(arm: Arm, percent: int = 1) -> bool:
    """Whether luck alone does not already look like certainty for the most exposed 1% (or 5%)."""
    _, null = reached(arm, percent)
    return null.value is None or null.value < LOOKS_CERTAIN


def reached(arm: Arm, percent: int) -> tuple[Figure, Figure]:
    """What the most exposed 1 or 5 percent reach, and the same if nothing leaked; not estimable where there is none."""
    found, null = arm.risk.reached_by(percent)
    return found or Figure(None), null or Figure(None)


def within_chance(arm: Arm, percent: int = 1) -> bool | None:
    """Whether the most exposed 1% cannot be told from chance: intervals overlap. None if that is not known."""
    p99, null = reached(arm, percent)
    ends = (p99.value, p99.low, null.value, null.high)
    if any(end is None for end in ends):
        return None
    assert p99.low is not None
    assert p99.value is not None
    assert null.high is not None
    return p99.value <= null.high or p99.low <= null.high


def _question(document: Document) -> str:
    study = document.summary
    word = study.patient_word
    simulated = " (simulated data, no real patients)" if study.simulated else ""
    total = numbers.count(study.num_patients)
    people = f"{total} {word}s" if study.num_patients.value is not None else f"the training {word}s ({total})"
    return (
        f"The question: could somebody who already has a {word}'s record and can query the model learn from its "
        f"answers that this record was used to train it (and so, for example, that the {word} was treated here), and "
        f"what does it cost to prevent that? To measure it, {study.num_models} models were trained at each level of "
        f"privacy, each on a random half of {people} from {study.cohort}{simulated}."
    )


def _before(document: Document, arm: Arm) -> list[str]:
    word, percent = document.summary.patient_word, document.headline_percent
    p99, chance = reached(arm, percent)
    if p99.value is None:
        words = [f"Without protection: how surely the most exposed {percent}% are recognised is {numbers.figure(p99)}."]
    elif not measurable(arm, percent):
        words = [
            f"So few models cannot tell how surely the most exposed {percent}% of {word}s are recognised: by luck "
            f"alone they would look like {of_100(chance.value or 1.0)} tries right."
        ]
    else:
        beside = ""
        if chance.value is not None:
            beside = (
                f". Guessing is 50; but the most exposed are picked out of many, and by that luck alone they would "
                f"look like {of_100(chance.value)}"
            )
        verdict = {True: ", which is no more than luck", False: "", None: ""}[within_chance(arm, percent)]
        words = [
            f"Without protection, for each of the most exposed {percent}% of {word}s an attacker who is shown one "
            f"model trained with the {word} and one trained without tells which is which in {at_least(p99.value)} "
            f"tries{verdict} (95% interval {_interval_of_100(p99)}){beside}."
        ]
    exposed, average = arm.risk.exposed, arm.attack.auc
    hidden = average.value is not None and p99.value is not None and p99.value - average.value > 0.1
    over_all = f"over all {word}s together it is only {of_100(average.value or 0.5)}, so an average hides them"
    if exposed.withheld:
        words.append(f"The number of {word}s who can be singled out with confidence: {exposed.withheld}.")
    elif exposed.value:
        who = f"{numbers.count(exposed, interval=False)} {word}s can be singled out with confidence"
        words.append(f"{who}; {over_all}." if hidden else f"{who}.")
    elif exposed.value == 0:
        few = "With so few models no" if within_chance(arm, percent) is False else "No"
        words.append(f"{few} single {word} can be singled out with confidence.")
    return words


def _with_privacy(document: Document, arm: Arm) -> str:
    percent = document.headline_percent
    p99, _ = reached(arm, percent)
    if p99.value is None:
        words = f"With {_promise(arm)} that figure is {numbers.figure(p99)}"
    elif not measurable(arm, percent):
        words = f"With {_promise(arm)} that cannot be told either"
    else:
        verdict = {True: ", no more than by luck alone", False: ", still more than by luck alone", None: ""}
        words = (
            f"With {_promise(arm)} the most exposed {percent}% are at {of_100(p99.value)} ({_interval_of_100(p99)})"
            f"{verdict[within_chance(arm, percent)]}"
        )
    if arm.paired is None:
        return f"{words}; diagnostic performance is {numbers.figure(arm.performance.auroc)}."
    change, metric = arm.paired.utility, "AUROC" if document.summary.metric == "auroc" else "mean AUROC"
    if change.value is None:
        return f"{words}; the change in diagnostic performance is {numbers.figure(change)}."
    before = next(one for one in document.arms if one.label == "none")
    sure = change.low is not None and change.high is not None and (change.low > 0 or change.high < 0)
    return (
        f"{words}, while diagnostic performance ({metric}, 0.5 is guessing, 1 is perfect) goes from "
        f"{numbers.figure(before.performance.auroc, interval=False)} to "
        f"{numbers.figure(arm.performance.auroc, interval=False)}: a change of {numbers.figure(change, signed=True)}"
        f"{'' if sure else ', which cannot be told from none'}."
    )


def _limits(document: Document, private: list[Arm]) -> list[str]:
    """What mathematics allows, and why a measurement may lie above it."""
    capped = [arm for arm in private if arm.privacy.cap is not None]
    if not capped:
        return []
    percent = document.headline_percent
    caps = [(arm.privacy.cap or {})["auc"] for arm in capped]
    each = " and ".join(f"{_up_to_100(cap)} at {arm.name}" for arm, cap in zip(capped, caps, strict=True))
    measured = [(reached(arm, percent)[0].value or 0.0, measurable(arm, percent)) for arm in capped]
    above = any(told and value > cap for (value, told), cap in zip(measured, caps, strict=True))
    ending = " A measured figure above its limit is the luck of the measurement." if above else ""
    return [
        f"Mathematics guarantees for every single {document.summary.patient_word} and against every attacker, even one "
        f"who holds the model itself: no more than {each}.{ending}"
    ]


def _share_of_recipe(document: Document, before: Arm, private: Arm) -> list[str]:
    """How much of the fall comes from the private recipe alone."""
    matched = document.arm("matched")
    if matched is None:
        return []
    ends = [reached(arm, document.headline_percent)[0].value for arm in (before, matched, private)]
    if any(end is None for end in ends):
        return []
    start, middle, end = (float(value) for value in ends if value is not None)
    if start - end < 0.05:
        return []
    if start - middle > 0.25 * (start - end):
        return [
            "Part of the fall is not due to the protection: the shorter and calmer training that goes with it brings "
            f"the most exposed {document.headline_percent}% to {of_100(middle)} by itself, but without any guarantee."
        ]
    return []


def _cautions(document: Document) -> list[str]:
    study = document.summary
    words = []
    if study.num_models < 32:
        words.append(
            f"With {study.num_models} models per level this experiment is small: it sees large leaks only, and finding "
            "nothing is not proof of safety."
        )
    if study.unit == "record":
        words.append("The guarantee is about one single record: a patient with several is protected less.")
    if study.simulated:
        words.append("The data are simulated: these figures say nothing about real patients.")
    return words


def _promise(arm: Arm) -> str:
    privacy = arm.privacy
    if privacy.target_epsilon is not None:
        return f"differential privacy at ε = {privacy.target_epsilon:g} (smaller is safer)"
    return f"differential privacy ({arm.name})"


def _ends(private: list[Arm]) -> list[Arm]:
    """The weakest and the strongest guarantee: two sentences are enough for a paragraph."""
    return private if len(private) < 3 else [private[0], private[-1]]


def _none(document: Document) -> Arm:
    return next(arm for arm in document.arms if arm.label == "none")


def _up_to_100(value: float) -> str:
    return f"{min(100, math.ceil(100.0 * value - 1e-9)):d} of 100"


def _interval_of_100(one: Figure) -> str:
    if one.low is None or one.high is None:
        return "no interval"
    low, high = math.floor(100.0 * one.low + 0.5), math.floor(100.0 * one.high + 0.5)
    return f"{low:d} to {high:d}"
