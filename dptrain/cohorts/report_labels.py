"""Labels from the lines of a machine's report, by patterns: what is found, what is hedged, what was never reported.

Each line is judged by itself, so a pattern cannot run from one statement into the next. Patterns are configuration and
see one record at a time: nothing of this touches epsilon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.errors import ConfigError
from dptrain.options import near_miss

PATTERNS: dict[str, tuple[str, ...]] = {
    "abnormal ECG": (r"\babnormal ecg\b",),
    "normal ECG": (r"\bnormal ecg\b(?! except)",),
    "sinus rhythm": (r"^sinus rhythm", r"^normal sinus rhythm"),
    "atrial fibrillation": (r"\batrial fib",),
    "infarct": (r"\binfarct",),
    "left bundle branch block": (r"\bleft bundle branch block", r"\blbbb\b"),
    "right bundle branch block": (r"\bright bundle branch block", r"\brbbb\b"),
    "left ventricular hypertrophy": (r"\bleft ventricular hypertrophy", r"\blvh\b"),
    "pacemaker": (r"\bpaced\b", r"\bpacemaker\b"),
}
"""What data.patterns=null knows: regular expressions in the machine's English, any letter case."""
UNCERTAIN = ("positive", "negative", "missing")


@dataclass(frozen=True)
class ReportLabelOptions:
    """Options of labels that come from a machine's report, or instead from a table of yours."""

    labels: tuple[str, ...] = ("abnormal ECG",)
    """What to predict; several: multilabel, one: binary. Names of `patterns`, or columns of `label_file`."""
    patterns: Mapping[str, Any] | None = None
    """{label: [regular expressions]}, tried on every line of the report, letter case ignored; null has the names
    abnormal ECG, normal ECG, sinus rhythm, atrial fibrillation, infarct, left and right bundle branch block, left
    ventricular hypertrophy, pacemaker."""
    uncertain_words: tuple[str, ...] = ("possible", "probable", "consider", "cannot rule out", "may be", "suggests")
    """A line with one of these words is a hedged finding."""
    uncertain: str = "positive"
    """What a label counts as that only hedged lines state: positive, negative or missing."""
    label_file: str | None = None
    """Instead of patterns: your table (.csv, .csv.gz, .tsv, .parquet) with 0/1 columns named by `labels`, empty where
    not known. A relative name that does not exist starts in the folder of the data."""
    label_key: str = "study_id"
    """Column of `label_file` that says whose label it is: study_id, or subject_id for all ECGs of a patient."""

    def __post_init__(self) -> None:
        problems = []
        if not self.labels or len(set(self.labels)) < len(self.labels):
            problems.append(f"data.labels={list(self.labels)} must name at least one label, and none twice.")
        if self.uncertain not in UNCERTAIN:
            problems.append(f"data.uncertain={self.uncertain!r} must be one of {', '.join(UNCERTAIN)}.")
        if self.label_key not in ("study_id", "subject_id"):
            problems.append(f"data.label_key={self.label_key!r} must be study_id or subject_id.")
        if self.label_file is not None and self.patterns is not None:
            problems.append("data.label_file and data.patterns are both set; keep one of them.")
        if self.label_file is None:
            known = self.expressions
            problems += [
                f"data.labels has {label!r}, which has no pattern{near_miss(label, known)}; expected some of "
                f"{', '.join(known)}. data.patterns={{NAME: [REGULAR EXPRESSION]}} adds your own."
                for label in self.labels
                if label not in known
            ]
            problems += [problem for label in self.labels for problem in _expression_problems(label, known)]
        if problems:
            raise ConfigError(problems)

    @property
    def expressions(self) -> Mapping[str, tuple[str, ...]]:
        """Regular expressions by label."""
        if self.patterns is None:
            return PATTERNS
        return {
            str(label): tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
            for label, value in self.patterns.items()
        }


def report_labels(lines: pd.DataFrame, options: ReportLabelOptions) -> NDArray[np.float32]:
    """(N, L) 0, 1, or NaN: records without any line, and labels that `uncertain=missing` leaves open.

    `lines` (N, lines) holds text, '' where there is none.
    """
    codes, texts = pd.factorize(lines.to_numpy(dtype=object).ravel())
    codes = codes.reshape(lines.shape)
    hedged = _matches(texts, [rf"\b{re.escape(word)}\b" for word in options.uncertain_words])
    labels = np.empty((len(lines), len(options.labels)), dtype=np.float32)
    of_hedged = {"positive": 1.0, "negative": 0.0, "missing": np.nan}[options.uncertain]
    for index, label in enumerate(options.labels):
        found = _matches(texts, options.expressions[label])
        strength = np.where(found, np.where(hedged, 1, 2), 0)[codes].max(axis=1)
        labels[:, index] = np.array([0.0, of_hedged, 1.0], dtype=np.float32)[strength]
    labels[(np.asarray(texts) == "")[codes].all(axis=1)] = np.nan
    return labels


def _matches(texts: Sequence[str], expressions: Sequence[str]) -> NDArray[np.bool_]:
    if not expressions:
        return np.zeros(len(texts), dtype=bool)
    compiled = re.compile("|".join(f"(?:{expression})" for expression in expressions), re.IGNORECASE)
    return np.array([compiled.search(text) is not None for text in texts], dtype=bool)


def _expression_problems(label: str, known: Mapping[str, tuple[str, ...]]) -> list[str]:
    problems = []
    for expression in known.get(label, ()):
        try:
            re.compile(expression)
        except re.error as error:
            problems.append(f"data.patterns.{label}={expression!r} is not a regular expression: {error}.")
    if label in known and not known[label]:
        problems.append(f"data.patterns.{label}=[] must hold at least one regular expression.")
    return problems
