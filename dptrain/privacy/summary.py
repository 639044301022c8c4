"""Everything that is known about one mechanism before anything is trained: epsilons, caps, what they mean for patients.

Nothing is computed here that `accounting`, `tradeoff` and `patient_level` do not compute; this puts it side by side and
keeps the reason where a number is missing. All epsilons and caps are upper bounds, except `gaussian`, which is an
approximation and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dptrain.privacy.accounting import Accounting, account, epsilon_gaussian
from dptrain.privacy.patient_level import patient_epsilon
from dptrain.privacy.prv import AccountantRefused
from dptrain.privacy.tradeoff import GaussianApproximation, TradeOff, gdp_mu_approximation, posterior_cap, tradeoff

FPRS = (0.001, 0.01, 0.1)
"""False-positive rates of the caps."""
PRIORS = (0.01, 0.1, 0.5)
"""What the attacker believed before."""
RECORDS = (1, 2, 4, 8, 16)
"""Records of a patient, where records are sampled and clipped one by one."""
POSTERIOR_FPR = 0.01
"""False-positive rate of the alarm in `MechanismSummary.posterior_after_alarm`."""


@dataclass(frozen=True, eq=False)
class MechanismSummary:
    """One mechanism. Fractions are fractions, never percent."""

    accounting: Accounting
    """Epsilon by each accountant and the one to report."""
    closed_form: float | None
    """Exact epsilon; only without subsampling (q = 1)."""
    reasons: Mapping[str, str]
    """Why a number is missing: keys "prv", "pld", "rdp", "closed form" and a number of records as text."""
    tradeoff: TradeOff
    """The cap on every attack on one unit, as a curve."""
    tpr_at_fpr: Mapping[float, float]
    """Largest TPR at each of FPRS."""
    advantage: float
    """Largest TPR - FPR."""
    auc: float
    """Largest AUC."""
    gaussian: GaussianApproximation
    """mu-GDP: not a bound."""
    posterior_by_epsilon: Mapping[float, float]
    """Largest probability of membership whatever the attacker sees, except with probability about delta."""
    posterior_after_alarm: Mapping[float, float]
    """The same after an alarm of an attack with FPR 0.01, from the curve."""
    patient_epsilon: Mapping[int, float | None]
    """Records of a patient -> epsilon of the whole patient if the unit is a record; None where none was found."""


def summarise(sampling_rate: float, noise_multiplier: float, num_steps: int, delta: float) -> MechanismSummary:
    """Summary of T steps at sampling rate q and noise sigma.

    Raises ValueError for parameters outside the domain, and where no accountant has a finite epsilon.
    """
    accounting = account(sampling_rate, noise_multiplier, num_steps, delta)
    reasons = {
        name: note.partition(": ")[2]
        for name in ("prv", "pld", "rdp")
        for note in accounting.notes
        if note.startswith(f"{name.upper()}: ")
    }
    closed_form = epsilon_gaussian(noise_multiplier, num_steps, delta) if sampling_rate == 1 else None
    if closed_form is None:
        reasons["closed form"] = "known for sampling rate 1 only"
    patients: dict[int, float | None] = {}
    for num_records in RECORDS:
        try:
            patients[num_records] = patient_epsilon(num_records, sampling_rate, noise_multiplier, num_steps, delta)
        except (AccountantRefused, ValueError, ArithmeticError, MemoryError) as refusal:
            patients[num_records] = None
            reasons[str(num_records)] = str(refusal) or repr(refusal)
    curve = tradeoff(sampling_rate, noise_multiplier, num_steps)
    return MechanismSummary(
        accounting=accounting,
        closed_form=closed_form,
        reasons=reasons,
        tradeoff=curve,
        tpr_at_fpr={fpr: curve.max_tpr(fpr) for fpr in FPRS},
        advantage=curve.max_advantage(),
        auc=curve.auc_cap(),
        gaussian=gdp_mu_approximation(sampling_rate, noise_multiplier, num_steps),
        posterior_by_epsilon={prior: posterior_cap(accounting.epsilon, prior) for prior in PRIORS},
        posterior_after_alarm={prior: curve.posterior(prior, POSTERIOR_FPR) for prior in PRIORS},
        patient_epsilon=patients,
    )
