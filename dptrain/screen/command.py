"""`dptrain screen`: one training, a rank per patient; with a study of the same patients, how far ranks can be trusted.

    screens/<study.name>/
      screen.json              what was trained, the attack by loss, and the agreement with the study
      restricted/patients.csv  pseudonym, groups, ranks and scores; mode 0600

A rank is no risk. It says whom to look at first before a study says who is exposed.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.attacks.signals import compute_signals
from dptrain.attacks.twins import model_units
from dptrain.audit.interval import Interval
from dptrain.audit.patients import patient_auc, patient_evidence
from dptrain.audit.roc import RankedScores
from dptrain.audit.screening import Agreement, agreements, fleet_reliability, patient_scores, record_scores
from dptrain.cohorts.cohort import Cohort
from dptrain.config import Config
from dptrain.errors import DataError, StudyError
from dptrain.report.csv_text import csv_table
from dptrain.report.pseudonyms import study_domain, study_pseudonyms
from dptrain.seeding import numpy_stream
from dptrain.study.atomic import write_json, write_text
from dptrain.study.folder import StudyFolder
from dptrain.training.prepare import prepared_cohort
from dptrain.training.trace import Trace, traced_training, without_canaries
from dptrain.training.utility import METRIC_NAMES

SCHEMA = 1
HEADLINE = "lt_iqr"
"""The score that patients are ranked by."""
ARM = "none"
"""The arm of a study that ranks are compared with: the same recipe."""
FPR = 0.01
log = logging.getLogger(__name__)


def screen(config: Config) -> tuple[Path, str]:
    """Train, rank, write; the folder and a short answer. Raises ConfigError, DataError or StudyError."""
    start = time.monotonic()
    config = without_canaries(config)
    folder = Path(config.screen.dir or Path("screens") / config.study.name)
    if (folder / "study.json").exists():
        raise StudyError(f"screen.dir={folder} is a study. Choose another folder.")
    cohort = prepared_cohort(config)
    for warning in cohort.warnings:
        log.warning("%s: %s", cohort.name, warning)
    study = None if config.screen.study is None else _study(Path(config.screen.study), cohort, config)
    trace = traced_training(config, cohort, config.screen.num_points)
    patient = _positions(cohort)[cohort.patient[trace.rows]]
    num_patients = len(cohort.train_patients)
    scores = {
        name: patient_scores(values, patient, num_patients)
        for name, values in record_scores(trace.losses_ER, trace.gradients_GR).items()
    }
    content = _content(config, cohort, trace, study, scores)
    _write_table(folder, cohort, study, scores)
    write_json(folder / "screen.json", content)
    return folder, answer(content, time.monotonic() - start)


def _positions(cohort: Cohort) -> NDArray[np.int64]:
    position = np.full(cohort.num_patients, -1, dtype=np.int64)
    position[cohort.train_patients] = np.arange(len(cohort.train_patients))
    return position


def _study(path: Path, cohort: Cohort, config: Config) -> StudyFolder:
    """The study to compare with, if it is about these patients and this network and its arm `none` is complete."""
    study = StudyFolder.open(path)
    if study.info["cohort"]["fingerprint"] != cohort.fingerprint():
        raise DataError(f"screen.study={path} was made from other data than {cohort.name} as it is read now.")
    if study.settings["model"]["name"] != config.model.name:
        raise DataError(
            f"screen.study={path} has model {study.settings['model']['name']!r}, this screen {config.model.name!r}. "
            "Ranks of one network do not speak for another: take the study's model."
        )
    if ARM not in study.arm_labels() or not study.is_complete(ARM):
        raise StudyError(f"screen.study={path} has no complete arm {ARM!r}. Run its command again first.")
    return study


def _content(
    config: Config, cohort: Cohort, trace: Trace, study: StudyFolder | None, scores: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "cohort": cohort.name,
        "simulated": cohort.simulated,
        "model": config.model.name,
        "num_patients": len(cohort.train_patients),
        "num_records": len(trace.rows),
        "num_steps": config.training.num_steps,
        "num_points": len(trace.steps),
        "score": HEADLINE,
        "utility": {"metric": METRIC_NAMES[cohort.task], "value": _number(trace.utility)},
        "loss_attack": _loss_attack(cohort, trace),
        "agreement": None if study is None else _agreement(study, scores),
        "warnings": list(cohort.warnings),
    }


def _loss_attack(cohort: Cohort, trace: Trace) -> dict[str, Any]:
    """The attack by loss on this one model: training patients against test patients, each scored by the mean signal of
    the records (a sum would compare numbers of records)."""
    signals = compute_signals(trace.logits[None], np.asarray(cohort.labels), cohort.task)[0]
    counts = np.bincount(cohort.patient, minlength=cohort.num_patients)
    mean = np.bincount(cohort.patient, weights=signals, minlength=cohort.num_patients) / counts
    ranked = RankedScores.of(mean, ~cohort.is_test)
    tpr = ranked.tpr_at_fpr(FPR)
    return {
        **_named("auc", ranked.auc_interval()),
        **_named(f"tpr_at_fpr_{FPR:g}", Interval(tpr.tpr, tpr.low, tpr.high)),
    }


def _agreement(study: StudyFolder, scores: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    cohort, membership = study.cohort(), study.membership()
    rows = np.flatnonzero(~cohort.is_test[cohort.patient])
    patient = _positions(cohort)[cohort.patient[rows]]
    signals = compute_signals(study.logits(ARM)[:, rows], np.asarray(cohort.labels)[rows], cohort.task)
    evidence = patient_evidence(signals, patient, membership.shape[1])
    rng = numpy_stream(study.settings["seed"], "bootstrap", "screen")
    reliability = fleet_reliability(evidence, membership, model_units(membership), rng)
    return {
        "study": study.info["name"],
        "arm": ARM,
        "num_models": len(membership),
        "fleet_reliability": _number(reliability),
        "largest_spearman": _number(math.sqrt(reliability) if reliability >= 0 else math.nan),
        "scores": {
            name: _agreement_dict(one)
            for name, one in agreements(scores, patient_auc(evidence, membership)).items()
        },
    }


def _agreement_dict(one: Agreement) -> dict[str, Any]:
    return {
        **_named("spearman", one.spearman),
        **{
            f"top_{top.fraction:g}": {
                "num_patients": top.num_patients,
                "num_shared": top.num_shared,
                **_named("precision", top.precision),
            }
            for top in one.top
        },
        **_named("exposed_auc", one.exposed_auc),
        "num_exposed": one.num_exposed,
    }


def _write_table(
    folder: Path, cohort: Cohort, study: StudyFolder | None, scores: dict[str, NDArray[np.float64]]
) -> None:
    """RESTRICTED. Most exposed first; pseudonyms are those of the study where one was named."""
    domain = f"screen:{cohort.fingerprint()}" if study is None else study_domain(study.info)
    pseudonyms = study_pseudonyms(folder, domain)
    if pseudonyms is None:
        raise StudyError(
            f"{folder} was made with another key of pseudonyms, which is not on this machine. Choose another "
            "screen.dir."
        )
    rank = np.empty(len(cohort.train_patients), dtype=np.int64)
    order = np.argsort(-scores[HEADLINE], kind="stable")
    rank[order] = np.arange(1, len(order) + 1)
    ids = cohort.patient_ids[cohort.train_patients].tolist()
    columns: dict[str, list[Any]] = {"rank": rank.tolist(), "pseudonym": [pseudonyms.of(one) for one in ids]}
    columns |= {
        f"group_{name}": values[cohort.train_patients].tolist() for name, values in sorted(cohort.groups.items())
    }
    columns |= {name: [_number(value) for value in values.tolist()] for name, values in scores.items()}
    rows = sorted(zip(*columns.values(), strict=True), key=lambda row: row[0])
    write_text(folder / "restricted" / "patients.csv", csv_table(list(columns), rows))


def answer(content: dict[str, Any], seconds: float) -> str:
    """What is printed."""
    attack, found = content["loss_attack"], content["agreement"]
    simulated = " (SIMULATED)" if content["simulated"] else ""
    lines = [
        f"One {content['model']} on {content['num_patients']} patients of {content['cohort']}{simulated}, "
        f"{content['num_steps']} steps, {seconds:.0f} s.",
        f"Attack by loss, training against test patients: AUC {_range(attack, 'auc')}; 0.5 is guessing.",
        f"Patients are ranked by {content['score']} in restricted/patients.csv. A rank says whom to look at first; it "
        "is no risk.",
    ]
    if found is None:
        lines.append("How far ranks agree with measured risk is not known here: name a study with screen.study=DIR.")
        return "\n".join(lines)
    one = found["scores"][content["score"]]
    lines.append(
        f"Agreement with {found['num_models']} models of study {found['study']}: Spearman {_range(one, 'spearman')}"
        + ("." if found["largest_spearman"] is None else f"; at most {found['largest_spearman']:.2f} could be seen.")
    )
    for key in ("top_0.01", "top_0.05"):
        top = one[key]
        lines.append(
            f"Of the {top['num_patients']} ranked first, {top['num_shared']} are among the study's "
            f"{top['num_patients']} most exposed: {_range(top, 'precision')}; guessing reaches {key[4:]}."
        )
    if one["exposed_auc"] is not None:
        lines.append(
            f"A patient with a patient AUC of 0.8 or more ({one['num_exposed']}) is ranked before another with "
            f"probability {_range(one, 'exposed_auc')}."
        )
    return "\n".join(lines)


def _range(values: dict[str, Any], name: str) -> str:
    if values[name] is None:
        return "not estimable"
    return f"{values[name]:.2f} ({values[f'{name}_low']:.2f} to {values[f'{name}_high']:.2f})"


def _named(name: str, interval: Interval) -> dict[str, float | None]:
    ends = {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: _number(value) for key, value in ends.items()}


def _number(value: float) -> float | None:
    return round(float(value), 6) + 0.0 if math.isfinite(value) else None
