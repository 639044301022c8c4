"""SGD and AdamW on the stacked parameters of a block: one array operation for all models and layers.

The same updates as `torch.optim.SGD` and `torch.optim.AdamW` (PyTorch documentation, "Algorithm"), which see one
tensor per layer and model; at 20 thousand parameters their overhead is longer than the arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dptrain.config import PrivateRecipe, TrainingConfig

BETAS = (0.9, 0.999)
EPS = 1e-8
Recipe = TrainingConfig | PrivateRecipe


def learning_rate(recipe: Recipe, index: int) -> float:
    """Rate of step `index`, counted from 1."""
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (index - 1) / recipe.num_steps))
    return recipe.learning_rate


class StackedOptimizer:
    """Updates `values` (K, P) in place from gradients (K, P), which it may overwrite."""

    def __init__(self, recipe: Recipe, values: Tensor) -> None:
        self.recipe, self.values = recipe, values
        self._index = 0
        self._first = self._second = torch.empty(0)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """One update at the rate of the recipe's next step."""
        self._index += 1
        rate = learning_rate(self.recipe, self._index)
        if self.recipe.optimizer == "adam":
            self._adam(gradient, rate)
        else:
            self._sgd(gradient, rate)

    def _sgd(self, gradient: Tensor, rate: float) -> None:
        if self.recipe.weight_decay:
            gradient.add_(self.values, alpha=self.recipe.weight_decay)
        if self.recipe.momentum:
            if self._index == 1:
                self._first = gradient.clone()
            else:
                self._first.mul_(self.recipe.momentum).add_(gradient)
            gradient = self._first
        self.values.add_(gradient, alpha=-rate)

    def _adam(self, gradient: Tensor, rate: float) -> None:
        if self._index == 1:
            self._first, self._second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        if self.recipe.weight_decay:
            self.values.mul_(1 - rate * self.recipe.weight_decay)
        self._first.lerp_(gradient, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first, second = 1 - BETAS[0] ** self._index, 1 - BETAS[1] ** self._index
        scale = (self._second.sqrt() / math.sqrt(second)).add_(EPS)
        self.values.addcdiv_(self._first, scale, value=-rate / first)
