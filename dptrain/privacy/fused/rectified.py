"""Which normalisations of a model feed a ReLU and nothing else, so that one pass through memory can do both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F


def rectified_norms(model: nn.Module) -> set[str]:
    """Names of the GroupNorm layers whose output is read by one `nn.ReLU` alone; empty for a forward pass that cannot
    be traced."""
    try:
        graph = _Tracer().trace(model)
    except Exception:  # whatever a forward pass may do to a symbol
        return set()
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    return {
        str(node.target)
        for node in calls
        if type(modules[str(node.target)]) is nn.GroupNorm
        and sum(other.target == node.target for other in calls) == 1
        and _is_rectified(node.users, modules)
    }


def pass_rectified(relu: nn.ReLU) -> None:
    """Make the layer return what a rule has rectified already, and rectify everything else."""

    def forward(inputs: Tensor) -> Tensor:
        return inputs if getattr(inputs, "is_rectified", False) else F.relu(inputs, relu.inplace)

    relu.forward = forward


def _is_rectified(users: Iterable[fx.Node], modules: dict[str, nn.Module]) -> bool:
    readers = list(users)
    if len(readers) != 1 or readers[0].op != "call_module":
        return False
    relu = modules[str(readers[0].target)]
    return type(relu) is nn.ReLU and not (relu._forward_hooks or relu._forward_pre_hooks or relu._backward_hooks)


class _Tracer(fx.Tracer):
    """Layers with parameters of their own are not looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Also for classes that torch does not know."""
        own: Any = next(m.parameters(recurse=False), None)
        return own is not None or super().is_leaf_module(m, module_qualified_name)
