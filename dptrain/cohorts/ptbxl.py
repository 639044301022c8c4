"""`data=ptbxl`: PTB-XL (Wagner et al. 2020, doi 10.1038/s41597-020-0495-6) in its official layout on PhysioNet.

A record is a 12-lead ECG of 10 s; 21,799 of 18,869 patients. Labels are diagnostic superclasses by default: of each
ECG's SCP statements those with diagnostic == 1 in scp_statements.csv, mapped to their diagnostic_class.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.ecg_decode import EcgSpec, undecoded_ecgs
from dptrain.cohorts.frame import column_text, missing_columns, read_columns, read_header
from dptrain.cohorts.layout import (
    band_group,
    contents,
    cut_problems,
    layout_root,
    numbers_of,
    size_warning,
    text_group,
    whole_text,
)  # fmt: skip
from dptrain.cohorts.records import Records
from dptrain.cohorts.sources import locate
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import near_miss, parse_parts

DATABASE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
ADVICE = (
    f"the folder with {DATABASE}, {STATEMENTS} and records100 or records500. Get it from "
    "https://physionet.org/content/ptb-xl/ (open access, CC BY 4.0)."
)
LEVELS = {"superclass": "diagnostic_class", "subclass": "diagnostic_subclass", "code": ""}
"""Levels of labels and the column of scp_statements.csv that names them."""
SEX = {"0": "male", "1": "female"}
OLDEST_AGE = 89
"""Ages above are written 300."""
FILES = {100: "filename_lr", 500: "filename_hr"}
"""Samples per second of the two recordings of an ECG, and the column with its file."""
FOLDS = range(1, 11)


@dataclass(frozen=True)
class PtbxlOptions:
    """Options of data=ptbxl beside those of ECGs."""

    labels: tuple[str, ...] = ("NORM", "MI", "STTC", "CD", "HYP")
    """What to predict; several: multilabel, one: binary. Names of `level`."""
    level: str = "superclass"
    """superclass (NORM, MI, STTC, CD, HYP), subclass (IMI, LVH, ...) or code (any SCP code, also form and rhythm)."""
    min_likelihood: float = 0.0
    """Statements with a smaller likelihood (0 to 100) count as absent. 0 is what PTB-XL writes for `not stated`."""
    unlabelled: str = "keep"
    """ECGs with none of the names of `level`: keep (negative for every label) or drop, as the published benchmark."""
    test_folds: tuple[int, ...] = (9, 10)
    """Folds of strat_fold whose patients are the test; [] lets dptrain split by data.test_fraction."""
    recordings: int | None = None
    """100 or 500: samples per second of the files to read; null takes 100 unless data.sampling_rate needs 500."""
    group_columns: tuple[str, ...] = ("sex", "age", "site")
    """Columns of ptbxl_database.csv by which performance and risk are broken down."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where to cut `age`."""

    def __post_init__(self) -> None:
        problems = cut_problems("data.age_bands", self.age_bands)
        if self.age_bands and max(self.age_bands) > OLDEST_AGE:
            problems.append(
                f"data.age_bands={list(self.age_bands)} must end at {OLDEST_AGE}: PTB-XL writes 300 for older ages."
            )
        if not self.labels or len(set(self.labels)) < len(self.labels):
            problems.append(f"data.labels={list(self.labels)} must name at least one label, and none twice.")
        if self.level not in LEVELS:
            problems.append(f"data.level={self.level!r} must be one of {', '.join(LEVELS)}.")
        if not 0 <= self.min_likelihood <= 100:
            problems.append(f"data.min_likelihood={self.min_likelihood} must be between 0 and 100.")
        if self.unlabelled not in ("keep", "drop"):
            problems.append(f"data.unlabelled={self.unlabelled!r} must be keep or drop.")
        if not set(self.test_folds) < set(FOLDS):
            problems.append(f"data.test_folds={list(self.test_folds)} must be some of 1 to 10, or [].")
        if self.recordings not in (None, *FILES):
            problems.append(f"data.recordings={self.recordings} must be 100, 500 or null.")
        if problems:
            raise ConfigError(problems)


OPTIONS = (PtbxlOptions, EcgSpec, DecodeOptions)


def read_ptbxl(data: DataConfig) -> Records:
    """ECGs in the order of ptbxl_database.csv; `assemble` decodes those of the patients that are wanted."""
    options, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    rate = _recordings(options, spec)
    root = layout_root(data.path, (DATABASE,), ADVICE)
    table = _database(root, options, rate)
    names = _label_names(root, options)
    found = _statements(table, names, options)
    if options.unlabelled == "drop":
        labelled = np.array([bool(labels) for labels in found])
        found = [labels for labels in found if labels]
        table = table[labelled].reset_index(drop=True)
    task, labels, label_names = _labels(found, options)
    is_test = _split(table, options)
    problems: list[str] = []
    groups = {
        column: band_group(numbers_of(table[column], "data.name=ptbxl", problems), options.age_bands)
        if column == "age"
        else text_group(table[column], SEX if column == "sex" else None)
        for column in options.group_columns
    }
    if problems:
        raise DataError(problems)
    patient_ids = whole_text(table["patient_id"])
    sources = [locate(root, name) for name in column_text(table[FILES[rate]])]
    return Records(
        task=task, features=undecoded_ecgs(sources, spec, decoding), labels=labels, patient_ids=patient_ids,
        label_names=label_names, feature_names=spec.leads, groups=groups, is_test=is_test,
        warnings=size_warning(data.nominal_patients, len(np.unique(patient_ids)), data.max_patients is not None),
    )  # fmt: skip


