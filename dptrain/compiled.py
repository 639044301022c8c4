"""Loops that are compiled when they are first called (numba), for arithmetic that array libraries spread over many
passes through memory.

Compiled code is kept beside the source (or in NUMBA_CACHE_DIR) or, where that is read-only, in the user's cache folder;
where neither can be written every process compiles for itself, which takes some seconds. A compiled function may
call those of other files only if it has imported them by name: numba does not notice a change of another file, the
name of the folder does.

Sums may be added up in another order than written, so that they use vector instructions; NaN and infinity keep their
meaning, because records with gradients that are not finite are found by them; a division by zero gives them.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
from numba.core.dispatcher import Dispatcher

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
    config: Any = numba.config
    compile_: Any = numba.njit
    sources = _sources(function)
    before, config.CACHE_DIR = config.CACHE_DIR, str(_folder(sources))
    try:
        found = compile_(cache=True, fastmath=math, error_model="numpy")(function)
    except RuntimeError:  # no folder for the compiled code
        found = compile_(fastmath=math, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before
    _SOURCES[found] = sources
    return cast(F, found)


_SOURCES: dict[Any, frozenset[Path]] = {}
"""Of every compiled function: files of other compiled functions that it may call, and of those that they may call."""


def _sources(function: Callable[..., Any]) -> frozenset[Path]:
    own = Path(function.__code__.co_filename)
    called = {each for each in function.__globals__.values() if isinstance(each, Dispatcher)} & _SOURCES.keys()
    files = {Path(each.py_func.__code__.co_filename) for each in called}
    return frozenset(files.union(*(_SOURCES[each] for each in called)) - {own})


def _folder(sources: frozenset[Path]) -> Path:
    """Named after the content of this file, of the tiles and of `sources`, and the processor: numba looks at the file
    of a function only, and would take code that calls what has changed since, was compiled by other rules, or sized for
    another processor's registers."""
    here = Path(__file__)
    content = [file.read_bytes() for file in (here, here.with_name("tiles.py"), *sorted(sources))]
    try:
        processor = llvm.get_host_cpu_name() + llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # a processor that LLVM cannot ask
        processor = platform.machine()
    stamp = hashlib.sha256(b"\0".join([*content, processor.encode()])).hexdigest()[:12]
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(chosen) if chosen else here.parent / "__pycache__") / f"compiled-{stamp}"
