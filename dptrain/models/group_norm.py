"""Making other people's networks fit for private training: no BatchNorm, nothing in place."""

from __future__ import annotations

from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Fresh(nn.Module):
    """Hands its input on as a tensor of its own, which the caller may change in place (`out += shortcut`).

    The output of a layer with backward hooks is a view that autograd does not let anybody change.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """A copy."""
        return inputs.clone()


def replace_batch_norm(model: nn.Module, num_groups: int) -> nn.Module:
    """Every BatchNorm of `model` becomes a GroupNorm over the same channels; returns the model, changed in place.

    BatchNorm averages over the records of a batch, so a patient has no gradient of their own and its running statistics
    leave without noise. Scales and shifts start at 1 and 0, as in a fresh BatchNorm. `num_groups` is lowered where it
    does not divide the channels or would leave one channel per group: GroupNorm refuses a single value, and whether
    there is one would depend on who was sampled.
    """
    if isinstance(model, BATCH_NORMS):
        channels = model.num_features
        groups = max(n for n in range(1, num_groups + 1) if channels % n == 0 and (n == 1 or channels // n > 1))
        return nn.Sequential(nn.GroupNorm(groups, channels, eps=model.eps), Fresh())
    for name, child in model.named_children():
        setattr(model, name, replace_batch_norm(child, num_groups))
    return model


def nothing_in_place(model: nn.Module) -> nn.Module:
    """Activations of `model` keep their input: hooks that record it cannot follow a change in place."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model
