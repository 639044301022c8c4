"""From events to one row per prediction: how often a code was seen, its last value, age; groups from codes.

Only events at or before the prediction time count, and events without a time, as the MEDS standard has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dptrain.cohorts.meds_files import STATIC, Events
from dptrain.cohorts.records import UNKNOWN, majority

DAY_US = 86_400_000_000
YEAR_US = 365.25 * DAY_US


def counts_and_last(
    events: Events, name: int, subject: NDArray[np.int64], time: NDArray[np.int64], window_days: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """((R,) events of one name, (R,) their last numeric value, NaN where there is none), for R predictions.

    `subject` and `time` (R,) are those of the predictions. With `window_days`, only events in the days before the
    prediction, and static ones. Of two values at the same time the one that is later in the file counts.
    """
    own = np.flatnonzero(events.name == name)
    counts = np.zeros(len(subject))
    last = np.full(len(subject), np.nan)
    is_static = events.time[own] == STATIC
    for rows, window in ((own[is_static], None), (own[~is_static], window_days)):
        start, end = _spans(events, rows, subject, time, window)
        counts += end - start
        numeric = rows[np.isfinite(events.value[rows])]
        start, end = _spans(events, numeric, subject, time, window)
        found = end > start
        last[found] = events.value[numeric[_order(events, numeric)]][end[found] - 1]
    return counts, last


def ages(events: Events, name: int, subject: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R,) years since the subject's first event of that name (its birth); NaN where there is none before `time`."""
    own = events.name == name
    born = np.full(int(max(subject.max(initial=-1), events.subject.max(initial=-1))) + 1, np.iinfo(np.int64).max)
    dated = own & (events.time != STATIC)
    np.minimum.at(born, events.subject[dated], events.time[dated])
    known = born[subject] <= time
    return np.where(known, (time - np.where(known, born[subject], 0)) / YEAR_US, np.nan)


def code_group(events: Events, name: int, prefix: str, num_subjects: int) -> tuple[NDArray[np.str_], int]:
    """((S,) what follows `prefix` in the codes of each subject, number of subjects with several different ones).

    The value of most events counts, ties go to the first; `unknown` without any.
    """
    own = events.name == name
    values = np.array([code.removeprefix(prefix) or UNKNOWN for code in events.codes] or [UNKNOWN], dtype=np.str_)
    return majority(values[events.code[own]], events.subject[own], num_subjects)


def _order(events: Events, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.lexsort((events.time[rows], events.subject[rows]))


def _spans(
    events: Events, rows: NDArray[np.int64], subject: NDArray[np.int64], time: NDArray[np.int64],
    window_days: float | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(R,) first and past the last place of each prediction's events among `rows` in the order of `_order`."""
    times = np.unique(np.concatenate([events.time[rows], time]))
    step = len(times) + 1
    key = np.sort(events.subject[rows] * step + np.searchsorted(times, events.time[rows]))
    low = np.zeros(len(time), dtype=np.int64)
    if window_days is not None:
        low = np.searchsorted(times, time - np.int64(window_days * DAY_US))
    start = np.searchsorted(key, subject * step + low)
    return start, np.searchsorted(key, subject * step + np.searchsorted(times, time), side="right")