def statement_labels(scp_codes: str, names: Mapping[str, str], min_likelihood: float = 0.0) -> frozenset[str]:
    """Labels of a dictionary such as {'NORM': 100.0, 'SR': 0.0}; `names` gives the label of each code that has one.

    Raises ValueError, TypeError or SyntaxError if the text is no dictionary from text to number.
    """
    statements = ast.literal_eval(scp_codes)
    if not isinstance(statements, dict):
        raise ValueError(f"{scp_codes[:40]!r} is not a dictionary")
    return frozenset(
        names[code] for code, likelihood in statements.items()
        if code in names and float(likelihood) >= min_likelihood
    )  # fmt: skip


def _recordings(options: PtbxlOptions, spec: EcgSpec) -> int:
    rate = options.recordings or (100 if spec.sampling_rate <= 100 else 500)
    if spec.sampling_rate > rate:
        raise ConfigError(
            f"data.sampling_rate={spec.sampling_rate:g} is more than data.recordings={rate} files hold; leave "
            "data.recordings out to read those at 500."
        )
    return rate


def _database(root: Path, options: PtbxlOptions, rate: int) -> pd.DataFrame:
    folder = root / f"records{rate}"
    if not folder.is_dir():
        others = [other for other in FILES if (root / f"records{other}").is_dir()]
        way_out = f" Set data.recordings={others[0]}." if others and others[0] > rate else ""
        if others and others[0] < rate:
            way_out = f" Set data.sampling_rate={others[0]} (and no data.recordings), or download {folder.name}."
        raise DataError(f"data.path={root} has no folder {folder.name}. Found: {contents(root)}.{way_out}")
    header = read_header(root / DATABASE)
    unknown = [column for column in options.group_columns if column not in header]
    if unknown:
        raise ConfigError([
            f"data.group_columns has {column!r}, which is no column of {DATABASE}{near_miss(column, header)}."
            for column in unknown
        ])  # fmt: skip
    wanted = ["ecg_id", "patient_id", "scp_codes", FILES[rate], *options.group_columns]
    table = read_columns(root / DATABASE, [*wanted, *(["strat_fold"] if options.test_folds else [])])
    problems = [
        f"data.name=ptbxl: column {column!r} of {DATABASE} is empty in {count} of {len(table)} rows."
        for column in ("patient_id", "scp_codes", FILES[rate])
        if (count := int((column_text(table[column]) == "").sum()))
    ]
    if problems:
        raise DataError(problems)
    return table


def _label_names(root: Path, options: PtbxlOptions) -> dict[str, str]:
    """Label of each SCP code at the level asked for. Raises ConfigError if a label does not exist there."""
    path = root / STATEMENTS
    header = read_header(path)
    column = LEVELS[options.level]
    problems = missing_columns(path, header, ["diagnostic", *([column] if column else [])], "data.path")
    if problems:
        raise DataError(problems)
    table = read_columns(path, header)
    codes = column_text(table[header[0]]).tolist()  # the first column has no name
    if column:
        names = column_text(table[column]).tolist()
        diagnostic = (whole_text(table["diagnostic"]) == "1").tolist()
        known = {code: name for code, name, is_one in zip(codes, names, diagnostic, strict=True) if is_one and name}
    else:
        known = {code: code for code in codes if code}
    existing = list(dict.fromkeys(known.values()))
    problems = [
        f"data.labels has {label!r}, which is no {options.level} of PTB-XL{near_miss(label, existing)}; expected some "
        f"of {', '.join(existing)}."
        for label in options.labels
        if label not in existing
    ]
    if problems:
        raise ConfigError(problems)
    return known


def _statements(table: pd.DataFrame, names: Mapping[str, str], options: PtbxlOptions) -> list[frozenset[str]]:
    texts = column_text(table["scp_codes"]).tolist()
    known: dict[str, frozenset[str]] = {}
    num_bad = 0
    for text in texts:
        try:
            if text not in known:
                known[text] = statement_labels(text, names, options.min_likelihood)
        except (ValueError, SyntaxError, TypeError):
            num_bad += 1
    if num_bad:
        raise DataError(
            f"data.name=ptbxl: column 'scp_codes' of {DATABASE} is no dictionary such as {{'NORM': 100.0}} in "
            f"{num_bad} of {len(table)} rows. Was the file saved by another program? Take the original one."
        )
    return [known[text] for text in texts]


def _labels(
    found: list[frozenset[str]], options: PtbxlOptions
) -> tuple[Task, NDArray[np.float32] | NDArray[np.int64], tuple[str, ...]]:
    values = np.array([[label in labels for label in options.labels] for labels in found], dtype=bool)
    values = values.reshape(len(found), len(options.labels))
    if len(options.labels) == 1:
        label = options.labels[0]
        return "binary", values[:, 0].astype(np.int64), (f"not {label}", label)
    return "multilabel", values.astype(np.float32), options.labels


def _split(table: pd.DataFrame, options: PtbxlOptions) -> NDArray[np.bool_] | None:
    if not options.test_folds:
        return None
    folds = whole_text(table["strat_fold"])
    bad = ~np.isin(folds, [str(fold) for fold in FOLDS])
    if bad.any():
        raise DataError(
            f"data.name=ptbxl: strat_fold must be 1 to 10 and is not in {int(bad.sum())} of {len(table)} rows. "
            "data.test_folds=[] lets dptrain split by patient."
        )
    is_test = np.isin(folds, [str(fold) for fold in options.test_folds])
    patient = whole_text(table["patient_id"])
    num_both = len(np.intersect1d(patient[is_test], patient[~is_test]))
    if num_both:
        raise DataError(
            f"data.name=ptbxl: {num_both} patients have ECGs both in data.test_folds={list(options.test_folds)} and in "
            "other folds. data.test_folds=[] lets dptrain split by patient."
        )
    return is_test
