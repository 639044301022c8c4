"""Units of privacy and their records: which rows of the data stand or fall together.

`UnitIndex` answers one question, which records belong to the sampled units, without ever looking at another unit: a
patient's records, their number and the choice among them are local to the patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dptrain.privacy.mechanism import Unit
from dptrain.privacy.secure_random import SecureStream


@dataclass(frozen=True)
class UnitIndex:
    """Records grouped by unit (compressed rows): unit u owns `records[offsets[u]:offsets[u+1]]`."""

    records: NDArray[np.int64]
    """(R,) record indices, unit after unit, ascending inside a unit."""
    offsets: NDArray[np.int64]
    """(U+1,) where each unit begins."""

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.offsets) - 1

    @cached_property
    def is_single(self) -> bool:
        """Whether every unit has one record."""
        return bool((self.sizes == 1).all())

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(U,) records per unit."""
        return np.diff(self.offsets)

    @classmethod
    def build(cls, patient: NDArray[np.int64], patients: NDArray[np.int64], unit: Unit) -> UnitIndex:
        """Units of the given patients. `patient` (N,) is the patient of each record; `patients` the patients whose
        records may be used, in the order in which patient units are numbered. Record units are numbered in the order
        of the records, over the same patients.

        """
        position = np.full(int(max(patient.max(initial=-1), patients.max(initial=-1))) + 1, -1, dtype=np.int64)
        position[patients] = np.arange(len(patients))
        rows = np.flatnonzero(position[patient] >= 0)
        if unit == "record":
            return cls(rows, np.arange(len(rows) + 1, dtype=np.int64))
        order = np.argsort(position[patient[rows]], kind="stable")
        rows = rows[order]
        counts = np.bincount(position[patient[rows]], minlength=len(patients))
        return cls(rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def findings(self, patient: NDArray[np.int64], patients: NDArray[np.int64], unit: Unit) -> list[str]:
        """Ways in which these are not the units of the given patients, found without looking at how they were built.

        Every record of the patients must be in exactly one unit, and a patient unit holds one patient, all of it.
        """
        found = []
        wanted = np.flatnonzero(np.isin(patient, patients))
        if not np.array_equal(np.sort(self.records), wanted):
            found.append(f"{len(self.records)} records are in units, {len(wanted)} records are trained on.")
            return found
        num = len(np.unique(patients)) if unit == "patient" else len(wanted)
        if self.num_units != num:
            found.append(f"There are {self.num_units} units, expected {num}.")
        if unit == "patient":
            owner = np.repeat(np.arange(self.num_units), self.sizes)
            pairs = np.unique(np.column_stack([owner, patient[self.records]]), axis=0)
            if len(pairs) != len(np.unique(pairs[:, 0])) or len(pairs) != len(np.unique(pairs[:, 1])):
                found.append("A patient's records are in several units, or a unit holds several patients.")
        return found

    def gather(
        self, units: NDArray[np.int64], max_records: int | None, rng: np.random.Generator | SecureStream
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Records of the given units and, for each, the position of its unit in `units`.

        Units with more than `max_records` records lend a uniformly random choice of that many. The choice of a unit
        depends on random numbers only, never on other units' data, so it is part of the unit's own contribution.
        """
        if self.is_single:
            return self.records[units], np.arange(len(units))
        sizes = self.offsets[units + 1] - self.offsets[units]
        owner = np.repeat(np.arange(len(units)), sizes)
        starts = np.repeat(self.offsets[units] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        rows = self.records[starts + np.arange(len(owner))]
        if max_records is None or not (sizes > max_records).any():
            return rows, owner
        shuffled = np.lexsort((rng.random(len(rows)), owner))
        rank = np.arange(len(owner)) - np.repeat(np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        keep = np.sort(shuffled[rank < max_records])
        return rows[keep], owner[keep]
