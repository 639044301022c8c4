"""The typed ends of a report document: everything that was counted or measured on patients is one of these.

Plain numbers and text beside them are public: settings, parameters of the mechanism, thresholds. So whoever must decide
what may leave the house looks at the leaves and at nothing else: `transform` rebuilds a document with every leaf
replaced, and a leaf that is taken away keeps its place, with the reason in `withheld`. Renderers draw whatever document
they are given and print that reason.

What a leaf says about itself so that a decision is possible:

* `n`, `of`: how many patients (or what `n_unit` says) it was computed from;
* `rests_on`: how many patients' values decide it: 1 for a maximum, the patients beyond a quantile, those in the top;
* `cell`: leaves with the same cell can be computed from each other: they are withheld together;
* `partition`: counts with the same partition add up to `of`, so that one alone cannot be hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

PATIENTS = "patients"
"""`Count.unit` and `Figure.n_unit` of everything about people."""


@dataclass(frozen=True)
class Count:
    """A number of patients (or of what `unit` says)."""

    value: float | None
    """None if it could not be counted or was withheld."""
    of: int | None = None
    """Out of how many; None for a total."""
    low: float | None = None
    high: float | None = None
    """95% interval."""
    unit: str = PATIENTS
    difference: bool = False
    """True for a count in one arm minus that in another."""
    cell: str | None = None
    partition: str | None = None
    withheld: str | None = None
    """In place of the number, for example "not reported (n<10)"."""


@dataclass(frozen=True)
class Figure:
    """A measured number that is not a count, with its 95% interval."""

    value: float | None
    """None if it could not be estimated or was withheld."""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Computed from so many `n_unit`."""
    n_unit: str = PATIENTS
    unit: str = "AUC"
    """AUC, fraction, score, slope, relative change, ..."""
    about: str = ""
    """What the interval is about: what would vary if the study were repeated."""
    rests_on: float | None = None
    """Patients whose values decide the figure; None: all n."""
    cell: str | None = None
    withheld: str | None = None


@dataclass(frozen=True)
class Curve:
    """Points (x, y) that are drawn; `low` and `high` where a band goes with them."""

    kind: str
    """survival: y patients at or above x. null: the same without leakage. roc: attack. cap: mathematics."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    x_unit: str = "AUC"
    y_unit: str = PATIENTS
    n: int | None = None
    """survival, null: patients. roc: members of a model."""
    n_x: int | None = None
    """roc: non-members of a model; x is a share of these, y a share of n."""
    public: bool = False
    """True if no patient's data enters (the cap)."""
    withheld: str | None = None


@dataclass(frozen=True)
class Remark:
    """Free text from a reader of data; it may hold counts or names."""

    text: str | None
    withheld: str | None = None


Leaf = Count | Figure | Curve | Remark
LEAVES = (Count, Figure, Curve, Remark)
Node = TypeVar("Node")


def transform(node: Node, change: Callable[[Leaf, tuple[str, ...]], Leaf], where: tuple[str, ...] = ()) -> Node:
    """The same document with every leaf replaced by `change(leaf, path)`; `path` names fields, keys and places."""
    if isinstance(node, LEAVES):
        return change(node, where)  # type: ignore[return-value]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {
            field.name: transform(getattr(node, field.name), change, (*where, field.name))
            for field in dataclasses.fields(node)
        }
        return dataclasses.replace(node, **fields)
    if isinstance(node, tuple):
        return tuple(transform(one, change, (*where, str(i))) for i, one in enumerate(node))  # type: ignore[return-value]
    if isinstance(node, Mapping):
        return {key: transform(one, change, (*where, str(key))) for key, one in node.items()}  # type: ignore[return-value]
    return node


def leaves(node: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Leaf]]:
    """(path, leaf) of every leaf, in the document's order."""
    found: list[tuple[tuple[str, ...], Leaf]] = []

    def keep(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        found.append((path, leaf))
        return leaf

    transform(node, keep, where)
    return iter(found)


def plain(node: Any) -> Any:
    """Dictionaries, lists, numbers and text for JSON; leaves carry "leaf": count, figure, curve or remark.

    Fields of a leaf that are not set are left out, except `value` and `text`.
    """
    if isinstance(node, LEAVES):
        fields = {
            field.name: plain(getattr(node, field.name))
            for field in dataclasses.fields(node)
            if field.name in ("value", "text") or getattr(node, field.name) != field.default
        }
        return {"leaf": type(node).__name__.lower(), **fields}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, tuple | list):
        return [plain(one) for one in node]
    return node
