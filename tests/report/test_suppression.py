"""No small count can be worked out from those that are shown: by trying all possibilities, and by the attacker."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dptrain.errors import ConfigError
from dptrain.report.suppression import Rule, hidden_in_partition, kept_in_chain
from tests.report.attacker import Knowledge

TEN, TEN_AND_ZERO_SHOWN, FOUR = Rule(), Rule(zero_is_small=False), Rule(4)


def named(counts: list[int]) -> dict[str, float | None]:
    return {f"g{index}": float(count) for index, count in enumerate(counts)}


def knowledge_of(counts: list[int], hidden: frozenset[str], rule: Rule, *, says_why: bool = True) -> Knowledge:
    """The total, all that is shown and, `says_why`, of what is hidden whether it is small."""
    attacker = Knowledge()
    for name, count in named(counts).items():
        assert count is not None
        if name not in hidden:
            attacker.known(name, count)
        elif says_why and rule.is_small(count):
            attacker.between(name, rule.smallest_hidden, rule.min_count - 1)
        else:
            attacker.between(name, rule.min_count if says_why else 0, np.inf)
    attacker.sum_is(dict.fromkeys(named(counts), 1.0), sum(counts), sum(counts))
    return attacker


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [
        ([200, 100, 40], ""),
        ([200, 100, 40, 3], "23"),
        ([200, 100, 10, 3], "13"),
        ([200, 100, 11, 4, 5, 6, 7], "3456"),
        ([200, 8, 8, 8, 8], "01234"),
        ([390, 8], "01"),
        ([300, 9, 9], "012"),
        ([300, 0, 40], "12"),
    ],
)
def test_what_is_withheld_beside_the_small_ones(counts: list[int], hidden: str) -> None:
    assert hidden_in_partition(named(counts), sum(counts), TEN) == frozenset(f"g{place}" for place in hidden)


def test_a_group_that_nobody_lists_is_a_group() -> None:
    assert hidden_in_partition(named([50, 60]), 110, TEN) == frozenset()
    assert hidden_in_partition(named([50, 60]), 113, TEN) == {"g0"}
    assert hidden_in_partition(named([50, 60]), 150, TEN) == frozenset()


def test_what_cannot_be_right_is_withheld() -> None:
    assert hidden_in_partition({"a": None, "b": 50.0}, 60, TEN) == {"a", "b"}
    assert hidden_in_partition(named([50, 60]), 100, TEN) == {"g0", "g1"}
    assert TEN.is_small(float("nan"))
    assert TEN.is_small(-3)


def test_one_group_withheld_for_other_reasons_takes_another_with_it() -> None:
    assert len(hidden_in_partition(named([50, 60, 70]), 180, TEN, frozenset({"g2"}))) == 2


@given(st.lists(st.one_of(st.integers(0, 12), st.integers(0, 60)), min_size=2, max_size=8), st.booleans())
def test_every_small_group_could_still_be_any_small_number(counts: list[int], zero_is_small: bool) -> None:
    rule = Rule(zero_is_small=zero_is_small)
    hidden = hidden_in_partition(named(counts), sum(counts), rule)
    assert all(name in hidden for name, count in named(counts).items() if rule.is_small(count or 0))
    if not hidden:
        return
    everything = len(hidden) == len(counts)
    attacker = knowledge_of(counts, hidden, rule, says_why=not everything)
    width = rule.min_count - rule.smallest_hidden
    for name in hidden:
        low, high = attacker.range_of({name: 1.0})
        if everything and sum(counts) < 2 * rule.min_count:
            continue
        assert high - low + 1 >= width, (counts, name, low, high)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4))
def test_the_attacker_finds_what_trying_all_possibilities_finds(counts: list[int]) -> None:
    """With a smallest count of 4 there are few enough possibilities."""
    hidden = hidden_in_partition(named(counts), sum(counts), FOUR)
    attacker = knowledge_of(counts, hidden, FOUR, says_why=False)
    options = [range(sum(counts) + 1) if name in hidden else [int(c or 0)] for name, c in named(counts).items()]
    possible = [values for values in itertools.product(*options) if sum(values) == sum(counts)]
    for place, name in enumerate(named(counts)):
        values = [one[place] for one in possible]
        assert attacker.range_of({name: 1.0}) == (min(values), max(values))


@given(st.lists(st.integers(0, 80), max_size=12), st.integers(80, 100), st.booleans())
def test_no_difference_of_shown_counts_is_small(counts: list[int], total: int, zero_is_small: bool) -> None:
    rule = Rule(zero_is_small=zero_is_small)
    kept = kept_in_chain(counts, total, rule)
    shown = [0, total, *(count for count, keep in zip(counts, kept, strict=True) if keep)]
    for a, b in itertools.combinations(shown[2:], 2):
        assert not rule.is_small(abs(a - b))
    for a in shown[2:]:
        assert not rule.is_small(a)
        assert not rule.is_small(total - a)


def test_the_more_wanted_count_of_two_is_shown() -> None:
    assert kept_in_chain([25, 20, 60], 100, TEN) == [True, False, True]
    assert kept_in_chain([20, 25, 60], 100, TEN) == [True, False, True]
    assert kept_in_chain([25, 25], 100, TEN) == [True, False]
    assert kept_in_chain([25, 25, 0], 100, TEN_AND_ZERO_SHOWN) == [True, True, True]
    assert kept_in_chain([None, 101, -1, 95], 100, TEN) == [False] * 4


def test_a_rule_that_protects_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="--min-count 2 must be at least 3"):
        Rule(2)
