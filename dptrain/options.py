"""Options that one data set or one model owns: from the plain mapping in `options` to its owner's frozen dataclass.

`parse_options(MlpOptions, {"width": "32"}, "model")` checks names and types, collects every problem and raises one
ConfigError. A field may be str, int, float, bool, Mapping, or a tuple of any number of those (a single value is a tuple
of one), each optionally `| None`. `parse_parts` does the same for owners that share one mapping.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dptrain.errors import ConfigError

T = TypeVar("T")
_KINDS = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}
_LISTS = {str: "a list of texts", int: "a list of whole numbers", float: "a list of numbers"}


class _Wrong(Exception):
    """The value does not fit the field."""


def parse_options(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """`cls` built from `options`; `where` is the group in messages (`data` or `model`).

    Raises ConfigError with all unknown names, wrong types, missing fields and whatever `cls.__post_init__` refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in fields:
            problems.append(_unknown(key, value, fields, where))
            continue
        try:
            values[key] = _convert(hints[key], value)
        except _Wrong:
            problems.append(f"{where}.{key}={value!r} must be {_describe(hints[key])}.")
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in options:
            problems.append(f"{where}.{name} is missing: set it to {_describe(hints[name])}.")
    if problems:
        raise ConfigError(problems)
    return cls(**values)


def parse_parts(classes: Sequence[type], options: Mapping[str, Any], where: str) -> list[Any]:
    """One object of each class from a mapping that they share; no two classes have a field of the same name.

    Raises ConfigError with the problems of all of them.
    """
    names = [{field.name for field in dataclasses.fields(cls)} for cls in classes]
    assert sum(map(len, names)) == len(set().union(*names)), "two owners of one setting"
    shares: list[dict[str, Any]] = [{} for _ in classes]
    known = [name for cls in classes for name in (field.name for field in dataclasses.fields(cls))]
    problems: list[str] = []
    for key, value in options.items():
        if key in known:
            next(share for share, own in zip(shares, names, strict=True) if key in own)[key] = value
        else:
            problems.append(_unknown(key, value, known, where))
    parsed: list[Any] = []
    for cls, share in zip(classes, shares, strict=True):
        try:
            parsed.append(parse_options(cls, share, where))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return parsed


def _unknown(key: object, value: Any, known: Collection[str], where: str) -> str:
    expected = f"expected {', '.join(known)}" if known else "it has no settings of its own"
    return f"{where}.{key}={value!r} is not a setting here{near_miss(str(key), known)}; {expected}."


def near_miss(name: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' if something known is written almost like `name`, else ''."""
    lower = {item.lower(): item for item in reversed(list(known))}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""


def _alternatives(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType):
        return next(arg for arg in hint.__args__ if arg is not type(None)), True
    return hint, False


def _convert(hint: Any, value: Any) -> Any:
    hint, optional = _alternatives(hint)
    if value is None and optional:
        return None
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(typing.get_args(hint)[0], item) for item in items)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, (str, int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if hint in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            raise _Wrong from None
        if math.isfinite(number) and (hint is float or number == int(number)):
            return hint(number)
    raise _Wrong


def _describe(hint: Any) -> str:
    hint, optional = _alternatives(hint)
    origin = typing.get_origin(hint) or hint
    kind = _KINDS.get(hint, "a mapping of names to values")
    if origin is tuple:
        kind = _LISTS.get(typing.get_args(hint)[0], "a list of mappings")
    return f"{kind} or null" if optional else kind
