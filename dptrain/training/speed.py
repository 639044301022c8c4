"""Settings that change how fast a fleet trains, and nothing that is accounted.

A separate type, so that a reviewer knows which knobs cannot touch epsilon: no field of it is read where a mechanism is
built, calibrated, accounted or checked (`tests/training/test_speed.py`). What changes rounding is chosen once, when a
study is created, and written into it (`study.json`, `speed`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dptrain.training.threads import one_thread

log = logging.getLogger(__name__)
STORED_VALUES = 2**25
"""Gradients of single records that a pass may hold (128 MiB in float32); more rows are cut into passes."""
ACCURATE = 1e-5
"""Largest error of a matrix product of random numbers, relative to its largest entry, that counts as float32."""


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
    """cpu or cuda. Changes rounding."""
    tf32_plain: bool = False
    """TF32 products on a GPU, for arms without clipping only. Changes rounding."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.max_rows < 1:
            raise ValueError(f"width={self.width} and max_rows={self.max_rows} must be >= 1.")
        if self.matmul not in ("default", "onednn") or self.device not in ("cpu", "cuda"):
            raise ValueError(
                f"matmul={self.matmul!r} must be default or onednn, and device={self.device!r} cpu or cuda."
            )

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> SpeedConfig:
        """From a study's record; the defaults for a study without one."""
        return cls(**(stored or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def rows_for(self, num_parameters: int, keeps_gradients: bool) -> int:
        """Rows of a pass of a network of this size; fewer if every record's gradient is kept."""
        return max(min(self.max_rows, STORED_VALUES // num_parameters), 1) if keeps_gradients else self.max_rows


def set_libraries(speed: SpeedConfig, is_plain: bool) -> None:
    """Choose this process's matrix products, by one thread. TF32 is off unless the arm has no clipping: a product that
    loses 13 bits would move a clipped sum by more than the preflight allows."""
    one_thread()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if speed.matmul == "onednn" else "none"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = speed.tf32_plain and is_plain
    torch.backends.cudnn.allow_tf32 = speed.tf32_plain and is_plain
    if speed.device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)


def onednn_is_accurate() -> bool:
    """Whether oneDNN's products are float32 on this processor. Where it has no faster way PyTorch's setting for lower
    precision only changes the library; on a processor with bfloat16 tiles it means bfloat16."""
    a, b = torch.randn(64, 96, dtype=torch.float64), torch.randn(96, 80, dtype=torch.float64)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    try:
        found = a.float() @ b.float()
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # type: ignore[attr-defined]
    exact = a @ b
    return bool((found - exact).abs().max() / exact.abs().max() < ACCURATE)


def tune(start: SpeedConfig, seconds_of: Callable[[SpeedConfig], float], widths: tuple[int, ...]) -> SpeedConfig:
    """The fastest of a few settings by a short trial; `seconds_of` trains some steps and returns seconds per model.

    Which one wins depends on the machine and on what else it does, so two studies of one configuration may round
    differently: tuning has to be asked for (`fleet.tune`).
    """
    began = time.perf_counter()
    choices = [replace(start, width=width) for width in widths]
    if start.device == "cpu" and onednn_is_accurate():
        choices += [replace(choice, matmul="onednn") for choice in choices]
    rounds = [{choice: seconds_of(choice) for choice in choices} for _ in range(3)]
    times = {choice: min(one[choice] for one in rounds) for choice in choices}
    best = min(choices, key=times.__getitem__)
    log.info(
        "Tuned in %.1f s: %d models per pass, products by %s.", time.perf_counter() - began, best.width, best.matmul
    )
    return best
