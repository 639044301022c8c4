"""The fused engine: DP-SGD steps of a block of models in one pass each, equal to Opacus and several times as fast.

`stack` holds the parameters, `rules` and its layer files say how each layer is computed, `tape` clips, `engine` makes
the noisy steps and keeps the ledgers. Which layers are supported is the table `RULES`.
"""

from __future__ import annotations

from dptrain.privacy.fused import convolution, embedding, linear, norms  # noqa: F401  (enter their rules)
from dptrain.privacy.fused.rules import RULES, unsupported_layers

__all__ = ["RULES", "unsupported_layers"]
