"""Activations by name, shared by the models."""

from __future__ import annotations

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def activation_problems(name: str) -> list[str]:
    """A problem if `name` is not an activation."""
    if name in ACTIVATIONS:
        return []
    return [f"model.activation={name!r} must be one of {', '.join(ACTIVATIONS)}."]
