"""`data=mimic_iv_ecg`: MIMIC-IV-ECG, ECGs of Beth Israel Deaconess (Gow et al. 2023, doi 10.13026/4nqg-sb35).

A record is a 12-lead ECG of 10 s at 500 Hz; about 800,000 of 160,000 patients. There are no labels, groups or split in
it: labels come from the machine's report or a table of yours (`report_labels.py`), sex, age, race and insurance from
MIMIC-IV (`mimic_people.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.columns import TRUTH
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.ecg_decode import EcgSpec, undecoded_ecgs
from dptrain.cohorts.frame import column_numbers, read_header
from dptrain.cohorts.layout import band_group, cut_problems, gz, layout_root, size_warning
from dptrain.cohorts.layout_tables import choice_problems, find_table, left_out, lookup, read_table
from dptrain.cohorts.manifest import some_values
from dptrain.cohorts.mimic_people import CONFLICTS, mimic_people
from dptrain.cohorts.records import Records
from dptrain.cohorts.report_labels import ReportLabelOptions, report_labels
from dptrain.cohorts.sources import Source, exists, locate
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

RECORD_LISTS = ("record_list.csv", "record-list.csv")
MEASUREMENTS, NOTE_LINKS = "machine_measurements.csv", "waveform_note_links.csv"
ADVICE = (
    f"the folder with {RECORD_LISTS[0]}, {MEASUREMENTS} and files/p1000/... Get it from "
    "https://physionet.org/content/mimic-iv-ecg/ (open access, ODbL)."
)
GROUPS = ("sex", "age", "race", "insurance")


@dataclass(frozen=True)
class MimicIvEcgOptions:
    """Options of data=mimic_iv_ecg beside those of labels and ECGs."""

    only_with_note: bool = False
    """Only ECGs that a cardiologist has read: those in waveform_note_links.csv."""
    split_column: str | None = None
    """Column of data.label_file that says who is a test patient; null lets dptrain split by patient."""
    test_values: tuple[str, ...] = ("test",)
    """Values of `split_column` that mean test; all others mean training."""
    group_columns: tuple[str, ...] = GROUPS
    """Of sex, age, race, insurance. Sex and age need patients.csv, race and insurance admissions.csv of MIMIC-IV."""
    age_bands: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Where ages are cut: public numbers."""
    conflict: str = "majority"
    """Race or insurance of patients whose stays disagree: that of most stays (`majority`), or `unknown`."""
    mimic_iv: str | None = None
    """Folder of MIMIC-IV (or its hosp) with patients.csv and admissions.csv; null looks in data.path."""

    def __post_init__(self) -> None:
        problems = choice_problems("group_columns", self.group_columns, GROUPS)
        problems += choice_problems("conflict", [self.conflict], CONFLICTS)
        problems += cut_problems("data.age_bands", self.age_bands)
        if problems:
            raise ConfigError(problems)


OPTIONS = (MimicIvEcgOptions, ReportLabelOptions, EcgSpec, DecodeOptions)


def read_mimic_iv_ecg(data: DataConfig) -> Records:
    """ECGs in the order of the record list, without those that have no label; decoded by `assemble`."""
    own, label_options, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    if own.split_column is not None and label_options.label_file is None:
        raise ConfigError(f"data.split_column={own.split_column} is a column of data.label_file, which is not set.")
    root = layout_root(data.path, gz(*RECORD_LISTS), ADVICE)
    table = _record_list(root, own)
    if label_options.label_file is None:
        labels, parts = _from_reports(table, root, label_options), None
    else:
        labels, parts = _from_file(table, root, label_options, own)
    known = ~np.isnan(labels).all(axis=1)
    why = "they have no machine report" if label_options.label_file is None else "data.label_file has no label for them"
    if label_options.label_file is None and label_options.uncertain == "missing":
        why += ", or only a hedged one"
    warnings = left_out(int((~known).sum()), len(table), why)
    table, labels = table[known].reset_index(drop=True), labels[known]
    subject = table["subject_id"].to_numpy(dtype=np.str_)
    groups, more = _groups(table, subject, own, root)
    more += size_warning(data.nominal_patients, len(np.unique(subject)), data.max_patients is not None)
    task: Task = "multilabel"
    values: NDArray[np.float32] | NDArray[np.int64] = labels
    names = label_options.labels
    if len(names) == 1:
        task, values, names = "binary", labels[:, 0].astype(np.int64), (f"not {names[0]}", names[0])
    return Records(
        task=task, features=undecoded_ecgs(_sources(table, root), spec, decoding), labels=values, patient_ids=subject,
        label_names=names, feature_names=spec.leads, groups=groups,
        is_test=None if parts is None else np.isin(parts[known], own.test_values), warnings=(*warnings, *more),
    )  # fmt: skip


