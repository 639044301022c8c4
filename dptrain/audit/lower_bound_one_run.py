"""Lower bound on epsilon from one training with many canaries (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846).

Each of m canaries is in by an independent fair coin. An attacker who sees the model guesses r of the coins and v
guesses are right. If the training is (epsilon, delta)-private, v is hardly larger than if each guess were right with
probability e^epsilon / (1 + e^epsilon): Theorem 5.2 (in the form of the paper's Appendix D) bounds the p-value by

    beta + 2 m delta alpha,   beta  = Pr[Binomial(r, q) >= v],
                              alpha = max over i in 1..v of Pr[v > Binomial(r, q) >= v - i] / i.
"""

import numpy as np
from scipy import special

from dptrain.audit.lower_bound import largest_true


def one_run_p_value(num_coins: int, num_guesses: int, num_correct: int, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of so many right guesses under (epsilon, delta)-privacy.

    Args:
        num_coins: m, all canaries.
        num_guesses: r, guessed coins; fixed before the scores were looked at.
        num_correct: v, right guesses.
        epsilon, delta: of the hypothesis, >= 0.

    Raises:
        ValueError: counts that are not 0 <= v <= r <= m, or a negative epsilon or delta.
    """
    if not 0 <= num_correct <= num_guesses <= num_coins:
        raise ValueError(
            f"num_correct={num_correct}, num_guesses={num_guesses} and num_coins={num_coins} must satisfy "
            "0 <= correct <= guesses <= coins."
        )
    if epsilon < 0 or not 0 <= delta < 1:
        raise ValueError(f"epsilon={epsilon} must be >= 0 and delta={delta} must lie in [0, 1).")
    if num_correct == 0:
        return 1.0
    accuracy = special.expit(epsilon)
    beta = special.bdtrc(num_correct - 1, num_guesses, accuracy)
    if delta == 0.0:
        return float(min(1.0, beta))
    below = np.arange(num_correct - 1, -1, -1)
    log_mass = (
        special.gammaln(num_guesses + 1)
        - special.gammaln(below + 1)
        - special.gammaln(num_guesses - below + 1)
        + special.xlogy(below, accuracy)
        + special.xlog1py(num_guesses - below, -accuracy)
    )
    alpha = (np.cumsum(np.exp(log_mass)) / np.arange(1, num_correct + 1)).max()
    return float(min(1.0, beta + 2.0 * num_coins * delta * alpha))


def one_run_bound(num_coins: int, num_guesses: int, num_correct: int, delta: float, level: float) -> float:
    """Return the epsilon below which everything is refuted at this level (`audit.lower_bound.Bound`).

    Raises:
        ValueError: as in `one_run_p_value`.
    """
    return largest_true(lambda eps: one_run_p_value(num_coins, num_guesses, num_correct, eps, delta) <= level)
