"""`dptrain report STUDY --format sacro`: what the readers of SACRO-ML expect, so that an output checker of a trusted
research environment finds a study in the form that other models come in.

    report/sacro/<arm>/report.json    attack report: {"<attack name>_<log id>": {...}} as sacroml 1.4 to 2.0 write it,
                                      and as its converter to report schema 1.2 reads it
    report/sacro/<arm>/target.yaml    the target model, without records, probabilities or weights

One attacked model is one instance. Metrics are per patient, as everywhere in dptrain. What SACRO-ML has no name for
(epsilon, unit, intervals, exposed patients) stands beside it under the key `dptrain`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from dptrain import __version__
from dptrain.attacks.patient import expand_membership, sum_over_records
from dptrain.attacks.protocol import Attack
from dptrain.attacks.signals import compute_signals
from dptrain.report.analysis import analyse, attack_of_study, records_of
from dptrain.report.results import ArmResult, StudyResult
from dptrain.report.sacro_metrics import attack_metrics, null_auc_sd
from dptrain.study.atomic import write_text
from dptrain.study.folder import StudyFolder

FOLDER = Path("report") / "sacro"
LEVEL = 0.05
"""`p_thresh` of SACRO-ML."""
FORMAT = "2.0.1"
"""The version of sacroml whose format this is."""
MODES = {"lira_online": "online-carlini", "lira_offline": "offline-carlini"}


def write_sacro(study_path: str | Path) -> Path:
    """Write the reports of every complete arm; the folder.

    Raises StudyError without a study or a complete arm, GuaranteeRefuted if an attack refutes an arm's guarantee.
    """
    study = StudyFolder.open(study_path)
    result = analyse(study)
    attack = attack_of_study(study, result.num_models)
    folder = study.path / FOLDER
    for arm in result.arms:
        scores, membership = _scores(study, arm.label, attack)
        content = sacro_report(result, arm, scores, membership, *_log(study, arm.label))
        write_text(folder / arm.label / "report.json", json.dumps(content, indent=4, allow_nan=False) + "\n")
        target = yaml.safe_dump(sacro_target(study, result, arm), sort_keys=False)
        write_text(folder / arm.label / "target.yaml", target)
    return folder


def _scores(study: StudyFolder, label: str, attack: Attack) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(M, P) scores of the attack on every model, and who was in it."""
    cohort, membership = study.cohort(), study.membership()
    rows, patient = records_of(cohort.patient, cohort.train_patients, cohort.num_patients)
    signals = compute_signals(study.logits(label)[:, rows], np.asarray(cohort.labels)[rows], cohort.task)
    scores = attack.function(signals, expand_membership(membership, patient))
    return sum_over_records(scores, patient, membership.shape[1]), membership


def _log(study: StudyFolder, label: str) -> tuple[str, datetime]:
    """An id that is the same for the same study and arm, and when the arm was begun."""
    name = f"{study.info['fingerprint']}/{study.info['cohort']['fingerprint']}/{label}"
    begun = datetime.fromtimestamp(study.arm_path(label).stat().st_mtime, UTC)
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name)), begun


def sacro_report(
    result: StudyResult,
    arm: ArmResult,
    scores_MP: NDArray[np.float64],
    membership_MP: NDArray[np.bool_],
    log_id: str,
    log_time: datetime,
) -> dict[str, Any]:
    """The content of report.json for one arm."""
    name = _attack_name(arm.attack.name)
    instances = {
        f"instance_{model}": attack_metrics(scores, member)
        for model, (scores, member) in enumerate(zip(scores_MP, membership_MP, strict=True))
    }
    return {
        f"{name}_{log_id}": {
            "log_id": log_id,
            "log_time": log_time.strftime("%d/%m/%Y %H:%M:%S"),
            "metadata": {
                "sacroml_version": f"{FORMAT} (written by dptrain {__version__})",
                "attack_name": name,
                "attack_params": _params(result, arm),
                "global_metrics": _global_metrics(arm, instances),
                "target_model": result.model,
                "target_model_params": {},
                "target_train_params": _mechanism(arm),
            },
            "attack_experiment_logger": {"attack_instance_logger": instances},
            "dptrain": _beside(result, arm),
        }
    }


