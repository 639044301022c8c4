"""The cohort of a study on disk: arrays that workers and reports memory-map, and what is no array beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dptrain.cohorts.cohort import Cohort
from dptrain.study.atomic import make_folder, remove_rests, write_array, write_json

COHORT_WORDS = (
    "name",
    "task",
    "label_names",
    "feature_names",
    "outside_dp",
    "warnings",
    "simulated",
    "num_canaries",
)
"""What of a cohort is no array."""


def cohort_summary(training_cohort: Cohort) -> dict[str, Any]:
    """What study.json says of the cohort: the patients, without canaries, and how many canaries there are."""
    cohort = training_cohort.without_canaries()
    return {
        "name": cohort.name,
        "fingerprint": cohort.fingerprint(),
        "task": cohort.task,
        "num_records": cohort.num_records,
        "num_patients": cohort.num_patients,
        "num_train_patients": len(cohort.train_patients),
        "num_canaries": training_cohort.num_canaries,
        "label_names": list(cohort.label_names),
        "groups": sorted(cohort.groups),
        "outside_dp": list(cohort.outside_dp),
        "warnings": list(cohort.warnings),
        "simulated": cohort.simulated,
    }


def write_cohort(path: Path, cohort: Cohort) -> None:
    """Write everything that is trained on, canaries included, below the study folder `path`."""
    folder = path / "restricted" / "cohort"
    make_folder(folder)
    remove_rests(folder)
    for name in ("features", "labels", "patient", "is_test", "patient_ids"):
        write_array(folder / f"{name}.npy", getattr(cohort, name))
    for index, name in enumerate(sorted(cohort.groups)):
        write_array(folder / f"group_{index}.npy", cohort.groups[name])
    words = {
        name: list(value) if isinstance(value, tuple) else value
        for name in COHORT_WORDS
        for value in [getattr(cohort, name)]
    }
    write_json(folder / "cohort.json", {**words, "groups": sorted(cohort.groups)})


def read_cohort(path: Path) -> Cohort:
    """What `write_cohort` wrote; the features are memory-mapped read-only."""
    folder = path / "restricted" / "cohort"
    words = json.loads((folder / "cohort.json").read_text())
    groups = {name: np.load(folder / f"group_{index}.npy") for index, name in enumerate(words.pop("groups"))}
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("labels", "patient", "is_test", "patient_ids")}
    features = np.load(folder / "features.npy", mmap_mode="r")
    words = {name: tuple(value) if isinstance(value, list) else value for name, value in words.items()}
    return Cohort(features=features, groups=groups, **arrays, **words)
