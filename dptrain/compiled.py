"""Loops that are compiled when they are first called (numba), for arithmetic that array libraries spread over many
passes through memory.

Compiled code is kept beside the source or, where that is read-only, in the user's cache folder; where neither can be
written every process compiles for itself, which takes about two seconds. Sums may be added up in another order than
written, so that they use vector instructions; NaN and infinity keep their meaning, because records with gradients that
are not finite are found by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])
_MATH = {"reassoc", "contract", "nsz"}
"""LLVM's licences to reorder and fuse; `nnan` and `ninf` are not among them."""


def compiled(function: F) -> F:
    """Decorator: compile for the types of the arguments, numpy arrays and numbers."""
    return _compile(function, _MATH)


def compiled_as_written(function: F) -> F:
    """Decorator: the same, in the order of the source: a difference of close numbers is taken where it is written."""
    return _compile(function, set())


def _compile(function: F, math: set[str]) -> F:
    compile_: Any = numba.njit
    try:
        return cast(F, compile_(cache=True, fastmath=math)(function))
    except RuntimeError:  # no folder for the compiled code
        return cast(F, compile_(fastmath=math)(function))
