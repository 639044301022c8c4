"""The threshold attack: a record on which the model is confident and right is called a member.

Yeom et al. 2018 (arXiv 1709.01604), Adversary 1 with the loss replaced by the log odds of the true label,
which for one output and for classes orders records as the loss does. It needs no reference model and is the
weakest attack here: it cannot tell an easy patient from a memorised one.
"""

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import FloatArray, checked_matrix, checked_targets


def threshold_scores(signals_MN: npt.ArrayLike, *, targets: npt.ArrayLike | None = None) -> FloatArray:
    """Return (T, N) the signals of the targets themselves, as a new array. HIGHER MEANS MEMBER.

    Args:
        signals_MN: (M, N) signals.
        targets: indices of the attacked models; None means all, T = M.

    Raises:
        ValueError: signals that are not a finite matrix, or targets out of range.
    """
    signals = checked_matrix(signals_MN, "signals")
    return np.array(signals[checked_targets(targets, signals.shape[0])], dtype=np.float64)
