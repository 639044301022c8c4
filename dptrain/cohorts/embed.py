"""`data=embed`: EMBED Open Data, mammograms of Emory (Jeong et al. 2023, doi 10.1148/ryai.220047).

A record is a mammogram (DICOM). The clinical table has one row per finding, the metadata one per file; how they belong
together is in `embed_findings.py`. There is no official split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dptrain.cohorts.cohort import Task
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.embed_findings import BIRADS, DENSITIES, EXAM, exam_rows, has_pathology, worst_assessment
from dptrain.cohorts.frame import column_numbers
from dptrain.cohorts.image_decode import ImageSpec, undecoded_images
from dptrain.cohorts.layout import band_group, cut_problems, gz, layout_root, size_warning, text_group
from dptrain.cohorts.layout_tables import choice_problems, find_table, left_out, read_table
from dptrain.cohorts.records import UNKNOWN, Records
from dptrain.cohorts.sources import Source, locate
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

METADATA = ("EMBED_OpenData_metadata.csv", "EMBED_OpenData_metadata_reduced.csv")
CLINICAL = ("EMBED_OpenData_clinical.csv", "EMBED_OpenData_clinical_reduced.csv")
ADVICE = (
    "the folder with `tables` and `images`, or `tables` itself. Ask for EMBED at "
    "https://github.com/Emory-HITI/EMBED_Open_Data."
)
PATHOLOGY = tuple("0123456")
CLASSES = {"density": tuple(DENSITIES.values()), "birads": BIRADS, "pathology": PATHOLOGY}
"""Labels and their published values. path_severity: 0 invasive cancer, 1 non-invasive cancer, 2 high-risk lesion,
3 borderline lesion, 4 benign, 5 negative, 6 non-breast cancer."""
CANCER = ("0", "1")
EXAMS = ("screening", "diagnostic", "all")
GROUPS = ("race", "ethnicity", "age", "density", "view", "manufacturer")
RACES = (("white", "White"), ("black", "Black"), ("asian", "Asian"), ("pacific", "Other"), ("alaska", "Other"),
         ("multiple", "Other"))  # fmt: skip
"""Text that RACE_DESC contains and its group, in order; `Unknown, Unavailable or Unreported`, `Not Recorded` and
`Patient Declines` are `unknown`."""
NOT_STATED = ("unknown", "unreported", "not recorded", "patient decline", "unavailable")


@dataclass(frozen=True)
class EmbedOptions:
    """Options of data=embed beside those of images."""

    label: str = "density"
    """`density`: BI-RADS A to D of the exam. `birads`: the most urgent assessment of the image's breast (N B P A S M
    K). `pathology`: whether a result of the image's breast is one of `positive`."""
    positive: tuple[str, ...] = ()
    """Values of the label that count as 1, all others as 0: [C, D] dense; [A, S, M, K] recalled. []: all classes (of
    pathology: 0 and 1, cancer)."""
    no_pathology: str = "negative"
    """label=pathology: images of breasts without a result count as `negative`, or are left out (`drop`)."""
    exams: str = "screening"
    """By description of the exam: screening, diagnostic or all."""
    image_types: tuple[str, ...] = ("2D",)
    """FinalImageType: 2D, C-view. [] takes all."""
    views: tuple[str, ...] = ("CC", "MLO")
    """ViewPosition; [] takes all."""
    special_views: bool = False
    """Also spot compression and magnification (spot_mag = 1)."""
    group_columns: tuple[str, ...] = ("race", "ethnicity", "age", "density", "view")
    """Of race, ethnicity, age, density, view, manufacturer."""
    age_bands: tuple[float, ...] = (40.0, 50.0, 60.0, 70.0)
    """Where ages are cut: public numbers."""
    images: str | None = None
    """Folder or zip that the paths cohort_1/... start in; null takes `images`, or the folder itself."""
    suffix: str = ".dcm"
    """Ending of the images: another one for converted copies in the same folders."""

    def __post_init__(self) -> None:
        problems = choice_problems("label", [self.label], tuple(CLASSES))
        if self.label in CLASSES:
            problems += choice_problems("positive", self.positive, CLASSES[self.label])
            if len(set(self.positive)) == len(CLASSES[self.label]):
                problems.append("data.positive names every value of the label: leave out those that count as 0.")
        problems += choice_problems("no_pathology", [self.no_pathology], ("negative", "drop"))
        problems += choice_problems("exams", [self.exams], EXAMS)
        problems += choice_problems("group_columns", self.group_columns, GROUPS)
        problems += cut_problems("data.age_bands", self.age_bands)
        if problems:
            raise ConfigError(problems)


