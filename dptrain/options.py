"""Options that one data set or one model owns: from the plain mapping in `options` to its owner's frozen dataclass.

`parse_options(MlpOptions, {"width": "32"}, "model")` checks names and types, collects every problem and raises one
ConfigError. A field may be str, int, float, bool, tuple[str, ...] (one text is a tuple of one) or Mapping, each
optionally `| None`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from dptrain.errors import ConfigError

T = TypeVar("T")
_KINDS = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}


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
            expected = f"expected {', '.join(fields)}" if fields else "it has no settings of its own"
            problems.append(f"{where}.{key}={value!r} is not a setting here{near_miss(str(key), fields)}; {expected}.")
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
        return tuple(_convert(str, item) for item in items)
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
    kind = "a list of texts" if origin is tuple else _KINDS.get(hint, "a mapping of names to values")
    return f"{kind} or null" if optional else kind