def _attack_name(attack: str) -> str:
    """SACRO-ML's own name where it has one."""
    return "LiRA Attack" if attack.startswith("lira") else f"dptrain {attack.replace('_', ' ')}"


def _params(result: StudyResult, arm: ArmResult) -> dict[str, Any]:
    params: dict[str, Any] = {"output_dir": ".", "write_report": True, "p_thresh": LEVEL}
    family = next((name for name in MODES if arm.attack.name.startswith(name)), None)
    if family is not None:
        params |= {
            "n_shadow_models": result.num_models - 2,
            "mode": MODES[family],
            "fix_variance": arm.attack.name.endswith("_pooled"),
            "report_individual": False,
        }
    return params


def _mechanism(arm: ArmResult) -> dict[str, Any]:
    names = ("noise_multiplier", "sampling_rate", "clipping_norm", "num_steps", "epsilon", "delta")
    return {name: getattr(arm, name) for name in names}


def _global_metrics(arm: ArmResult, instances: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of significant instances, raw and after Benjamini and Hochberg, and the range of AUCs without leakage."""
    first = next(iter(instances.values()))
    deviation = null_auc_sd(int(first["n_pos_test_examples"]), int(first["n_neg_test_examples"]))
    found: dict[str, Any] = {"null_auc_3sd_range": f"{0.5 - 3 * deviation:.4f} -> {0.5 + 3 * deviation:.4f}"}
    for name, values in (
        ("auc_p_vals", np.array([float(one["P_HIGHER_AUC"]) for one in instances.values()])),
        ("pdif_vals", np.exp(-np.array([float(one["PDIF01"]) for one in instances.values()]))),
    ):
        found[f"n_sig_{name}"] = int((values <= LEVEL).sum())
        found[f"n_sig_{name}_corrected"] = int((false_discovery_control(values) <= LEVEL).sum())
    significant = "Significant" if arm.attack.auc.low > 0.5 else "Not significant"
    found["AUC_sig"] = f"{significant} at p={LEVEL}"
    return found


def _beside(result: StudyResult, arm: ArmResult) -> dict[str, Any]:
    """What SACRO-ML has no name for."""
    return {
        "arm": arm.label,
        "attack": arm.attack.name,
        "metrics_are_per": "patient",
        "decision_threshold": "the model's median score",
        "epsilon": arm.epsilon,
        "delta": arm.delta,
        "unit_of_privacy": result.unit,
        "attack_auc": [arm.attack.auc.value, arm.attack.auc.low, arm.attack.auc.high],
        "largest_auc_allowed": None if arm.cap is None else arm.cap.auc,
        "patients_at_least": {
            f"{one.threshold:g}": {"count": one.count, "expected_without_leakage": one.null_expected}
            for one in arm.risk.at_least
            if one.resolvable
        },
        "simulated_data": result.simulated,
    }


def sacro_target(study: StudyFolder, result: StudyResult, arm: ArmResult) -> dict[str, Any]:
    """The content of target.yaml: names and settings, no path to anything."""
    names = json.loads((study.path / "restricted" / "cohort" / "cohort.json").read_text())["feature_names"]
    return {
        "dataset_name": result.cohort,
        "dataset_module_path": "",
        "features": {
            index: {"name": name, "indices": [index], "encoding": "float"} for index, name in enumerate(names)
        },
        "generalisation_gap": None,
        "safemodel": [],
        "model_type": "",
        "model_name": result.model,
        "model_params": {**dict(study.settings["model"]["options"]), "arm": arm.label},
        "n_samples": result.num_records,
    }