OPTIONS = (EmbedOptions, ImageSpec, DecodeOptions)


def read_embed(data: DataConfig) -> Records:
    """Mammograms in the order of the metadata; decoded by `assemble`, for the patients that are wanted."""
    own, spec, decoding = parse_parts(OPTIONS, data.options, "data")
    folder = layout_root(data.path, gz(*METADATA), ADVICE)
    files, findings, names = _tables(folder, own)
    wanted, why = _wanted_files(files, own)
    files = files[wanted].reset_index(drop=True)
    exam = exam_rows(files, findings)
    kept = exam["found"].to_numpy(dtype=bool)
    warnings = why + left_out(int((~kept).sum()), len(files), f"their exam has no row in {names[1]}")
    if own.exams != "all":
        part = "screen" if own.exams == "screening" else "diag"
        kept = kept & exam["desc"].str.contains(part, case=False).to_numpy(dtype=bool)
        if not kept.any():
            raise DataError(f"data.exams={own.exams} leaves no image. data.exams=all takes every exam.")
    task, codes, label_names = _labels(files, findings, exam, own)
    num_unknown = int((kept & (codes < 0)).sum())
    warnings += left_out(num_unknown, int(kept.sum()), f"data.label={own.label} is not known for them")
    rows = np.flatnonzero(kept & (codes >= 0))
    patient = files["empi_anon"].to_numpy(dtype=np.str_)[rows]
    warnings += size_warning(data.nominal_patients, len(np.unique(patient)), data.max_patients is not None)
    groups = _groups(files, exam, own)
    return Records(
        task=task, features=undecoded_images(_sources(files.loc[rows], folder, own), spec, decoding),
        labels=codes[rows], patient_ids=patient, label_names=label_names, feature_names=spec.channel_names,
        groups={name: values[rows] for name, values in groups.items()}, warnings=warnings,
    )  # fmt: skip


def _tables(folder: Path, own: EmbedOptions) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, str]]:
    """(one row per file, one per finding, names of the two tables)."""
    problems: list[str] = []
    metadata, clinical = (find_table([folder], names, problems) for names in (METADATA, CLINICAL))
    if problems:
        raise DataError(problems)
    file_columns = ["anon_dicom_path", "FinalImageType", "ImageLateralityFinal", "ViewPosition", "spot_mag"]
    file_columns += ["Manufacturer"] if "manufacturer" in own.group_columns else []
    finding_columns: list[tuple[str, ...]] = [(name,) for name in (*EXAM, "side", "asses", "tissueden", "desc")]
    finding_columns += [("bside",), ("path_severity",)] if own.label == "pathology" else []
    for group, column in (("race", ("RACE_DESC",)), ("ethnicity", ("ETHNIC_GROUP_DESC", "ETHNICITY_DESC")),
                          ("age", ("age_at_study",))):  # fmt: skip
        if group in own.group_columns:
            finding_columns.append(column)
    for file, columns in ((metadata, [(name,) for name in (*EXAM, *file_columns)]), (clinical, finding_columns)):
        try:
            table = read_table(file, columns)
        except DataError as error:
            problems += error.problems
            continue
        if file == metadata:
            files = table
        else:
            findings = table
    if problems:
        raise DataError(problems)
    return files, findings, (metadata.name, clinical.name)


