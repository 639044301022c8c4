"""From host arrays to the device of a stack, without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor there. On a GPU the copy is queued behind the work that is going on: from pinned memory,
    which PyTorch keeps until the copy is made; from ordinary memory it would wait."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
