"""The privacy statement of a released model: twelve points, as JSON for programs and as Markdown for people.

What a reviewer asks of a private model (Ponomareva et al. 2023, arXiv 2303.00654, section 5.3; NIST SP 800-226): what
is protected, against whom, by which mechanism, accounted how, what is not covered, and what else was done with the same
patients. If what ran is not what was accounted, there is no epsilon in it anywhere, only the reasons.

The statement is meant to be handed out with the model: it holds no path, no identifier, no digest of patients and no
number that was counted among the training patients.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from dptrain import __version__
from dptrain.errors import DataError
from dptrain.privacy.accounting import account
from dptrain.privacy.composition import composed_epsilon
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.patient_level import patient_epsilon
from dptrain.privacy.prv import AccountantRefused
from dptrain.privacy.selection import selection_epsilon
from dptrain.privacy.summary import FPRS, PRIORS, RECORDS
from dptrain.privacy.tradeoff import posterior_cap, tradeoff
from dptrain.release.performance import SMALLEST

SCHEMA = 1
POINTS = (
    "setting",
    "unit",
    "relation",
    "mechanism",
    "sampling",
    "accounting",
    "outside",
    "tuning",
    "audit",
    "utility",
    "earlier_releases",
    "versions_and_preflight",
)
"""The twelve points, in order."""
TOP_FRACTION = 0.01
"""The most exposed patients whose patient AUC the audit states, if they are not too few."""
LIBRARIES = ("torch", "opacus", "dp-accounting", "cryptography", "numpy")


@dataclass(frozen=True)
class Facts:
    """What the statement is made of; everything that was measured is measured before."""

    model: str
    """Name of the architecture and number of trainable parameters, as words."""
    cohort: str
    simulated: bool
    mechanism: Mechanism
    nominal_patients: int
    """PUBLIC approximate number of patients trained on."""
    hold_out: bool
    averaged: bool
    num_streams: int
    """Processes that took part (1, plus one for every time the run was continued)."""
    num_lost: int
    """Steps that a kill destroyed."""
    outside: tuple[str, ...]
    """What touched private data outside DP-SGD, one sentence each."""
    selection: str
    num_runs: float
    audit: Mapping[str, Any] | None
    """Figures of the study's arm, None without a study."""
    utility: Mapping[str, Any] | None
    """Performance on the test patients, None without test patients."""
    earlier: Sequence[Mapping[str, Any]]
    """Earlier runs on these patients: event, arm, mechanism, cohort, whether the patients are exactly the same."""
    preflight: Mapping[str, Any]
    void: tuple[str, ...] = ()
    lower_bound: Mapping[str, Any] | None = None
    """What planted canaries prove about epsilon; None without canaries."""


def build_statement(facts: Facts) -> dict[str, Any]:
    """The statement as plain values: `schema`, `epsilon`, `delta`, `void`, `lower_bound`, and the twelve points."""
    mechanism = facts.mechanism
    accounting = _accounting(mechanism)
    points: dict[str, Any] = {
        "setting": {
            "model": "central",
            "trusted": "whoever trains: this machine and its operators see the patients' records",
            "released": f"the {'averaged ' if facts.averaged else ''}weights after the last step",
            "against": "anybody who has the weights and knows everything about all other patients",
            "network": facts.model,
            "cohort": facts.cohort,
            "simulated": facts.simulated,
        },
        "unit": _unit(facts),
        "relation": {
            "name": mechanism.relation,
            "words": "neighbouring cohorts differ by one unit that is added or removed",
        },
        "mechanism": {
            "name": "DP-SGD: Poisson-subsampled Gaussian mechanism, composed over the steps",
            "noise_multiplier": mechanism.noise_multiplier,
            "clipping_norm": mechanism.clipping_norm,
            "num_steps": mechanism.num_steps,
            "divisor": mechanism.expected_batch_size,
            "divisor_is_public": True,
            "noise": "AES-256 in counter mode, keyed by the operating system; the key was never stored",
            "num_processes": facts.num_streams,
            "num_lost_steps": facts.num_lost,
        },
        "sampling": {
            "scheme": "Poisson: every unit enters every step independently with the sampling rate",
            "sampling_rate": mechanism.sampling_rate,
            "checked": "the ledger of the run holds sizes and counts against binomial laws",
        },
        "accounting": accounting,
        "outside": list(facts.outside),
        "tuning": _tuning(facts, accounting["epsilon"]),
        "audit": facts.audit,
        "utility": facts.utility,
        "earlier_releases": _earlier(facts),
        "versions_and_preflight": {
            "dptrain": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
            "preflight": dict(facts.preflight),
        },
    }
    if facts.void:
        points = _without_epsilon(points)
    assert tuple(points) == POINTS
    return {
        "schema": SCHEMA,
        "epsilon": None if facts.void else accounting["epsilon"],
        "delta": None if facts.void else mechanism.delta,
        "void": list(facts.void),
        "lower_bound": None if facts.lower_bound is None else dict(facts.lower_bound),
        **points,
    }