def _wanted_files(files: pd.DataFrame, own: EmbedOptions) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """(N,) rows by type, view and kind of view, each file once; warnings about files that stand there twice."""
    wanted = np.ones(len(files), dtype=bool)
    for setting, column, values in (("image_types", "FinalImageType", own.image_types),
                                    ("views", "ViewPosition", own.views)):  # fmt: skip
        if values:
            there = files[column].str.upper()
            wanted = wanted & there.isin([value.upper() for value in values]).to_numpy()
            if not wanted.any():
                raise DataError(f"data.{setting}={list(values)} leaves no image; column {column!r} has "
                                f"{', '.join(sorted(set(files[column]) - {''}))}.")  # fmt: skip
    if not own.special_views:
        wanted = wanted & (files["spot_mag"] != "1").to_numpy()
    twice = files["anon_dicom_path"].duplicated().to_numpy()
    return wanted & ~twice, left_out(int((wanted & twice).sum()), int(wanted.sum()), "their file is named twice")


def _labels(
    files: pd.DataFrame, findings: pd.DataFrame, exam: pd.DataFrame, own: EmbedOptions
) -> tuple[Task, NDArray[np.int64], tuple[str, ...]]:
    """(task, (N,) classes with -1 where not known, names)."""
    if own.label == "pathology":
        values = own.positive or CANCER
        result = has_pathology(files, findings, values)
        codes = result["positive"].to_numpy(dtype=np.int64)
        if own.no_pathology == "drop":
            codes[~result["found"].to_numpy(dtype=bool)] = -1
        name = "cancer" if set(values) == set(CANCER) else f"path_severity {' or '.join(values)}"
        return "binary", codes, (f"no {name}", name)
    text = exam["tissueden"].map(DENSITIES).fillna("") if own.label == "density" else worst_assessment(files, findings)
    classes = CLASSES[own.label]
    codes = pd.Index(classes).get_indexer(pd.Index(text)).astype(np.int64)
    if not own.positive:
        return "multiclass", codes, classes
    named = f"{own.label} {' or '.join(own.positive)}"
    return "binary", np.where(codes < 0, -1, text.isin(own.positive)).astype(np.int64), (f"not {named}", named)


def _groups(files: pd.DataFrame, exam: pd.DataFrame, own: EmbedOptions) -> dict[str, NDArray[np.str_]]:
    groups = {}
    for name in own.group_columns:
        if name == "race":
            groups[name] = np.array([_race(text) for text in exam["RACE_DESC"]], dtype=np.str_)
        elif name == "ethnicity":
            stated = ~exam["ETHNIC_GROUP_DESC"].str.lower().str.startswith(NOT_STATED)
            groups[name] = text_group(exam["ETHNIC_GROUP_DESC"].where(stated, ""))
        elif name == "age":
            groups[name] = band_group(column_numbers(exam["age_at_study"])[0], own.age_bands)
        elif name == "density":
            groups[name] = text_group(exam["tissueden"].map(DENSITIES).fillna(""))
        else:
            groups[name] = text_group(files["ViewPosition" if name == "view" else "Manufacturer"])
    return groups


def _race(text: str) -> str:
    lower = text.lower()
    return next((group for part, group in RACES if part in lower), UNKNOWN)


def _sources(files: pd.DataFrame, tables: Path, own: EmbedOptions) -> list[Source]:
    """`images/cohort_1/PATIENT/STUDY/NAME.dcm`: the table has the path that Emory's disk had; from `cohort_` on it is
    that of the release."""
    base = tables.parent if tables.name.lower() == "tables" else tables
    root = base / "images" if (base / "images").exists() else base
    if own.images is not None:
        root = base / Path(own.images).expanduser()
        if not root.exists():
            raise DataError(f"data.images={own.images}: there is no {root}.")
    sources = []
    for path in files["anon_dicom_path"]:
        slashed = path.replace("\\", "/")
        start = slashed.find("cohort_")
        name = slashed[start:] if start >= 0 else slashed.lstrip("/")
        sources.append(locate(root, name.removesuffix(".dcm") + own.suffix))
    return sources
