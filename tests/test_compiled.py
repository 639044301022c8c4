"""Compiled loops: NaN and infinity keep their meaning, and a machine without a folder for compiled code still works."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dptrain import compiled as module
from dptrain.compiled import compiled


@compiled
def _sum_and_flags(values):
    total, finite = 0.0, 0
    for value in values:
        total += value
        finite += np.isfinite(value)
    return total, finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_seen(bad):
    values = np.ones(1000, np.float32)
    values[617] = bad
    total, finite = _sum_and_flags(values)
    assert not np.isfinite(total)
    assert finite == 999


def test_without_a_folder_for_compiled_code(monkeypatch):
    asked = []

    def njit(cache=False, **settings):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(module.numba, "njit", njit)
    assert module.compiled(lambda x: x + 1)(2) == 3
    assert asked == [True, False]


LOOP = "from dptrain.compiled import compiled\n@compiled\ndef f(x):\n    return x + 1\n"
REPORT = "print(f(1), sum(f.stats.cache_hits.values()))\n"


def run(file: Path, **environment: str) -> str:
    package = str(Path(module.__file__).parent.parent)
    environment = {"PYTHONPATH": package, "HOME": "/proc", **environment}
    found = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_numba_refuses_a_folder_as_expected(tmp_path: Path):
    """What the fallback is for, as numba says it."""
    file = tmp_path / "loop.py"
    file.write_text(LOOP + "print(f(1))\n")
    assert run(file, NUMBA_CACHE_DIR="/proc/none") == "2\n"


def test_compiled_code_is_kept_but_not_past_a_change_of_the_rules(tmp_path: Path, monkeypatch):
    file = tmp_path / "loop.py"
    file.write_text(LOOP + REPORT)
    cache = tmp_path / "cache"
    assert run(file, NUMBA_CACHE_DIR=str(cache)) == "2 0\n"
    assert run(file, NUMBA_CACHE_DIR=str(cache)) == "2 1\n"
    (folder,) = cache.iterdir()
    source = Path(module.__file__).read_text("utf-8")
    changed = tmp_path / "compiled.py"
    changed.write_text(source.replace('"reassoc", ', ""))
    tiles = changed.with_name("tiles.py")
    tiles.write_bytes(Path(module.__file__).with_name("tiles.py").read_bytes())
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    assert module._folder(frozenset()) == folder
    monkeypatch.setattr(module, "__file__", str(changed))
    other = module._folder(frozenset())
    assert other != folder
    tiles.write_text("LANES = 1")
    assert module._folder(frozenset()) not in (folder, other)


def test_a_change_of_a_function_that_is_called_is_noticed(tmp_path: Path):
    """Of a function of another file, and of one that only that one calls."""
    last, middle, first = (tmp_path / f"{name}.py" for name in ("last", "middle", "first"))
    last.write_text("from dptrain.compiled import compiled\n@compiled\ndef h(x):\n    return x + 1\n")
    middle.write_text(
        "from dptrain.compiled import compiled\nfrom last import h\n@compiled\ndef g(x):\n    return h(x)\n"
    )
    first.write_text(
        "from dptrain.compiled import compiled\nfrom middle import g\n@compiled\ndef f(x):\n    return g(x)\n" + REPORT
    )
    cache = str(tmp_path / "cache")
    assert run(first, NUMBA_CACHE_DIR=cache) == "2 0\n"
    assert run(first, NUMBA_CACHE_DIR=cache) == "2 1\n"
    last.write_text(last.read_text().replace("x + 1", "x + 5"))
    assert run(first, NUMBA_CACHE_DIR=cache) == "6 0\n"


def _imported(tree: ast.Module) -> dict[str, str]:
    """Names and the modules that they were imported from; modules themselves as ""."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: "" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node.module or "" for alias in node.names}
    return names


def test_compiled_functions_use_nothing_that_may_change_unnoticed():
    """Of other files: compiled functions that were imported by name, and tiles. No constants, no modules."""
    for path in Path(module.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        loops = [node for node in tree.body if isinstance(node, ast.FunctionDef)
                 and any(getattr(one, "id", "").startswith("compiled") for one in node.decorator_list)]  # fmt: skip
        if not loops:
            continue
        names = _imported(tree)
        package = Path(module.__file__).parent.parent
        own = importlib.import_module(".".join(path.relative_to(package).with_suffix("").parts))
        for loop in loops:
            for node in (inner for statement in loop.body for inner in ast.walk(statement)):
                source = names.get(node.id) if isinstance(node, ast.Name) else None
                if source is None or source == "dptrain.tiles" or node.id in ("np", "math"):
                    continue
                assert getattr(own, node.id) in module._SOURCES, (path.name, loop.name, node.id)


@compiled
def _inverse(value):
    return 1.0 / value


def test_a_division_by_zero_is_infinite():
    """As in numpy: one odd record must not stop a training."""
    assert _inverse(0.0) == np.inf
