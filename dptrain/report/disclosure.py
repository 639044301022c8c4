"""Disclosure control: from the report document that the house may read to one that may leave it. A pure function.

`for_release` decides over every leaf of a document and puts `Rule.words` in place of what must not leave; nothing is
dropped, so a reader sees that something is missing. What is decided, and against whom, is in docs/disclosure.md:

* numbers of patients below the smallest that may be shown, and those that would give them away (`suppression`);
* figures of fewer patients, or that so few decide: maxima, far quantiles, one group's share of the most exposed;
* curves: on a public grid, from step to step and at both ends no fewer patients than may be shown;
* free text, which may hold anything.

It fails closed. A kind of leaf, a unit or a field of the document that this file does not name is refused, and a leaf
that does not say how many patients it is about is withheld. Figures are rounded, so that sums cannot be worked out.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dptrain.errors import StudyError
from dptrain.report import document as doc
from dptrain.report.leaves import Count, Curve, Figure, Leaf, Remark, transform
from dptrain.report.safe_curves import Points, safe_curve, survival_grid
from dptrain.report.suppression import Rule
from dptrain.report.withholding import Path, paths_to_withhold
from dptrain.report.words import STAND_IN

DECIMALS = 3
"""Of figures in a release."""
PUBLIC: Mapping[type, tuple[str, ...]] = {
    doc.Summary: (
        "name", "cohort", "simulated", "task", "model", "unit", "patient_word", "num_models", "metric", "label_names"
    ),
    doc.Privacy: (
        "target_epsilon", "target_tpr", "target_fpr", "target_advantage", "epsilon", "delta", "noise_multiplier",
        "sampling_rate", "num_steps", "clipping_norm", "accounting", "cap", "ledger",
        # Counted on canaries, which are public constants and nobody's records, and on coins of ours.
        "lower_bound",
    ),
    doc.Performance: (),
    doc.Attack: ("name",),
    doc.Threshold: ("threshold", "resolvable"),
    doc.Risk: (),
    doc.Paired: (),
    doc.Access: ("policy",),
    doc.Arm: ("label", "name", "long_name", "is_private", "num_parameters"),
    doc.GroupInArm: (),
    doc.Group: ("attribute", "group"),
    doc.Choice: ("policy",),
    doc.JudgedArm: ("label",),
    doc.Repeat: ("commands", "dptrain", "fingerprint", "settings"),
    doc.Document: ("not_tested", "audience", "remarks", "schema"),
}  # fmt: skip
"""Fields that hold plain values which may leave as they are: settings, parameters of the mechanism, words of ours.
Every other field must hold nothing but leaves."""
TEXTS = {(doc.Summary, "outside_dp")}
"""Fields of free text from readers of data and users' files."""
FREE_TEXT = "not reported (free text may hold counts or names)"


class DisclosureError(StudyError):
    """A document holds something that disclosure control does not know; nothing is released."""


def for_release(document: doc.Document, rule: Rule) -> doc.Document:
    """The document that may leave the house.

    Raises DisclosureError, and releases nothing, if the document holds a field, a kind of leaf or a plain value that is
    not named in this file.
    """
    unknown = sorted(set(_unknown(document, "document")))
    if unknown:
        raise DisclosureError(
            f"Disclosure control does not know {', '.join(unknown[:5])}: nothing was released. Name it in "
            "dptrain/report/disclosure.py after deciding whether it may leave."
        )
    hidden = paths_to_withhold(document, rule)
    points = [_survival(arm, str(place), hidden, rule) for place, arm in enumerate(document.arms)]

    def change(leaf: Leaf, path: Path) -> Leaf:
        if path in hidden:
            return _withheld(leaf, rule.words)
        if isinstance(leaf, Remark):
            return leaf if leaf.text and STAND_IN.search(leaf.text) else Remark(None, leaf.withheld or FREE_TEXT)
        if isinstance(leaf, Curve):
            return safe_curve(leaf, rule, points[int(path[1])] if leaf.kind == "survival" else None)
        return _shown(leaf, rule)

    safe = transform(document, change)
    sentences = tuple(FREE_TEXT if re.search(r"\d", text) else text for text in document.summary.outside_dp)
    return dataclasses.replace(
        safe,
        summary=dataclasses.replace(safe.summary, outside_dp=sentences),
        audience="release",
        remarks=(*document.remarks, *_remarks(rule)),
    )


