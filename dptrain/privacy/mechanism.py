"""`Mechanism`: the one description of the Poisson-subsampled Gaussian mechanism that runs and that is accounted.

Formal guarantee. With unit of privacy u (a patient with all records, or one record) and the neighbouring relation "add
or remove one u", T steps each release

    sum over sampled units of clip(g_u, C)  +  Normal(0, (sigma C)^2 I)

where every unit is sampled independently with probability q. Dividing by the public `expected_batch_size`, momentum,
weight decay, learning-rate schedules and weight averaging are post-processing. The sampler, the noise and the event
that is accounted are all derived from this object; nothing else may know q, sigma, C or T.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["patient", "record"]


@dataclass(frozen=True)
class Mechanism:
    """Parameters of DP-SGD. Raises ValueError for values outside the domain."""

    unit: Unit
    """What is added or removed between neighbouring data sets."""
    sampling_rate: float
    """q in (0, 1]: probability of every unit to enter a step. Public."""
    noise_multiplier: float
    """sigma >= 0: standard deviation of the noise divided by C. 0 gives no privacy (the control `clip`)."""
    clipping_norm: float
    """C > 0: largest L2 norm of one unit's contribution to the sum."""
    num_steps: int
    """T >= 1: exactly this many releases."""
    expected_batch_size: float
    """Divisor of the noisy sum. Public; never the realised batch size."""
    delta: float
    """delta of the reported (epsilon, delta)."""
    relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    """Neighbouring relation."""

    def __post_init__(self) -> None:
        if self.unit not in ("patient", "record"):
            raise ValueError(f"unit={self.unit!r} must be 'patient' or 'record'.")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate={self.sampling_rate} must be in (0, 1].")
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"noise_multiplier={self.noise_multiplier} must be a finite number >= 0.")
        if not (self.clipping_norm > 0 and math.isfinite(self.clipping_norm)):
            raise ValueError(f"clipping_norm={self.clipping_norm} must be a finite number > 0.")
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be >= 1.")
        if not (self.expected_batch_size > 0 and math.isfinite(self.expected_batch_size)):
            raise ValueError(f"expected_batch_size={self.expected_batch_size} must be a finite number > 0.")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta={self.delta} must be between 0 and 1.")

    @property
    def is_private(self) -> bool:
        """Whether noise is added at all."""
        return self.noise_multiplier > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)
