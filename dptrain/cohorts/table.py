"""`data=table`: your own table, one row per record, named column by column in the configuration.

Features are scaled and coded by public constants: inline (`data.numeric`, `data.categorical`) or from a file
(`data.constants`). `dptrain constants` writes such a file from the private records; the privacy statement then says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.columns import named_columns, records_of
from dptrain.cohorts.encoding import Constants, encode, load_constants, parse_constants
from dptrain.cohorts.manifest import Manifest, ManifestOptions, open_manifest, read_manifest
from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError
from dptrain.options import parse_parts

EXPECTED = "your table: a .csv, .csv.gz, .tsv or .parquet file"


@dataclass(frozen=True)
class TableOptions:
    """Options of data=table beside those of every manifest."""

    numeric: Mapping[str, Any] | None = None
    """Numeric features: {column: {center: ..., scale: ..., fill: ..., log_offset: ...}}; public numbers."""
    categorical: Mapping[str, Any] | None = None
    """Categorical features: {column: [levels]} or {column: {levels: [...], baseline: ...}}; public vocabularies."""
    constants: str | None = None
    """YAML file with source, numeric and categorical, instead of the two fields above."""

    def __post_init__(self) -> None:
        if self.constants is not None and (self.numeric or self.categorical):
            raise ConfigError(
                "data.constants and data.numeric or data.categorical are both set; keep one of them."
            )


def read_table(data: DataConfig) -> Records:
    """Records of the file `data.path` in its order."""
    columns, options = table_options(data)
    manifest = open_manifest(data.path, columns, EXPECTED)
    constants = _constants(options, columns, manifest)
    own = {columns.patient_column: "patient_column", columns.split_column: "split_column"}
    own |= dict.fromkeys(columns.label_columns, "label_columns")
    problems = [
        f"data.{own[column]} names {column!r}, which is also a feature: the model would be told the answer or the "
        "identifier. Take it out of numeric and categorical."
        for column in constants.columns
        if column in own
    ]
    if problems:
        raise ConfigError(problems)
    table, warnings = read_manifest(manifest, [*named_columns(columns), *constants.columns])
    features: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
    feature_names: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    if len(table):
        try:
            features, feature_names = encode(table, constants, f"data.name={data.name}")
        except DataError as error:
            found = error.problems
    outside_dp: tuple[str, ...] = ()
    if not constants.is_public:
        assert options.constants is not None
        outside_dp = (
            f"Scaling constants and vocabularies come from the file {Path(options.constants).name} "
            f"({constants.source}); epsilon does not cover them.",
        )
    return records_of(table, columns, data.name, features, feature_names, found, outside_dp, warnings)


def table_options(data: DataConfig) -> tuple[ManifestOptions, TableOptions]:
    """The checked options of data=table."""
    problems: list[str] = []
    parsed = None
    try:
        parsed = parse_parts((ManifestOptions, TableOptions), data.options, "data")
    except ConfigError as error:
        problems += error.problems
    if data.path is None:
        problems.append(f"data.path=null must name {EXPECTED}.")
    if problems:
        raise ConfigError(problems)
    assert parsed is not None
    return parsed[0], parsed[1]


def _constants(options: TableOptions, columns: ManifestOptions, manifest: Manifest) -> Constants:
    if options.constants is not None:
        return load_constants(Path(options.constants).expanduser())
    if options.numeric or options.categorical:
        return parse_constants("public configuration", options.numeric, options.categorical, "data")
    labels = ",".join(columns.label_columns)
    raise ConfigError(
        "data.numeric, data.categorical and data.constants are all null: no features are named. Name them with public "
        "constants, or let `dptrain constants data=table "
        f"data.path={shlex.quote(str(manifest.files[0]))} "
        f"data.patient_column={columns.patient_column} 'data.label_columns=[{labels}]' > constants.yaml` write them "
        "down from the records and set data.constants=constants.yaml (the privacy statement will say so)."
    )
