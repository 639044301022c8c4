"""Curves that may leave the house: points on a public grid, no fewer patients between two of them than may be shown.

A step of a survival curve at the exact AUC of a patient is that patient's value, and the last step is the most exposed
one's. So abscissas are moved to a grid that does not depend on the data, downwards, so that "y patients have an AUC of
at least x" stays true, and points are dropped where too few patients lie between them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from dptrain.report.leaves import Curve
from dptrain.report.suppression import Rule, kept_in_chain

GRID = 100
"""Survival curves have points at multiples of one hundredth."""
Points = tuple[tuple[float, ...], tuple[float, ...]]


def survival_grid(curve: Curve, shown: Sequence[tuple[float | None, float]], rule: Rule) -> Points:
    """(x, y): y patients have an AUC of at least x; x rising on the public grid.

    `shown` are (threshold, count) of the same patients that are printed elsewhere, threshold None where nobody knows
    it. They are points of the curve; others are kept only if they differ from them, and from each other, by enough
    patients.
    """
    if curve.n is None:
        return (), ()
    printed = {round(x * GRID): y for x, y in shown if x is not None}
    largest: dict[int, float] = {}
    for x, y in zip(curve.x, curve.y, strict=True):
        place = math.floor(x * GRID + 1e-9)
        if place not in printed:
            largest[place] = max(y, largest.get(place, 0.0))
    points = sorted(largest.items(), reverse=True)
    fixed = [y for _, y in shown]
    kept = kept_in_chain([*fixed, *(y for _, y in points)], float(curve.n), rule)[len(fixed) :]
    chosen = sorted([*printed.items(), *(point for point, keep in zip(points, kept, strict=True) if keep)])
    return tuple(place / GRID for place, _ in chosen), tuple(y for _, y in chosen)


def safe_curve(curve: Curve, rule: Rule, survival: Points | None) -> Curve:
    """The curve as it may leave; `survival` are the points of `survival_grid` where it is one of that kind."""
    if survival is not None:
        return Curve("survival", *survival, x_unit=curve.x_unit, y_unit=curve.y_unit, n=curve.n)
    if curve.kind == "null":
        smallest = zip(curve.y, curve.low or curve.y, strict=True)
        return _where(curve, [min(pair) >= rule.min_count for pair in smallest])
    if curve.kind == "roc":
        assert curve.n is not None
        assert curve.n_x is not None
        return _safe_roc(curve, curve.n, curve.n_x, rule)
    return curve


def _safe_roc(curve: Curve, num_members: int, num_others: int, rule: Rule) -> Curve:
    """Points where enough members and others are, and are not, accused, and enough others between two points."""
    last = 0.0
    keep = []
    for x, y in zip(curve.x, curve.y, strict=True):
        counts = (x * num_others, y * num_members, (1 - x) * num_others, (1 - y) * num_members)
        good = all(one >= rule.min_count - 1e-9 for one in (*counts, (x - last) * num_others))
        last = x if good else last
        keep.append(good)
    return _where(curve, keep)


def _where(curve: Curve, keep: Sequence[bool]) -> Curve:
    def some(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(round(v, 4) for v, good in zip(values, keep, strict=True) if good)

    x, y = some(curve.x), some(curve.y)
    assert x is not None
    assert y is not None
    return dataclasses.replace(curve, x=x, y=y, low=some(curve.low), high=some(curve.high))
