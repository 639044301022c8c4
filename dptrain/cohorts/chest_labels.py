"""The 14 labels of CheXpert and MIMIC-CXR: 1, 0, -1 (uncertain) and blank (not mentioned), and what to make of them.

The policies are those of Irvin et al. 2019 (doi 10.1609/aaai.v33i01.3301590, "Uncertainty Approaches"): U-Ones,
U-Zeros, U-Ignore, for all labels or for each. They look at one record at a time, so nothing of this touches epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.layout_tables import choice_problems
from dptrain.cohorts.manifest import some_values
from dptrain.errors import ConfigError, DataError

CHEST_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
"""In the order of CheXpert's files."""
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five labels of the CheXpert competition."""
UNCERTAIN = ("ones", "zeros", "ignore")
BLANK = ("zeros", "ignore")
UNCERTAIN_VALUE = -1.0


@dataclass(frozen=True)
class ChestLabelOptions:
    """Options of data sets with these labels."""

    labels: tuple[str, ...] = COMPETITION
    """What to predict. Several: multilabel. One: binary."""
    uncertain: str = "ones"
    """-1 becomes 1 (`ones`, U-Ones), 0 (`zeros`, U-Zeros) or missing (`ignore`, U-Ignore)."""
    uncertain_by_label: Mapping[str, Any] | None = None
    """Another policy for some labels: {Consolidation: zeros}."""
    blank: str = "zeros"
    """A label that the report does not mention becomes 0 (`zeros`) or missing (`ignore`)."""

    def __post_init__(self) -> None:
        problems = choice_problems("labels", self.labels, CHEST_LABELS)
        if not self.labels or len(set(self.labels)) < len(self.labels):
            problems.append(f"data.labels={list(self.labels)} must name at least one label, and none twice.")
        problems += choice_problems("uncertain", [self.uncertain], UNCERTAIN)
        problems += choice_problems("blank", [self.blank], BLANK)
        for label, policy in (self.uncertain_by_label or {}).items():
            problems += choice_problems("uncertain_by_label", [label], CHEST_LABELS)
            problems += choice_problems(f"uncertain_by_label.{label}", [str(policy)], UNCERTAIN)
        if problems:
            raise ConfigError(problems)

    def policy(self, label: str) -> str:
        """What -1 becomes for this label."""
        return str((self.uncertain_by_label or {}).get(label, self.uncertain))


@dataclass(frozen=True)
class ChestLabels:
    """Labels of the N rows of a table."""

    task: Task
    values: NDArray[np.float32]
    """(N, L) 0, 1, or NaN where missing."""
    label_names: tuple[str, ...]
    usable: NDArray[np.bool_]
    """(N,) rows with at least one label that is not missing."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | NDArray[np.int64]:
        """Labels of usable rows as `Records` wants them."""
        if self.task == "multilabel":
            return self.values[rows]
        return self.values[rows, 0].astype(np.int64)


def chest_labels(table: pd.DataFrame, options: ChestLabelOptions, file: str) -> ChestLabels:
    """Labels by the policies of `options`. Raises DataError that lists every column with other values."""
    problems = []
    columns = []
    for label in options.labels:
        text = table[label].to_numpy(dtype=object)
        numbers = np.array(pd.to_numeric(pd.Series(text, dtype=object), errors="coerce"), dtype=np.float64)
        wrong = (text != "") & ~np.isin(numbers, (1.0, 0.0, UNCERTAIN_VALUE))
        if wrong.any():
            problems.append(
                f"data.path: {file} has {int(wrong.sum())} values in column {label!r} that are not 1, 0, -1 or blank: "
                f"{some_values(text[wrong].tolist())}."
            )
        policy = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}
        values = np.where(numbers == UNCERTAIN_VALUE, policy[options.policy(label)], numbers)
        columns.append(np.where(text == "", policy[options.blank], values))
    if problems:
        raise DataError(problems)
    stacked = np.stack(columns, axis=1).astype(np.float32)
    names = options.labels
    if len(names) == 1:
        names = (f"no {names[0]}", names[0])
    usable = np.isnan(stacked).sum(axis=1) < len(columns)
    return ChestLabels("multilabel" if len(columns) > 1 else "binary", stacked, names, usable)
