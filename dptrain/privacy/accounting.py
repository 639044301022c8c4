"""What T steps of the Poisson-subsampled Gaussian mechanism cost: epsilon at delta, by three accountants side by side.

The unit is whatever q samples (patient or record); the neighbouring relation is "add or remove one unit".

`account` reports as `epsilon` the *larger* of two certified upper bounds that share no code below scipy:

* `prv`, the upper end of our own PRV composition (see `prv`), and
* `pld`, dp-accounting's pessimistic privacy loss distribution (see `pld`).

Either alone would be a valid epsilon; taking the larger costs about 0.2% and means that a bug in one of them cannot
make the guarantee look better than the other says. RDP (dp-accounting) is valid too but 10 to 30% loose; it is printed
beside them and reported only where both others give no number. With q = 1 the exact closed form is known and reported.
Nothing here can run away: the size of every grid is bounded before it is built.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from dptrain.privacy.pld import SMALLEST_DELTA, check_parameters, poisson_pld
from dptrain.privacy.prv import AccountantRefused, prv_bounds

RDP_ORDERS = (1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.2, 2.4, 2.6, 2.8, *range(3, 64), *(2**i for i in range(6, 12)))
"""Renyi orders: small ones matter at large epsilon, large ones at small. Below 1.5 dp-accounting's series often fails
to converge, takes seconds to say so and leaves the order out; this costs RDP up to 5% at epsilon above 30."""
AGREEMENT = 0.03
"""Relative difference between PRV and PLD above which `account` says so in its notes."""


@dataclass(frozen=True)
class Accounting:
    """Epsilon of one mechanism at `delta`. All epsilons are upper bounds; None means not computed, see `notes`."""

    sampling_rate: float
    """q."""
    noise_multiplier: float
    """sigma, in units of the clipping norm."""
    num_steps: int
    """T."""
    delta: float
    epsilon: float
    """The number to report."""
    accountant: str
    """Where `epsilon` comes from: "prv", "pld", "rdp" or "closed form"."""
    prv: float | None
    """Upper end of the PRV bounds."""
    pld: float | None
    """Pessimistic PLD."""
    rdp: float | None
    """Renyi DP, optimised over orders and converted."""
    notes: tuple[str, ...] = ()
    """Why an accountant is missing, or what a reader should know."""


def epsilon_prv(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> float:
    """Upper bound on epsilon by PRV composition (Gopi et al. 2021). Raises AccountantRefused with the reason."""
    return prv_bounds(sampling_rate, noise_multiplier, num_steps, delta).upper


def epsilon_pld(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> float:
    """Upper bound on epsilon by dp-accounting's pessimistic PLD. Raises AccountantRefused with the reason."""
    check_parameters(sampling_rate, noise_multiplier, num_steps, delta)
    if delta < SMALLEST_DELTA:
        raise AccountantRefused(f"PLD: delta={delta} is below {SMALLEST_DELTA}, where FFT rounding errors matter")
    epsilon = float(poisson_pld(sampling_rate, noise_multiplier, num_steps).get_epsilon_for_delta(delta))
    if not math.isfinite(epsilon):
        raise AccountantRefused(f"PLD: no finite epsilon at delta={delta}")
    return epsilon


