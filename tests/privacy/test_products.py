"""Products of matrices in tiles: equal to numpy's for every size, and nothing is written beside the result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dptrain.privacy.fused.products import flip, product
from dptrain.tiles import LANES, WIDTH

WIDE = LANES * WIDTH
FILES = ("test_products.py", "test_fused_chain.py", "test_fused_loops.py")


@given(
    rows=st.integers(0, 40),
    size=st.integers(0, 40),
    columns=st.integers(1, 2 * WIDE + 2 * LANES + 1),
    across=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
@example(rows=5, size=1, columns=WIDE, across=False, dtype=np.float32, seed=0)
@example(rows=264, size=128, columns=128, across=True, dtype=np.float32, seed=0)
@example(rows=1, size=1, columns=1, across=True, dtype=np.float64, seed=0)
@settings(max_examples=200, deadline=None)
def test_products(rows, size, columns, across, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rows, size)).astype(dtype), rng.standard_normal((size, columns)).astype(dtype)
    around = np.full(rows * columns + 2 * WIDE, 7.0, dtype)
    out = around[WIDE : WIDE + rows * columns]
    flat = np.ascontiguousarray(a.T if across else a).reshape(-1)
    apart, along = (1, rows) if across else (size, 1)
    product(flat, apart, along, b.reshape(-1), size, columns, out)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    assert (np.abs(out.reshape(rows, columns) - exact) <= (size + 1) * np.finfo(dtype).eps * bound).all()
    assert (around[:WIDE] == 7).all()
    assert (around[WIDE + rows * columns :] == 7).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_alone(bad):
    a, b = np.ones((13, 9), np.float32), np.ones((9, WIDE + 3), np.float32)
    a[7, 4] = bad
    out = np.empty(13 * (WIDE + 3), np.float32)
    product(a.reshape(-1), 9, 1, b.reshape(-1), 9, WIDE + 3, out)
    finite = np.isfinite(out.reshape(13, -1))
    assert not finite[7].any()
    assert finite[np.arange(13) != 7].all()


@given(outs=st.integers(1, 40), ins=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_flip(outs, ins):
    matrix = np.arange(outs * ins, dtype=np.float32).reshape(outs, ins)
    flipped = np.empty((ins, outs), np.float32)
    flip(matrix, flipped)
    assert (flipped == matrix.T).all()


@pytest.mark.slow
def test_a_processor_with_narrow_vectors(tmp_path):
    """The properties of all that is made of tiles where these have other sizes; the processor decides when they are
    imported."""
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    code = (
        "from llvmlite import binding; binding.get_host_cpu_features = binding.FeatureMap\n"
        "import pytest; from dptrain import tiles\n"
        "assert (tiles.LANES, tiles.WIDTH) == (8, 2)\n"
        f"raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', '-m', 'not slow', *{files!r}]))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
