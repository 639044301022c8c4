"""Two or more studies side by side: model sizes, data sets, recipes.

Refused: the same study twice, and studies whose epsilon protects different things (a patient in one, a record in the
other), because the same epsilon is then another promise. Everything else that differs is listed, setting by setting,
with what follows for the reader. Studies of the same patients and the same halves (same data, seed and number of
models) are also compared patient by patient and model by model; others only by their summaries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.signals import compute_signals
from dptrain.attacks.twins import model_units
from dptrain.audit.matched import paired_difference
from dptrain.audit.patients import patient_evidence
from dptrain.errors import StudyError
from dptrain.report.analysis import analyse, records_of
from dptrain.report.arm_risk import PAIRED_THRESHOLDS, num_resamples
from dptrain.report.build import document_of
from dptrain.report.build_leaves import BOTH, TEST_AND_MODELS, beyond, figure_of, number_of
from dptrain.report.document import Document, Paired
from dptrain.report.leaves import Count, plain
from dptrain.report.results import Estimate
from dptrain.report.utility_interval import Performance, difference_interval, measure
from dptrain.seeding import numpy_stream
from dptrain.study.folder import StudyFolder

SCHEMA = 1
_UNIMPORTANT = ("baseline", "study", "seed", "attack")
"""Settings that change how the study measures, not what it measures."""


@dataclass(frozen=True)
class PairedArm:
    """A study minus the first one, in one arm, patient by patient."""

    study: str
    label: str
    name: str
    difference: Paired


@dataclass(frozen=True)
class Comparison:
    """Several studies. `documents` in the order asked for; names are made unique."""

    names: tuple[str, ...]
    documents: tuple[Document, ...]
    differs: Mapping[str, tuple[str, ...]]
    """Setting -> its value in every study; only those that differ."""
    cautions: tuple[str, ...]
    """What follows from the differences."""
    paired: tuple[PairedArm, ...]
    """Empty unless the studies have patients and halves in common."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The text of comparison.json; each study is its report document."""
        content: dict[str, Any] = plain(self)
        content = {"schema": content.pop("schema"), **content}
        return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def compare(paths: Sequence[Path]) -> Comparison:
    """Analyse the studies and put them side by side; the first is what others are compared with.

    Raises StudyError for fewer than two studies, one study twice, or promises that cannot be compared.
    """
    studies = [StudyFolder.open(path) for path in paths]
    if len({path.resolve() for path in paths}) < max(len(paths), 2):
        raise StudyError("A comparison needs two or more different studies: dptrain report STUDY STUDY ...")
    _refuse_nonsense(studies)
    results = [analyse(study, details=True) for study in studies]
    names = _unique([str(study.info["name"]) for study in studies])
    documents = tuple(
        document_of(result, study.info, {arm.label: study.ledgers(arm.label) for arm in result.arms})
        for study, result in zip(studies, results, strict=True)
    )
    found: list[PairedArm] = []
    for name, study in list(zip(names, studies, strict=True))[1:]:
        if _same_halves(studies[0], study):
            found += _paired(name, studies[0], study, documents[0])
    return Comparison(names, documents, _differs(studies), _cautions(studies), tuple(found))


def _refuse_nonsense(studies: Sequence[StudyFolder]) -> None:
    units = [str(study.settings["privacy"]["unit"]) for study in studies]
    if len(set(units)) > 1:
        raise StudyError(
            f"privacy.unit={', '.join(units)}: an epsilon for a {units[0]} and one for another unit are different "
            "promises, so their arms cannot stand side by side. Compare studies with the same unit."
        )
    tasks = [str(study.info["cohort"]["task"]) for study in studies]
    if len({task == "binary" for task in tasks}) > 1:
        raise StudyError(
            f"task={', '.join(tasks)}: performance is one AUROC in one study and a mean over classes or labels in "
            "another. Compare studies with the same kind of task."
        )


def _same_halves(first: StudyFolder, other: StudyFolder) -> bool:
    same_data = first.info["cohort"]["fingerprint"] == other.info["cohort"]["fingerprint"]
    return same_data and np.array_equal(first.membership(), other.membership())