def _unit(facts: Facts) -> dict[str, Any]:
    mechanism = facts.mechanism
    if mechanism.unit == "patient":
        return {"name": "patient", "words": "a patient with all records", "patient_epsilon": None}
    table: dict[str, float | None] = {}
    for num_records in RECORDS:
        try:
            table[str(num_records)] = patient_epsilon(
                num_records,
                mechanism.sampling_rate,
                mechanism.noise_multiplier,
                mechanism.num_steps,
                mechanism.delta,
            )
        except (AccountantRefused, ValueError, ArithmeticError, MemoryError):
            table[str(num_records)] = None
    return {
        "name": "record",
        "words": "one record; a patient with several records is protected less (patient_epsilon, by number of records)",
        "patient_epsilon": table,
    }


def _accounting(mechanism: Mechanism) -> dict[str, Any]:
    q, sigma, steps = mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.num_steps
    found = account(q, sigma, steps, mechanism.delta)
    curve = tradeoff(q, sigma, steps)
    return {
        "epsilon": found.epsilon,
        "delta": mechanism.delta,
        "accountant": found.accountant,
        "by_accountant": {"prv": found.prv, "pld": found.pld, "rdp": found.rdp},
        "error": (
            "exact up to 1e-9 relative, rounded up"
            if found.accountant == "closed form"
            else "certified upper bound: every numerical error is on the safe side"
        ),
        "caps": {
            "tpr_at_fpr": {f"{fpr:g}": _up(curve.max_tpr(fpr)) for fpr in FPRS},
            "auc": _up(curve.auc_cap()),
            "advantage": _up(curve.max_advantage()),
            "posterior_at_prior": {f"{prior:g}": _up(posterior_cap(found.epsilon, prior)) for prior in PRIORS},
        },
    }


def _tuning(facts: Facts, epsilon: float) -> dict[str, Any]:
    if facts.num_runs == 1 and facts.selection == "fixed":
        declared = "no other private training on these patients was compared with this one"
        return {"declared": declared, "epsilon": epsilon}
    total, accountant = selection_epsilon(facts.mechanism, facts.selection, facts.num_runs)  # type: ignore[arg-type]
    number = f"{facts.num_runs:g}" if facts.selection == "fixed" else f"a random number with mean {facts.num_runs:g} of"
    return {
        "declared": f"{number} private trainings with this mechanism were compared, this one included",
        "selection": facts.selection,
        "num_runs": facts.num_runs,
        "epsilon": total,
        "accountant": accountant,
    }


def _earlier(facts: Facts) -> dict[str, Any]:
    runs = [
        {
            "arm": line["arm"],
            "cohort": line["cohort"],
            "state": line["state"],
            "patients": "the same" if line["same_patients"] else "may overlap",
            "epsilon": line["epsilon"],
            "unit": line["mechanism"]["unit"],
        }
        for line in facts.earlier
    ]
    if not runs:
        return {"runs": [], "epsilon_of_all": None, "words": "none is known to the list of releases"}
    try:
        mechanisms = [Mechanism(**line["mechanism"]) for line in facts.earlier]
        total, how = composed_epsilon([*mechanisms, facts.mechanism], facts.mechanism.delta)
        words = f"all of them and this one together, for a patient who was in all ({how})"
        return {"runs": runs, "epsilon_of_all": total, "words": words}
    except ValueError as error:
        return {"runs": runs, "epsilon_of_all": None, "words": str(error)}


def _without_epsilon(points: dict[str, Any]) -> dict[str, Any]:
    """Take out every number that only a valid guarantee has."""
    return {
        **points,
        "unit": {**points["unit"], "patient_epsilon": None},
        "accounting": {"epsilon": None, "delta": None, "words": "void: what ran is not what was accounted"},
        "tuning": {key: value for key, value in points["tuning"].items() if key != "epsilon"},
        "earlier_releases": {**points["earlier_releases"], "epsilon_of_all": None},
    }


def _up(value: float) -> float:
    """Caps are rounded up."""
    return min(1.0, math.ceil(value * 1e6) / 1e6)


def audit_figures(tradeoff_json: Mapping[str, Any], label: str) -> dict[str, Any]:
    """What a study measured for the arm with this label. Raises DataError if it has no such arm."""
    arms = {arm["label"]: arm for arm in tradeoff_json["arms"]}
    if label not in arms:
        raise DataError(
            f"release.study: the study has no arm {label!r} (it has {', '.join(arms)}). Train it there first, or leave "
            "release.study out."
        )
    arm = arms[label]
    too_few = TOP_FRACTION * tradeoff_json["num_patients"] < SMALLEST
    return {
        "models": tradeoff_json["num_models"],
        "words": "measured on models of the same recipe, each trained on a random half of the patients",
        "attack": _attack(arm["attack"], tradeoff_json["num_patients"]),
        "patient_auc_p99": None if too_few else arm["risk"]["patient_auc_p99"],
        "patient_auc_p99_null": None if too_few else arm["risk"]["patient_auc_p99_null"],
        **({"withheld": f"not reported (n<{SMALLEST})"} if too_few else {}),
        "cap": arm["cap"],
        "utility": {key: arm["utility"][key] for key in ("metric", "mean", "mean_low", "mean_high")},
    }


def _attack(attack: Mapping[str, Any], num_patients: int) -> dict[str, Any]:
    """The attack's figures without true-positive rates at false-positive rates that stand for too few patients."""
    found = dict(attack)
    for name in attack:
        rate = name.removeprefix("tpr_at_fpr_").split("_")[0]
        if name.startswith("tpr_at_fpr_") and float(rate) * num_patients / 2 < SMALLEST:
            found[name] = None
    return found
