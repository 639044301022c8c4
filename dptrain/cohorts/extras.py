"""Libraries that only some data sets need: imported when they are needed, with advice where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from dptrain.errors import ConfigError


def library(name: str, extra: str, purpose: str) -> Any:
    """The module `name`; raises ConfigError that says what to install.

    `extra` is the group of optional dependencies that brings it, `purpose` what it is for: `DICOM files`.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} need the Python package {name.partition('.')[0]}, which is not installed ({error}). "
            f"Run: pip install 'dptrain[{extra}]'"
        ) from error