@contextlib.contextmanager
def quiet_dp_accounting() -> Iterator[None]:
    """dp-accounting warns for every order that it leaves out; leaving one out only loosens the bound."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def epsilon_rdp(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> float:
    """Upper bound on epsilon by Renyi DP (Mironov et al. 2019, arXiv 1908.10530; dp-accounting). Loose, never wrong.

    Raises AccountantRefused where no order gives a finite epsilon.
    """
    check_parameters(sampling_rate, noise_multiplier, num_steps, delta)
    # dp-accounting takes seconds to import: only those who account pay for it.
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    step = dp_event.PoissonSampledDpEvent(sampling_rate, dp_event.GaussianDpEvent(noise_multiplier))
    accountant = RdpAccountant(RDP_ORDERS)
    with quiet_dp_accounting():
        accountant.compose(dp_event.SelfComposedDpEvent(step, int(num_steps)))
        epsilon = float(accountant.get_epsilon(delta))
    if not math.isfinite(epsilon):
        raise AccountantRefused("RDP: no order gives a finite epsilon")
    return epsilon


def delta_gaussian(epsilon: float, noise_multiplier: float, num_steps: int) -> float:
    """Exact delta of T Gaussian steps without subsampling (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    delta = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu), with mu = sqrt(T)/sigma.
    """
    mu = math.sqrt(num_steps) / noise_multiplier
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(min(epsilon + log_ndtr(-mu / 2 - epsilon / mu), 0.0)))


def epsilon_gaussian(noise_multiplier: float, num_steps: int, delta: float) -> float:
    """Exact epsilon of T full-batch steps (q = 1), rounded up by less than 1e-9 relative; 0 if delta(0) <= delta."""
    check_parameters(1.0, noise_multiplier, num_steps, delta)
    if delta_gaussian(0.0, noise_multiplier, num_steps) <= delta:
        return 0.0
    mu = math.sqrt(num_steps) / noise_multiplier
    # Phi(mu/2 - epsilon/mu) bounds delta and is below exp(-b^2/2) at b = epsilon/mu - mu/2.
    high = mu * (mu / 2 + math.sqrt(2 * math.log(1 / delta)) + 1)
    root = brentq(lambda e: delta_gaussian(e, noise_multiplier, num_steps) - delta, 0.0, high, xtol=1e-13, rtol=1e-12)
    return float(root) * (1 + 1e-10) + 1e-13


def account(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> Accounting:
    """Epsilon at `delta` by PRV, PLD and RDP, and the one to report (the rule is at the top of this file).

    Raises ValueError for parameters outside the domain, and where no accountant has a finite epsilon.
    """
    epsilon, accountant = reported_epsilon(sampling_rate, noise_multiplier, num_steps, delta)
    arguments = (float(sampling_rate), float(noise_multiplier), int(num_steps), float(delta))
    attempts = {name: _attempt(name, *arguments) for name in _ACCOUNTANTS}
    values = {name: value for name, (value, _) in attempts.items()}
    notes = [reason for _, reason in attempts.values() if reason] + _remarks(values, accountant)
    return Accounting(*arguments, epsilon, accountant, values["prv"], values["pld"], values["rdp"], tuple(notes))


def reported_epsilon(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> tuple[float, str]:
    """(epsilon, accountant) exactly as in `account`, without computing the numbers that are only shown beside it."""
    check_parameters(sampling_rate, noise_multiplier, num_steps, delta)
    if sampling_rate == 1:
        return epsilon_gaussian(noise_multiplier, num_steps, delta), "closed form"
    arguments = (float(sampling_rate), float(noise_multiplier), int(num_steps), float(delta))
    numerical = [(value, name) for name in ("prv", "pld") if (value := _attempt(name, *arguments)[0]) is not None]
    if numerical:
        return max(numerical)
    rdp = _attempt("rdp", *arguments)[0]
    if rdp is None:
        raise ValueError(
            f"noise_multiplier={noise_multiplier} with sampling_rate={sampling_rate}, num_steps={num_steps}, "
            f"delta={delta} has no finite epsilon in any accountant. Use more noise or a larger delta."
        )
    return rdp, "rdp"


_ACCOUNTANTS = {"prv": epsilon_prv, "pld": epsilon_pld, "rdp": epsilon_rdp}


@functools.lru_cache(maxsize=1024)
def _attempt(
    name: str, sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float
) -> tuple[float | None, str]:
    """(epsilon, "") or (None, why this accountant has none)."""
    try:
        return _ACCOUNTANTS[name](sampling_rate, noise_multiplier, num_steps, delta), ""
    except AccountantRefused as refusal:
        return None, str(refusal)
    except (ArithmeticError, MemoryError) as failure:
        return None, f"{name.upper()}: {failure!r}"


def _remarks(values: dict[str, float | None], accountant: str) -> list[str]:
    remarks = []
    prv, pld = values["prv"], values["pld"]
    if accountant == "rdp":
        remarks.append("epsilon is RDP's, which is typically 10 to 30% larger than needed.")
    if accountant == "closed form":
        remarks.append("sampling_rate=1: epsilon is the exact value for the Gaussian mechanism without subsampling.")
    if prv is not None and pld is not None and abs(prv - pld) > AGREEMENT * max(prv, pld) + 1e-3:
        remarks.append(
            f"PRV ({prv:.4g}) and PLD ({pld:.4g}) differ by more than {AGREEMENT:.0%}; the larger is reported."
        )
    return remarks


def epsilon_spent(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> float:
    """Epsilon after the first `num_steps` steps of a run, fast enough for a curve: the closed form for q = 1, the PRV
    upper bound otherwise, `account` where PRV refuses."""
    if sampling_rate == 1.0:
        return epsilon_gaussian(noise_multiplier, num_steps, delta)
    try:
        return epsilon_prv(sampling_rate, noise_multiplier, num_steps, delta)
    except AccountantRefused:
        return account(sampling_rate, noise_multiplier, num_steps, delta).epsilon
