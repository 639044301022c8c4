"""Groups of patients, checked and numbered; whatever is measured per group is measured on these.

Also the hook for performance by group: how a model performs is not for `audit` to know, so the caller hands in the
measurement.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dptrain.attacks.checks import BoolArray, FloatArray, IntArray
from dptrain.audit.interval import NOT_ESTIMABLE, Interval

MIN_SIZE = 10
"""Smallest group whose figures are given: the usual disclosure threshold."""


@dataclass(frozen=True)
class Groups:
    """A attributes of P patients, their G groups numbered through."""

    code_AP: IntArray
    names: tuple[tuple[str, str], ...]
    """(attribute, group) of each of the G groups, attributes in the given order, groups sorted."""
    size_G: IntArray

    @property
    def num_groups(self) -> int:
        return len(self.names)

    def of_attribute(self, attribute: int) -> IntArray:
        """Numbers of the groups of an attribute."""
        return np.unique(self.code_AP[attribute]).astype(np.int64)


def coded_groups(groups: Mapping[str, npt.ArrayLike], num_patients: int) -> Groups:
    """Return the groups by number.

    Raises:
        ValueError: no attribute, or one that does not have a value for each patient (all problems at once).
    """
    values = {name: np.asarray(column).astype(np.str_) for name, column in groups.items()}
    problems = [
        f"groups[{name!r}].shape={column.shape} must be ({num_patients},): one value per patient."
        for name, column in values.items()
        if column.shape != (num_patients,)
    ]
    if problems or not values:
        raise ValueError("\n".join(problems) or "groups={} must hold at least one attribute.")
    codes: list[npt.NDArray[np.int64]] = []
    names: list[tuple[str, str]] = []
    for name, column in values.items():
        found, code = np.unique(column, return_inverse=True)
        codes.append(code + len(names))
        names.extend((name, str(group)) for group in found)
    code_AP = np.array(codes, dtype=np.int64)
    return Groups(code_AP, tuple(names), np.bincount(code_AP.ravel(), minlength=len(names)).astype(np.int64))


def checked_groups(
    risks: list[npt.ArrayLike],
    groups: Mapping[str, npt.ArrayLike],
    strata: npt.ArrayLike | None,
    min_size: int,
    num_permutations: int,
) -> tuple[list[FloatArray], Groups, IntArray, BoolArray]:
    """Return risks, groups and strata (0..S-1) of the patients whose risks are all known, and who these are.

    Risks are rounded to 12 decimals: equal AUCs are ties even if they were computed along different ways.
    """
    values = [np.asarray(risk, dtype=np.float64) for risk in risks]
    num_patients = values[0].size
    problems = [f"risk.shape={v.shape} must be ({num_patients},)." for v in values if v.shape != (num_patients,)]
    strata_P = np.zeros(num_patients) if strata is None else np.asarray(strata)
    if strata_P.shape != (num_patients,):
        problems.append(f"strata.shape={strata_P.shape} must be ({num_patients},): one stratum per patient.")
    if min_size < 1 or num_permutations < 20:
        problems.append(f"min_size={min_size}, num_permutations={num_permutations} must be at least 1 and 20.")
    known: BoolArray = np.asarray(np.isfinite(values[0] if problems else sum(values)), dtype=np.bool_)
    if not known.any():
        problems.append("risk holds no number; expected at least one patient with a risk.")
    if problems:
        raise ValueError("\n".join(problems))
    coded_groups(groups, num_patients)
    kept = coded_groups({name: np.asarray(column)[known] for name, column in groups.items()}, int(known.sum()))
    stratum = np.unique(strata_P[known], return_inverse=True)[1].astype(np.int64)
    return [np.round(value[known], 12) for value in values], kept, stratum, known


@dataclass(frozen=True)
class GroupUtility:
    """Performance in one group."""

    attribute: str
    group: str
    num_patients: int
    reportable: bool
    utility: Interval
    """Not estimable in a group that is not reportable, or if `measure` could not say."""


def group_utility(
    groups: Mapping[str, npt.ArrayLike],
    num_patients: int,
    measure: Callable[[BoolArray], Interval | None],
    min_size: int = MIN_SIZE,
) -> tuple[GroupUtility, ...]:
    """Return `measure` of every group, to stand beside its risk.

    Args:
        groups: (P,) group of every (test) patient, by attribute.
        num_patients: P.
        measure: gets (P,) bool, the patients of one group; returns their performance with its interval, or None if it
            has none there (one outcome only). It may as well return a difference between arms.
        min_size: fewest patients of a group that is measured.

    Raises:
        ValueError: arrays that do not fit.
    """
    coded = coded_groups(groups, num_patients)
    found = []
    for place, (attribute, group) in enumerate(coded.names):
        size = int(coded.size_G[place])
        measured = measure((coded.code_AP == place).any(axis=0)) if size >= min_size else None
        found.append(GroupUtility(attribute, group, size, size >= min_size, measured or NOT_ESTIMABLE))
    return tuple(found)
