"""`dptrain constants data=meds ...`: the codes that many patients have, and their scaling, from the records.

A look at private data that epsilon does not cover: the file says so in `source`, as for data=table (`constants.py`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import yaml

from dptrain.cohorts.constants import MIN_PATIENTS, SIGNIFICANT_DIGITS
from dptrain.cohorts.meds import (
    AGE,
    AGE_CONSTANTS,
    BIRTH,
    COUNT,
    COUNT_CONSTANTS,
    LAST,
    SUBJECT,
    MedsOptions,
    meds_predictions,
    meds_root,
)
from dptrain.cohorts.meds_features import counts_and_last
from dptrain.cohorts.meds_files import code_names, patients_by_code, read_events, shards
from dptrain.config import DataConfig
from dptrain.errors import DataError
from dptrain.options import parse_options

MAX_CODES = 200
"""The codes that most patients have, at most this many."""
LEFT_OUT = (BIRTH, "MEDS_DEATH")
HEADER = f"""\
# Codes and scaling constants for data=meds; use with data.constants=THIS_FILE. At most {MAX_CODES} codes, by patients.
# Written by `dptrain constants` from private records: epsilon does not cover them, and the privacy statement says so.
# Better: replace names and numbers by public ones (code lists, reference ranges) and then write `source: public, ...`.
# Delete the line of a code that the model must not see. `count`: log(1 + events so far); `last`: last numeric value.
"""


def fit_meds_constants(data: DataConfig) -> str:
    """YAML text with source and numeric, from all events at or before the predictions (training and test).

    Raises ConfigError and DataError like the reader.
    """
    own = parse_options(MedsOptions, data.options, "data")
    root = meds_root(data.path)
    files = shards(root)
    table, _ = meds_predictions(root, own)
    subjects = np.unique(table[SUBJECT].to_numpy())
    patients = Counter({code: count for code, count in patients_by_code(files, subjects).items()
                        if code not in LEFT_OUT and count >= MIN_PATIENTS})  # fmt: skip
    names = [code for code, _ in sorted(patients.items(), key=lambda item: (-item[1], item[0]))[:MAX_CODES]]
    events = read_events(files, subjects, code_names(names, {}))
    place, time = np.searchsorted(subjects, table[SUBJECT].to_numpy()), table["time"].to_numpy()
    numeric: dict[str, dict[str, Any]] = {AGE: _entry(AGE_CONSTANTS)} if own.age else {}
    for index, name in enumerate(names):
        counts, last = counts_and_last(events, index, place, time, own.window_days)
        if len(np.unique(place[counts > 0])) < MIN_PATIENTS:
            continue
        numeric[f"{COUNT}{name}"] = _entry(COUNT_CONSTANTS)
        known = last[np.isfinite(last)]
        if len(np.unique(place[np.isfinite(last)])) >= MIN_PATIENTS and _rounded(known.std()) > 0:
            numeric[f"{LAST}{name}"] = {"center": _rounded(known.mean()), "scale": _rounded(known.std()),
                                        "fill": _rounded(np.median(known))}  # fmt: skip
    if not numeric:
        raise DataError(f"data.path={data.path}: no code occurs before the predictions of {MIN_PATIENTS} patients.")
    source = f"fitted on the private records of {root.name}, training and test patients, by dptrain constants"
    body = yaml.safe_dump({"source": source, "numeric": numeric}, sort_keys=False, default_flow_style=None, width=110,
                          allow_unicode=True)  # fmt: skip
    return HEADER + body


def _entry(constants: Any) -> dict[str, float]:
    return {name: value for name, value in vars(constants).items() if value is not None}


def _rounded(number: Any) -> float:
    return float(f"{float(number):.{SIGNIFICANT_DIGITS}g}")
