"""The helper behind `dptrain constants data=table data.path=... > constants.yaml`.

It writes scaling constants and vocabularies down once, from the private records, so that they become visible, editable
configuration. That is a look at private data that epsilon does not cover: the file says so in `source`, and every
privacy statement of a model trained with it repeats that. Edit numbers to public ones and `source` to `public, ...`
where you can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import yaml

from dptrain.cohorts.columns import named_columns
from dptrain.cohorts.frame import column_numbers, column_text
from dptrain.cohorts.manifest import open_manifest, read_manifest
from dptrain.cohorts.table import EXPECTED, table_options
from dptrain.config import DataConfig
from dptrain.errors import DataError

MAX_LEVELS = 50
"""A text column with more levels than this is left out."""
MIN_PATIENTS = 5
"""A level that fewer patients have goes into the slot other/missing: a rare value in a published file names people."""
SIGNIFICANT_DIGITS = 3
"""Numbers are rounded to this many digits."""

HEADER = """\
# Scaling constants and vocabularies for data=table; use with data.constants=THIS_FILE.
# Written by `dptrain constants` from private records: epsilon does not cover them, and the privacy statement says so.
# Better: replace numbers by public ones (textbook ranges, code lists) and then write `source: public, FROM WHERE`.
# Delete the line of a column that the model must not see. Codes that only look like numbers belong under categorical.
"""


def fit_constants(data: DataConfig) -> str:
    """YAML text with source, numeric and categorical, fitted on all records (training and test) of `data.path`.

    Patient, label and split columns are never features. Raises ConfigError and DataError like the reader.
    """
    options, _ = table_options(data)
    manifest = open_manifest(data.path, options, EXPECTED)
    path, header = manifest.files[0], manifest.columns
    named = [options.patient_column, options.split_column, *options.label_columns]
    table, _ = read_manifest(manifest, [*header, *named_columns(options)])
    if len(table) == 0:
        raise DataError(f"data.path={path} has a header and no rows.")
    patient = column_text(table[options.patient_column])
    numeric: dict[str, Any] = {}
    categorical: dict[str, Any] = {}
    left_out: list[str] = []
    for column in header:
        if column in named:
            continue
        entry = _fit_column(table[column], patient)
        if isinstance(entry, str):
            left_out.append(f"# left out: {column} ({entry})\n")
        elif isinstance(entry, list):
            categorical[column] = entry
        else:
            numeric[column] = entry
    if not numeric and not categorical:
        reasons = [line.strip("# \n") for line in left_out]
        raise DataError([f"data.path={path} has no column that can be a feature.", *reasons])
    source = f"fitted on the private records of {path.name}, training and test patients, by dptrain constants"
    body = yaml.safe_dump(
        {"source": source, "numeric": numeric, "categorical": categorical},
        sort_keys=False, default_flow_style=None, width=110, allow_unicode=True,
    )
    return HEADER + "".join(left_out) + body


def _fit_column(series: pd.Series, patient: np.ndarray) -> dict[str, float] | list[str] | str:
    """Scaling of a numeric column, levels of a categorical one, or the reason to leave it out."""
    numbers, num_bad = column_numbers(series)
    known = numbers[~np.isnan(numbers)]
    if num_bad == 0 and len(known) and not pd.api.types.is_bool_dtype(series.dtype):
        if len(known) > 20 and len(np.unique(known)) == len(series) and (known == np.round(known)).all():
            return "a different whole number in every row, so it looks like an identifier"
        scale = _rounded(known.std())
        if scale == 0:
            return "the same number in every row"
        return {"center": _rounded(known.mean()), "scale": scale, "fill": _rounded(np.median(known))}
    text = column_text(series)
    pairs = pd.DataFrame({"level": text, "patient": patient})
    counts = pairs[pairs["level"] != ""].groupby("level")["patient"].nunique()
    if len(counts) > MAX_LEVELS:
        return f"{len(counts)} different texts, more than {MAX_LEVELS}"
    levels = sorted(counts.index[counts >= MIN_PATIENTS].tolist())
    return levels or f"no value that at least {MIN_PATIENTS} patients have"


def _rounded(number: Any) -> float:
    return float(f"{float(number):.{SIGNIFICANT_DIGITS}g}")
