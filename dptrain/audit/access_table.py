"""What restricting the model's answers buys: the same attacks and the same risk of patients under each access policy.

Computed from stored logits (`attacks.access`), to stand beside what DP buys. The figure is for these attacks with one
question per record; DP bounds every attacker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.access import POLICIES, Access, seen_log_probabilities, seen_signals
from dptrain.attacks.checks import BoolArray, IntArray
from dptrain.attacks.protocol import Attack
from dptrain.attacks.signals import Task
from dptrain.audit.common import mean_auc_interval
from dptrain.audit.interval import Interval
from dptrain.audit.patients import patient_auc, patient_evidence
from dptrain.audit.quantile import quantile_interval
from dptrain.audit.targets import AttackSummary
from dptrain.audit.whole import FPRS, Answers, attack_summary


@dataclass(frozen=True)
class AccessRow:
    """What is left under one policy."""

    policy: str
    attacks: Mapping[str, AttackSummary]
    mean: Interval
    """Mean patient AUC."""
    p99: Interval
    """99th percentile of the patient AUCs."""


def access_table(
    logits_MNK: npt.ArrayLike,
    labels: npt.ArrayLike,
    task: Task,
    membership_MP: BoolArray,
    patient_N: IntArray,
    attacks: Mapping[str, Attack],
    *,
    policies: Sequence[Access] = POLICIES,
    population: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    targets: npt.ArrayLike | None = None,
    fprs: Sequence[float] = FPRS,
) -> tuple[AccessRow, ...]:
    """Return one row per policy.

    Args:
        logits_MNK: (M, N, K).
        labels: of the records, as in `compute_signals`.
        attacks: by the name that their result gets; those that need a population get the given one.
        policies: what the attacker may see.
        population: (M, Z, K) logits and labels of records OUT of every model.
        targets: indices of the attacked models; None: all.
        fprs: false-positive rates.

    Raises:
        ValueError: arrays that do not fit, or an attack that cannot run on them.
    """
    rows = []
    for policy in policies:
        known = population is not None
        answers = Answers(
            seen_signals(logits_MNK, labels, task, policy),
            membership_MP,
            patient_N,
            log_probabilities=seen_log_probabilities(logits_MNK, labels, task, policy) if known else None,
            population=seen_signals(*population, task, policy) if population is not None else None,
            population_log_probabilities=(
                seen_log_probabilities(*population, task, policy) if population is not None else None
            ),
        )
        evidence = patient_evidence(answers.signals, patient_N, answers.num_patients)
        mean = mean_auc_interval(evidence, membership_MP, np.random.default_rng(0))
        p99 = quantile_interval(patient_auc(evidence, membership_MP), 0.99)
        found = {name: attack_summary(attack, answers, targets, fprs) for name, attack in attacks.items()}
        rows.append(AccessRow(policy.name, found, mean, p99))
    return tuple(rows)
