"""Compiled loops: NaN and infinity keep their meaning, and a machine without a folder for compiled code still works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numba
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

    def njit(cache=False, fastmath=False):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(module.numba, "njit", njit)
    assert module.compiled(abs)(-2) == 2
    assert asked == [True, False]


def test_numba_refuses_a_folder_as_expected(tmp_path: Path):
    """What the fallback is for, as numba says it."""
    file = tmp_path / "loop.py"
    file.write_text("from dptrain.compiled import compiled\n@compiled\ndef f(x):\n    return x + 1\nprint(f(1))\n")
    package = str(Path(module.__file__).parent.parent)
    environment = {"PYTHONPATH": package, "NUMBA_CACHE_DIR": "/proc/none", "HOME": "/proc"}
    found = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, check=False)
    assert found.stdout == "2\n", found.stderr
    assert numba.__version__
