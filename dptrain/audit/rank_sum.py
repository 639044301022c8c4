"""The exact distribution of an AUC from n_in and n_out models without ties and without leakage (Mann & Whitney 1947).

Every set of ranks for the IN models is then equally likely, so the distribution is the same for all patients with as
many IN models: one table instead of shuffling the models of each patient.
"""

import numpy as np

from dptrain.attacks.checks import FloatArray

MOST_MODELS = 256
"""Beyond this the table would be large; time and size grow with the third power of the number of models."""


def mann_whitney_probabilities(num_models: int, most_in: int) -> list[FloatArray]:
    """Return, for n = 0..most_in IN models of M, the (n (M - n) + 1,) probabilities of U = 0, 1, ...: AUC times cells.

    Raises:
        ValueError: more than `MOST_MODELS` models, or `most_in` outside 0..M.
    """
    if not 0 <= most_in <= num_models <= MOST_MODELS:
        raise ValueError(
            f"num_models={num_models}, most_in={most_in}: expected 0 <= most_in <= models <= {MOST_MODELS}."
        )
    few = min(most_in, num_models // 2)
    size = max(n * (num_models - n) for n in range(few + 1)) + 1
    ways_NU = np.zeros((few + 1, size))
    ways_NU[0, 0] = 1.0
    for seen in range(num_models):
        # The next larger value is IN, and above all OUT values so far; or it is OUT, which changes nothing.
        for inside in range(min(few, seen + 1), 0, -1):
            above = seen - (inside - 1)
            ways_NU[inside, above:] += ways_NU[inside - 1, : size - above]
    tables = []
    for inside in range(most_in + 1):
        ways_U = ways_NU[min(inside, num_models - inside), : inside * (num_models - inside) + 1]
        tables.append(ways_U / ways_U.sum())
    return tables
