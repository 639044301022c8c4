"""Membership inference attacks: arrays of signals in, arrays of scores out. HIGHER MEANS MEMBER."""

from dptrain.attacks.access import POLICIES, Access, access_named, seen_log_probabilities, seen_signals
from dptrain.attacks.lira import lira_offline, lira_online
from dptrain.attacks.patient import expand_membership, max_over_records, sum_over_records
from dptrain.attacks.protocol import ATTACKS, Attack, attack_named, default_attack
from dptrain.attacks.rmia import rmia_offline, rmia_one_reference, rmia_online
from dptrain.attacks.signals import (
    compute_label_signals,
    compute_log_probabilities,
    compute_regression_signals,
    compute_signals,
)
from dptrain.attacks.threshold import threshold_scores
from dptrain.attacks.twins import find_twins, model_units

__all__ = [
    "ATTACKS",
    "Access",
    "Attack",
    "POLICIES",
    "access_named",
    "attack_named",
    "compute_label_signals",
    "compute_log_probabilities",
    "compute_regression_signals",
    "compute_signals",
    "default_attack",
    "expand_membership",
    "find_twins",
    "lira_offline",
    "lira_online",
    "max_over_records",
    "model_units",
    "rmia_offline",
    "rmia_one_reference",
    "rmia_online",
    "seen_log_probabilities",
    "seen_signals",
    "sum_over_records",
    "threshold_scores",
]
