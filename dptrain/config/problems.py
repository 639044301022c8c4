"""Checks that sections share: they collect problems, so that a person sees all of them at once."""

from __future__ import annotations

import math

from dptrain.errors import ConfigError


def check_positive(problems: list[str], prefix: str, obj: object, *names: str) -> None:
    """Add a problem for each field of `obj` that is not a finite number > 0; `prefix` is its section."""
    for name in names:
        value = getattr(obj, name)
        if not (value > 0 and math.isfinite(value)):
            problems.append(f"{prefix}.{name}={value} must be a finite number > 0.")


def raise_if(problems: list[str]) -> None:
    """Raise one ConfigError with all of them, if there are any."""
    if problems:
        raise ConfigError(problems)
