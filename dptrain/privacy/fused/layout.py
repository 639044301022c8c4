"""Arrays whose channels lie last in memory, and the view of them that torch's layers expect."""

from __future__ import annotations

from torch import Tensor


def is_on_cpu(rows: Tensor) -> bool:
    """Where channels lie last; a GPU takes the models of a stack side by side instead."""
    return bool(rows.device.type == "cpu")


def channels_last(rows: Tensor) -> Tensor:
    """(N, C, *positions) -> (N, *positions, C), contiguous; copied only if channels do not lie last already.

    Strides of a single channel say nothing, but layers choose the order of their outputs by them: viewed anew."""
    last = rows.movedim(1, -1).contiguous()
    return last.view(-1).view(last.shape)


def channels_first(rows: Tensor) -> Tensor:
    """(N, *positions, C) -> (N, C, *positions), a view."""
    return rows.movedim(-1, 1)