def _remarks(rule: Rule) -> tuple[str, ...]:
    zero = "0 included" if rule.zero_is_small else "0 excepted"
    return (
        f"This report is under disclosure control. “{rule.words}” stands where a number of patients, or one that could "
        f"be worked out from it, is below {rule.min_count} ({zero}), and where a figure rests on fewer patients than "
        "that.",
        f"Curves end where fewer than {rule.min_count} patients are left, and no step of theirs is fewer. Figures are "
        f"rounded to {DECIMALS} decimals.",
    )


def _unknown(node: Any, where: str) -> Iterator[str]:
    """Names of what is neither a known leaf nor a field that may leave."""
    if type(node) in (Count, Figure, Curve, Remark):
        return
    if type(node) in PUBLIC:
        for field in dataclasses.fields(node):
            name = f"{type(node).__name__}.{field.name}"
            if field.name not in PUBLIC[type(node)] and (type(node), field.name) not in TEXTS:
                yield from _unknown(getattr(node, field.name), name)
        return
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _unknown(value, where)
        return
    if isinstance(node, tuple):
        for value in node:
            yield from _unknown(value, where)
        return
    if node is not None:
        yield where


def _survival(arm: doc.Arm, place: str, hidden: frozenset[Path], rule: Rule) -> Points:
    """The points of the arm's survival curve that may be shown beside the counts that are."""
    shown: list[tuple[float | None, float]] = []
    for index, one in enumerate(arm.risk.at_least):
        if ("arms", place, "risk", "at_least", str(index), "count") not in hidden and one.count.value is not None:
            shown.append((one.threshold, float(one.count.value)))
    if ("arms", place, "risk", "exposed") not in hidden and arm.risk.exposed.value is not None:
        shown.append((None, float(arm.risk.exposed.value)))
    return survival_grid(arm.risk.survival, shown, rule)


def _withheld(leaf: Leaf, words: str) -> Leaf:
    """The leaf without any number."""
    words = leaf.withheld or words
    if isinstance(leaf, Count):
        return Count(None, unit=leaf.unit, difference=leaf.difference, withheld=words)
    if isinstance(leaf, Figure):
        return Figure(None, n_unit=leaf.n_unit, unit=leaf.unit, about=leaf.about, withheld=words)
    if isinstance(leaf, Curve):
        return Curve(leaf.kind, (), (), x_unit=leaf.x_unit, y_unit=leaf.y_unit, withheld=words)
    return Remark(None, words)


def _shown(leaf: Count | Figure, rule: Rule) -> Leaf:
    """The leaf rounded, without the marks that only this file reads."""
    if isinstance(leaf, Count):
        return dataclasses.replace(
            leaf, low=_rounded(leaf.low, 1), high=_rounded(leaf.high, 1), cell=None, partition=None
        )
    low, high = (leaf.low, leaf.high) if _interval_may_stand(leaf, rule) else (None, None)
    return dataclasses.replace(
        leaf,
        value=_rounded(leaf.value, DECIMALS),
        low=_rounded(low, DECIMALS),
        high=_rounded(high, DECIMALS),
        rests_on=None,
        cell=None,
    )


def _interval_may_stand(leaf: Figure, rule: Rule) -> bool:
    """The ends of a quantile's interval are quantiles themselves: fewer patients lie beyond the upper one."""
    if leaf.rests_on is None or leaf.unit == "AUROC":
        return True
    return leaf.rests_on - 2 * math.sqrt(leaf.rests_on) >= rule.min_count


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits) + 0.0
