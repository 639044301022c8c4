"""Options of one owner and of several: conversion, every problem at once, near misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from dptrain.errors import ConfigError
from dptrain.options import parse_options, parse_parts


@dataclass(frozen=True)
class Shape:
    size: tuple[int, ...] | None = (3,)
    mean: tuple[float, ...] = (0.5,)
    parts: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ConfigError("data.size must be >= 1.")


@dataclass(frozen=True)
class Names:
    names: tuple[str, ...] = ()
    flag: bool = False


def test_lists_of_numbers_and_mappings() -> None:
    options = {"size": ["4", 5], "mean": 1, "parts": [{"a": 1}]}
    assert parse_options(Shape, options, "data") == Shape((4, 5), (1.0,), ({"a": 1},))
    assert parse_options(Shape, {"size": None, "parts": {"b": 2}}, "data") == Shape(None, (0.5,), ({"b": 2},))


@pytest.mark.parametrize("options, message", [
    ({"size": [1.5]}, r"data.size=\[1.5\] must be a list of whole numbers or null"),
    ({"mean": "wide"}, r"data.mean='wide' must be a list of numbers\."),
    ({"parts": ["a"]}, r"data.parts=\['a'\] must be a list of mappings"),
])  # fmt: skip
def test_what_a_list_must_hold(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(Shape, options, "data")


def test_one_mapping_of_several_owners() -> None:
    shape, names = parse_parts((Shape, Names), {"flag": True, "size": 2}, "data")
    assert (shape, names) == (Shape((2,)), Names((), True))


def test_problems_of_all_owners_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_parts((Shape, Names), {"flag": "yes", "size": 0, "nmaes": "x"}, "data")
    assert caught.value.problems == (
        "data.nmaes='x' is not a setting here (did you mean 'names'?); expected size, mean, parts, names, flag.",
        "data.size must be >= 1.",
        "data.flag='yes' must be true or false.",
    )


def test_two_owners_of_one_setting_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="two owners"):
        parse_parts((Shape, Shape), {}, "data")
