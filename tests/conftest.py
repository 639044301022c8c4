"""What all tests share: one thread per process, no display, no user's own settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before numpy or torch is imported: pytest-xdist already runs one process per core.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("HYDRA_FULL_ERROR", None)

# A busy machine is not a failing test; CI takes the same examples every time, a developer's run takes new ones.
settings.register_profile("dptrain", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("dptrain")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def house_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this run of the tests keeps the key of its pseudonyms, also in sub-processes: not at the user's home."""
    file = tmp_path_factory.mktemp("house") / "pseudonyms.key"
    os.environ["DPTRAIN_KEY_FILE"] = str(file)
    return file


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT
