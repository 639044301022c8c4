"""The attack on a release: from its `report.json` to what is left of every withheld count.

It knows how reports are made: that groups of an attribute add up to all patients, that who is above a threshold is
above every lower one, that a difference between arms is a difference of counts, that n stands beside figures. Of every
withheld group it even knows whether it is small or withheld for the sake of another, which a release does not say.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.report.attacker import Knowledge

SMALLEST = 10
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A number of patients below the smallest that may be shown, and what the attacker made of it."""

    name: str
    truth: float
    low: float
    high: float
    most: float
    """What everybody knows that it cannot exceed."""

    @property
    def recovered(self) -> bool:
        """Whether nothing but the truth is left."""
        return self.high - self.low < 1

    @property
    def confined(self) -> bool:
        """Whether fewer values are left than a small count may have."""
        return self.high - self.low + 1 < min(SMALLEST, self.most + 1) - 1e-6


def attack(release: Json, house: Json) -> list[Found]:
    """What is left of every small number of patients that follows from the house's report.json."""
    return [*_groups(release, house), *_tops(release, house), *_thresholds(release, house)]


def numbers_in_withheld(release: Any, where: str = "") -> Iterator[str]:
    """Places where a withheld leaf still holds a number."""
    if isinstance(release, Mapping):
        if release.get("withheld"):
            for key, value in release.items():
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if is_number or (isinstance(value, list) and value):
                    yield f"{where}/{key}"
        for key, value in release.items():
            yield from numbers_in_withheld(value, f"{where}/{key}")
    elif isinstance(release, list):
        for place, value in enumerate(release):
            yield from numbers_in_withheld(value, f"{where}/{place}")


def _learn(attacker: Knowledge, name: str, shown: Json, truth: float, *, why: bool = True) -> None:
    if shown["value"] is not None:
        attacker.known(name, shown["value"])
    elif not why:
        attacker.between(name, 0, np.inf)
    elif truth < SMALLEST:
        attacker.between(name, 0, SMALLEST - 1)
    else:
        attacker.between(name, SMALLEST, np.inf)


def _result(
    attacker: Knowledge,
    name: str,
    weights: Mapping[str, float],
    truth: float,
    most: float = math.inf,
    whole: bool = True,
) -> Found:
    low, high = attacker.range_of(dict(weights), whole=whole)
    assert low - 1e-6 <= truth <= high + 1e-6, f"{name}: {truth} is not in [{low}, {high}], the attack is wrong"
    return Found(name, truth, low, high, most)


def _groups(release: Json, house: Json) -> Iterator[Found]:
    """Sizes of groups among training and test patients."""
    for size, total in (("num_patients", "num_patients"), ("num_test_patients", "num_test_patients")):
        for attribute in sorted({one["attribute"] for one in house["groups"]}):
            attacker, truth = Knowledge(), {}
            for shown, known in zip(release["groups"], house["groups"], strict=True):
                if known["attribute"] != attribute:
                    continue
                name = f"{size} {attribute} {known['group']}"
                truth[name] = known[size]["value"]
                _learn(attacker, name, shown[size], truth[name])
                for n in _group_sizes(shown, size):
                    attacker.known(name, n)
            if sum(truth.values()) == house["summary"][total]["value"]:
                everybody = release["summary"][total]["value"]
                attacker.sum_is(dict.fromkeys(truth, 1.0), everybody, everybody)
            for name, value in truth.items():
                if value < SMALLEST:
                    yield _result(attacker, name, {name: 1.0}, value)


def _group_sizes(group: Json, size: str) -> Iterator[float]:
    """The n of figures about the whole group."""
    names = ("auroc",) if size == "num_test_patients" else ("mean_auc", "fall", "p_holm", "relative_change")
    for arm in group["arms"].values():
        yield from (arm[name]["n"] for name in names if arm[name] and arm[name].get("n") is not None)


def _tops(release: Json, house: Json) -> Iterator[Found]:
    """How many of the most exposed 1% are in a group; their number follows from that of all patients."""
    for arm in house["arms"]:
        for attribute in sorted({one["attribute"] for one in house["groups"]}):
            attacker, truth = Knowledge(), {}
            num_top = math.ceil(0.01 * release["summary"]["num_patients"]["value"])
            for shown, known in zip(release["groups"], house["groups"], strict=True):
                if known["attribute"] != attribute or arm["label"] not in known["arms"]:
                    continue
                name = f"top {arm['label']} {attribute} {known['group']}"
                truth[name] = known["arms"][arm["label"]]["num_in_top"]["value"]
                parts = shown["arms"][arm["label"]]
                _learn(attacker, name, parts["num_in_top"], truth[name])
                if parts["share_in_top"]["value"] is not None:
                    share = parts["share_in_top"]["value"] * num_top
                    attacker.between(name, share - 0.0005 * num_top, share + 0.0005 * num_top)
            num_groups = sum(one["attribute"] == attribute for one in house["groups"])
            if num_groups == 1:
                continue  # one group that holds everybody holds the whole top
            everybody = num_groups == len(truth)
            attacker.sum_is(dict.fromkeys(truth, 1.0), num_top - 1e-3 if everybody else 0, num_top + 1e-3)
            for name, value in truth.items():
                if value < SMALLEST:
                    yield _result(attacker, name, {name: 1.0}, value, num_top, whole=False)


def _thresholds(release: Json, house: Json) -> Iterator[Found]:
    """Patients at or above thresholds in every arm, between two of them, and below the first."""
    attacker = Knowledge()
    everybody = release["summary"]["num_patients"]["value"]
    small: list[tuple[str, dict[str, float], float]] = []
    for shown, known in zip(release["arms"], house["arms"], strict=True):
        points: dict[float, tuple[str, float]] = {}
        for one, there in zip(shown["risk"]["at_least"], known["risk"]["at_least"], strict=True):
            name = f"at least {there['threshold']} {known['label']}"
            _learn(attacker, name, one["count"], there["count"]["value"], why=False)
            points[there["threshold"]] = name, there["count"]["value"]
        curve = shown["risk"]["survival"]
        for x, y in zip(curve["x"], curve["y"], strict=True):
            if x not in points:
                name = f"curve {x} {known['label']}"
                attacker.known(name, y)
                points[x] = name, y
        chain = [(None, everybody), *(points[x] for x in sorted(points)), (None, 0)]
        for (wide, more), (narrow, less) in itertools.pairwise(chain):
            weights = {} if wide is None else {wide: 1.0}
            if narrow is not None:
                weights[narrow] = -1.0
            base = everybody if wide is None else 0
            if weights:
                attacker.sum_is(weights, -base, math.inf)
            if more - less < SMALLEST:
                small.append((f"{known['label']}: from {wide} to {narrow}", weights, more - less - base))
        exposed = f"exposed {known['label']}"
        _learn(attacker, exposed, shown["risk"]["exposed"], known["risk"]["exposed"]["value"], why=False)
        attacker.between(exposed, 0, everybody)
        if known["risk"]["exposed"]["value"] < SMALLEST:
            small.append((exposed, {exposed: 1.0}, known["risk"]["exposed"]["value"]))
        for threshold, leaf in ((shown["paired"] or {}).get("count_at_least") or {}).items():
            if leaf["value"] is not None:
                terms = {f"at least {threshold} {known['label']}": 1.0, f"at least {threshold} none": -1.0}
                attacker.sum_is(terms, leaf["value"], leaf["value"])
    for name, weights, truth in small:
        yield _result(attacker, name, weights, truth)