def _differs(studies: Sequence[StudyFolder]) -> dict[str, tuple[str, ...]]:
    flat = [dict(_flat(study.settings)) for study in studies]
    names = dict.fromkeys(name for one in flat for name in one)
    columns = {name: tuple(one.get(name, "–") for one in flat) for name in names}
    return {
        name: values
        for name, values in columns.items()
        if len(set(values)) > 1 and name.split(".")[0] not in _UNIMPORTANT and "path" not in name
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", "none" if value is None else str(value)))
    return found


def _cautions(studies: Sequence[StudyFolder]) -> tuple[str, ...]:
    first = studies[0]
    found = []
    if any(study.info["cohort"]["fingerprint"] != first.info["cohort"]["fingerprint"] for study in studies):
        found.append(
            "The studies have different data. Performance on different patients, or for another diagnosis, is not on "
            "one scale: compare how much each study loses, not who is higher."
        )
    elif any(not _same_halves(first, study) for study in studies[1:]):
        found.append(
            "The data are the same but not the random halves (another seed or number of models): differences between "
            "studies contain that luck."
        )
    if len({study.num_models for study in studies}) > 1:
        found.append(
            "The studies have different numbers of models. Fewer models measure more roughly, so chance alone shows "
            "higher risks there: hold each figure against its own chance."
        )
    if len({study.settings["privacy"]["delta"] for study in studies}) > 1:
        found.append("Delta differs, so the same epsilon is not quite the same promise.")
    if len({json.dumps(study.settings["training"], sort_keys=True) for study in studies}) > 1:
        found.append(
            "The training recipes differ: a difference may come from the recipe and not from model or data."
        )
    return tuple(found)


def _paired(name: str, first: StudyFolder, other: StudyFolder, document: Document) -> list[PairedArm]:
    known = {arm.label: arm.name for arm in document.arms}
    found = []
    for arm in other.arms():
        if arm.label in known:
            difference = _difference(first, other, arm.label)
            found.append(PairedArm(name, arm.label, known[arm.label], difference))
    return found


def _difference(first: StudyFolder, other: StudyFolder, label: str) -> Paired:
    """`other` minus `first` in one arm."""
    cohort, membership = first.cohort(), first.membership()
    evidence, performances = [], []
    test_rows, test_patient = records_of(cohort.patient, np.flatnonzero(cohort.is_test), cohort.num_patients)
    rows, patient = records_of(cohort.patient, cohort.train_patients, cohort.num_patients)
    labels: NDArray[Any] = np.asarray(cohort.labels)
    for study in (other, first):
        logits = study.logits(label)
        signals = compute_signals(logits[:, rows], labels[rows], cohort.task)
        evidence.append(patient_evidence(signals, patient, membership.shape[1]))
        performances.append(measure(logits[:, test_rows], labels[test_rows], test_patient, cohort.task))
    return paired_leaves(
        evidence, performances, membership, len(np.unique(test_patient)), first.settings, ("comparison", label)
    )


def paired_leaves(
    evidence: Sequence[NDArray[np.float64]],
    performances: Sequence[Performance],
    membership: NDArray[np.bool_],
    num_test_patients: int,
    settings: Mapping[str, Any],
    stream: tuple[str, ...],
) -> Paired:
    """Differences (first minus second) as leaves of a document."""
    n = membership.shape[1]
    found = paired_difference(
        evidence[0],
        evidence[1],
        membership,
        numpy_stream(int(settings["seed"]), "bootstrap", *stream),
        quantiles=(0.5, 0.99),
        thresholds=PAIRED_THRESHOLDS,
        num_resamples=num_resamples(int(settings["attack"]["num_bootstrap"]), n),
    )
    utility = difference_interval(performances[0], performances[1], model_units(membership))
    mean, median, p99 = (
        Estimate(one.estimate, *one.both) for one in (found.mean, found.quantiles[0.5], found.quantiles[0.99])
    )
    return Paired(
        utility=figure_of(utility, num_test_patients, unit="AUROC", n_unit="test patients", about=TEST_AND_MODELS),
        patient_auc_mean=figure_of(mean, n, about=BOTH),
        patient_auc_median=figure_of(median, n, about=BOTH),
        patient_auc_p99=figure_of(p99, n, about=BOTH, rests_on=beyond(n)),
        count_at_least={
            f"{threshold:g}": Count(
                number_of(one.estimate), n, number_of(one.both[0]), number_of(one.both[1]), difference=True
            )
            for threshold, one in found.counts.items()
        },
    )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Names that tell the studies apart."""
    return tuple(
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    )
