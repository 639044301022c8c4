"""Settings that change how fast a fleet trains, and nothing that is accounted.

A separate type, so that a reviewer knows which knobs cannot touch epsilon: no field of it is read where a mechanism is
built, calibrated, accounted or checked (`tests/training/test_speed.py`). What changes rounding is chosen once, when a
study is created, and written into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SpeedConfig:
    """How the models of a block are computed."""

    width: int = 4
    """K: models that go through one pass together. Changes rounding."""
    max_rows: int = 2048
    """Rows of one pass, all its models together; a unit is never split. Changes rounding."""
    matmul: str = "default"
    """Library for matrix products on a CPU: default (MKL), or onednn. Changes rounding."""
    device: str = "cpu"
    """cpu, or cuda:N. Changes rounding."""
    tf32_plain: bool = False
    """TF32 products on a GPU, for arms without clipping only. Changes rounding."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.max_rows < 1:
            raise ValueError(f"width={self.width} and max_rows={self.max_rows} must be >= 1.")
        if self.matmul not in ("default", "onednn"):
            raise ValueError(f"matmul={self.matmul!r} must be default or onednn.")

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> SpeedConfig:
        """From a study's record; the defaults for a study without one."""
        return cls(**(stored or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def apply_speed(speed: SpeedConfig) -> None:
    """Set this process's library for matrix products."""
    import torch

    precision = "bf16" if speed.matmul == "onednn" else "none"
    torch.backends.mkldnn.matmul.fp32_precision = precision
