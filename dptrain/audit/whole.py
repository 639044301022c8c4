"""The whole audit of one fleet: every attack on every target, and the risk of every patient.

Arrays in, figures out. Made for fleets as large as 200 models and 400,000 records: attacks run piece by piece and keep
one number per target and patient, float32 signals stay float32, and the attacks share the processor's cores.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from dptrain.attacks.checks import BoolArray, FloatArray, Floats, IntArray, checked_targets
from dptrain.attacks.patient import add_pieces, max_of_pieces
from dptrain.attacks.protocol import Attack, SignalKind
from dptrain.attacks.twins import find_twins, model_units
from dptrain.attacks.views import Combination, pieces_over_views
from dptrain.audit.patients import patient_evidence
from dptrain.audit.remeasure import Remeasurement, remeasure
from dptrain.audit.risk import PatientRisk, patient_risk
from dptrain.audit.roc import auc
from dptrain.audit.subgroups import SubgroupRisk, subgroup_risk
from dptrain.audit.targets import AttackSummary, TargetSummary, summarise_attack, summarise_targets

FPRS = (0.01, 0.001)

MAX_OVER_RECORDS = ("lira_online",)
"""Attacks whose scores are also gathered by the maximum, as the reference study does. It grows with the number of
records even where nothing leaks, so it is not compared between patients."""


@dataclass(frozen=True)
class Answers:
    """What M models say about the records of P patients, and about records that none of them was trained on."""

    signals: Floats
    """(M, N) log odds of the truth, or (M, N, V) for V queries or labels (NaN: the record lacks the label)."""
    membership_MP: BoolArray
    patient_N: IntArray
    """(N,) 0..P-1."""
    combination: Combination = "mean"
    """How V signals make one: mean of queries, sum of labels."""
    log_probabilities: Floats | None = None
    """As `signals`, log p of the truth; None: log sigmoid of the signals, right for one output and for classes."""
    population: Floats | None = None
    """(M, Z) or (M, Z, V) log odds of records OUT of every model, of patients who are not audited."""
    population_log_probabilities: Floats | None = None

    @property
    def num_patients(self) -> int:
        return int(self.membership_MP.shape[1])

    def of_kind(self, kind: SignalKind) -> tuple[Floats, Floats | None]:
        """Signals and population as an attack wants them."""
        if kind == "log_odds":
            return self.signals, self.population
        return (
            self.log_probabilities if self.log_probabilities is not None else _log_probability(self.signals),
            self.population_log_probabilities
            if self.population_log_probabilities is not None or self.population is None
            else _log_probability(self.population),
        )

    def record_signals(self) -> Floats:
        """(M, N) one signal per record: mean over queries, sum over the labels that are there."""
        if self.signals.ndim == 2:
            return self.signals
        if self.combination == "mean":
            return np.asarray(self.signals.mean(axis=2, dtype=np.float64))
        return np.asarray(np.nansum(self.signals, axis=2, dtype=np.float64))


@dataclass(frozen=True)
class WholeAudit:
    """Every figure of one fleet."""

    attacks: Mapping[str, AttackSummary]
    targets: IntArray
    risk: PatientRisk
    subgroups: SubgroupRisk | None
    max_over_records: Mapping[str, TargetSummary]
    """AUC over targets if patients are scored by their most suspicious record, for attacks in `MAX_OVER_RECORDS`."""
    remeasured: Remeasurement | None
    """None for fleets that are not all twins, or with fewer than 4 pairs."""


def audit_models(
    answers: Answers,
    attacks: Mapping[str, Attack],
    rng: np.random.Generator,
    *,
    targets: npt.ArrayLike | None = None,
    groups: Mapping[str, npt.ArrayLike] | None = None,
    strata_P: npt.ArrayLike | None = None,
    num_permutations: int = 200,
    fprs: Sequence[float] = FPRS,
    num_threads: int = 2,
) -> WholeAudit:
    """Return the whole audit.

    Args:
        answers: what the models say.
        attacks: by the name that their result gets.
        rng: everything random is drawn from it; the same generator gives the same figures for any `num_threads`.
        targets: indices of the attacked models; None: all. The risk of patients is always taken over all models.
        groups: (P,) group of every patient, by attribute.
        strata_P: (P,) strata of the control in `subgroups`, for example the label.
        num_permutations: of the null.
        fprs: false-positive rates.
        num_threads: attacks that run side by side.

    Raises:
        ValueError: arrays that do not fit, or an attack that cannot run on them.
    """
    chosen = checked_targets(targets, len(answers.membership_MP))
    num_patients = answers.num_patients
    null_rng, group_rng, half_rng = rng.spawn(3)
    membership_MN = answers.membership_MP[:, answers.patient_N]
    kinds = {kind: answers.of_kind(kind) for kind in {attack.signal for attack in attacks.values()}}

    def run(attack: Attack) -> AttackSummary:
        scores_TP = _patient_scores(attack, *kinds[attack.signal], membership_MN, answers, chosen)
        return summarise_attack(scores_TP, answers.membership_MP[chosen], tuple(fprs))

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        signals = answers.record_signals()
        risk = pool.submit(patient_risk, signals, answers.membership_MP, answers.patient_N, null_rng, num_permutations)
        found = {name: pool.submit(run, attack) for name, attack in attacks.items()}
        largest = {
            name: pool.submit(_max_over_records, attack, answers, membership_MN, chosen)
            for name, attack in attacks.items()
            if name in MAX_OVER_RECORDS and signals.shape == answers.signals.shape and signals.shape[1] > num_patients
        }
        summaries = {name: summary.result() for name, summary in found.items()}
        maxima = {name: summary.result() for name, summary in largest.items()}
        patients = risk.result()
    subgroups = None
    if groups:
        subgroups = subgroup_risk(patients.patient_auc, groups, group_rng, strata_P=strata_P)
    return WholeAudit(summaries, chosen, patients, subgroups, maxima, _remeasured(answers, signals, half_rng))


def attack_summary(
    attack: Attack, answers: Answers, targets: npt.ArrayLike | None = None, fprs: Sequence[float] = FPRS
) -> AttackSummary:
    """Return one attack on every target; arguments and errors as `audit_models`."""
    chosen = checked_targets(targets, len(answers.membership_MP))
    membership_MN = answers.membership_MP[:, answers.patient_N]
    scores_TP = _patient_scores(attack, *answers.of_kind(attack.signal), membership_MN, answers, chosen)
    return summarise_attack(scores_TP, answers.membership_MP[chosen], tuple(fprs))


def _patient_scores(
    attack: Attack,
    signals: Floats,
    population: Floats | None,
    membership_MN: BoolArray,
    answers: Answers,
    targets: IntArray,
) -> FloatArray:
    """(T, P) the sum of the records' scores."""
    pieces: Iterable[tuple[int, slice | IntArray, FloatArray]]
    if signals.ndim == 2:
        pieces = attack.pieces(signals, membership_MN, targets=targets, population_MZ=population)
    else:
        pieces = pieces_over_views(
            attack, signals, membership_MN, answers.combination, targets=targets, population_MZV=population
        )
    return add_pieces(pieces, answers.patient_N, targets.size, answers.num_patients)


def _max_over_records(attack: Attack, answers: Answers, membership_MN: BoolArray, targets: IntArray) -> TargetSummary:
    pieces = attack.pieces(answers.signals, membership_MN, targets=targets)
    scores_TP = max_of_pieces(pieces, answers.patient_N, targets.size, answers.num_patients)
    members_TP = answers.membership_MP[targets]
    auc_T = [auc(scores, member) for scores, member in zip(scores_TP, members_TP, strict=True)]
    return summarise_targets(auc_T, model_units(members_TP), shared_references=True)


def _remeasured(answers: Answers, signals: Floats, rng: np.random.Generator) -> Remeasurement | None:
    twin = find_twins(answers.membership_MP)
    if np.any(twin < 0) or twin.size < 8:
        return None
    return remeasure(patient_evidence(signals, answers.patient_N, answers.num_patients), answers.membership_MP, rng)


def _log_probability(log_odds: Floats) -> Floats:
    result: Floats = special.log_expit(log_odds)
    return result