def _record_list(root: Path, own: MimicIvEcgOptions) -> pd.DataFrame:
    problems: list[str] = []
    file = find_table([root], RECORD_LISTS, problems)
    notes = find_table([root], [NOTE_LINKS], problems, "Leave data.only_with_note out.") if own.only_with_note else None
    if problems:
        raise DataError(problems)
    table = read_table(file, [("subject_id",), ("study_id",), ("ecg_time",), ("path", "waveform_path")])
    for column in ("subject_id", "study_id", "path"):
        num_empty = int((table[column] == "").sum())
        if num_empty:
            problems.append(f"data.path: {file.name} has no {column} in {num_empty} of {len(table)} rows.")
    num_repeated = int(table["study_id"].duplicated().sum())
    if num_repeated:
        problems.append(f"data.path: {file.name} has {num_repeated} study_id twice. Is it the official file?")
    if problems:
        raise DataError(problems)
    if notes is not None:
        table = table[table["study_id"].isin(read_table(notes, [("study_id",)])["study_id"])].reset_index(drop=True)
        if table.empty:
            raise DataError(f"data.only_with_note=true leaves no ECG: {notes.name} and {file.name} share no study_id.")
    return table


def _from_reports(table: pd.DataFrame, root: Path, options: ReportLabelOptions) -> NDArray[np.float32]:
    """(N, L) labels by the columns report_0, report_1, ... of machine_measurements.csv."""
    problems: list[str] = []
    file = find_table([root], [MEASUREMENTS], problems, "It holds the reports; or set data.label_file=YOUR_TABLE.")
    if problems:
        raise DataError(problems)
    columns = [name for name in read_header(file) if name.lower().startswith("report_")]
    if not columns:
        raise DataError(f"data.path: {file} has no columns report_0, report_1, ...: {', '.join(read_header(file))}.")
    reports = read_table(file, [("study_id",), *((column,) for column in columns)])
    return report_labels(lookup(table, ["study_id"], reports, file.name)[columns], options)


def _from_file(
    table: pd.DataFrame, root: Path, options: ReportLabelOptions, own: MimicIvEcgOptions
) -> tuple[NDArray[np.float32], NDArray[np.str_] | None]:
    """((N, L) labels, (N,) values of the split column or None) of the user's table."""
    assert options.label_file is not None
    given = Path(options.label_file).expanduser()
    file = given if given.is_absolute() or given.exists() else root / given
    wanted = [(options.label_key,), *((label,) for label in options.labels)]
    wanted += [(own.split_column,)] if own.split_column is not None else []
    found = lookup(table, [options.label_key], read_table(file, wanted), f"data.label_file {file.name}")
    if not found["found"].any():
        raise DataError(
            f"data.label_file={file} has no row for any ECG: no {options.label_key} there is in the record list."
        )
    problems = []
    labels = np.empty((len(table), len(options.labels)), dtype=np.float32)
    for index, label in enumerate(options.labels):
        text = found[label]
        labels[:, index] = [TRUTH.get(value.lower(), np.nan) for value in text]
        if np.isnan(labels[(text != "").to_numpy(), index]).any():
            problems.append(
                f"data.label_file={file}: column {label!r} has values other than 0 and 1: "
                f"{some_values([value for value in text if value])}."
            )
    if problems:
        raise DataError(problems)
    return labels, None if own.split_column is None else found[own.split_column].to_numpy(dtype=np.str_)


def _groups(
    table: pd.DataFrame, subject: NDArray[np.str_], own: MimicIvEcgOptions, root: Path
) -> tuple[dict[str, NDArray[np.str_]], tuple[str, ...]]:
    year, _ = column_numbers(table["ecg_time"].str[:4])
    folder = root if own.mimic_iv is None else Path(own.mimic_iv).expanduser()
    folders: Sequence[Path] = (folder, folder / "hosp", folder / "core")
    people = mimic_people(subject, year, own.group_columns, folders, own.conflict)
    values = {"sex": people.sex, "age": band_group(people.age, own.age_bands), "race": people.race,
              "insurance": people.insurance}  # fmt: skip
    return {name: values[name] for name in own.group_columns}, people.warnings


def _sources(table: pd.DataFrame, root: Path) -> list[Source]:
    """`files/p1000/p10000032/s40689238/40689238`; a list that leaves `files` out is understood."""
    paths = table["path"].tolist()
    starts = ("", "files/")
    start = next((s for s in starts if paths and exists(locate(root, f"{s}{paths[0]}.hea"))), starts[0])
    return [locate(root, start + path) for path in paths]
