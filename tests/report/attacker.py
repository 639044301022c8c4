"""Who wants a withheld count back: a linear system over whole numbers, and nothing of the code that withheld it.

Unknowns are counts; what is printed, and what one set being part of another means, are linear constraints. The largest
and the smallest value that a hidden count can have (mixed-integer programming, scipy's HiGHS) say what is left of it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array


@dataclass
class Knowledge:
    """What an attacker knows: bounds of every count, and sums of counts between bounds."""

    low: dict[Hashable, float] = field(default_factory=dict)
    high: dict[Hashable, float] = field(default_factory=dict)
    sums: list[tuple[dict[Hashable, float], float, float]] = field(default_factory=list)

    def between(self, name: Hashable, low: float, high: float) -> None:
        """The count lies in [low, high]."""
        self.low[name] = max(low, self.low.get(name, 0.0))
        self.high[name] = min(high, self.high.get(name, np.inf))

    def known(self, name: Hashable, value: float) -> None:
        """The count is printed."""
        self.between(name, value, value)

    def sum_is(self, terms: dict[Hashable, float], low: float, high: float) -> None:
        """A weighted sum of counts lies in [low, high]."""
        for name in terms:
            self.between(name, 0.0, np.inf)
        self.sums.append((terms, low, high))

    def range_of(self, weights: dict[Hashable, float], *, whole: bool = True) -> tuple[float, float]:
        """Smallest and largest value of a weighted sum of counts (infinite if there is no limit)."""
        order = list(self.low)
        place = {name: index for index, name in enumerate(order)}
        cost = np.zeros(len(order))
        for name, weight in weights.items():
            cost[place[name]] = weight
        rows = [(r, place[n], w) for r, (terms, _, _) in enumerate(self.sums) for n, w in terms.items()]
        constraints = ()
        if rows:
            r, c, w = zip(*rows, strict=True)
            matrix = csr_array((w, (r, c)), shape=(len(self.sums), len(order)))
            lower, upper = np.array([(low, high) for _, low, high in self.sums]).T
            constraints = LinearConstraint(matrix, lower, upper)
        bounds = Bounds([self.low[n] for n in order], [self.high[n] for n in order])
        ends = []
        for sign in (1.0, -1.0):
            integral = np.full(len(order), int(whole))
            done = milp(sign * cost, integrality=integral, bounds=bounds, constraints=constraints)
            assert done.status in (0, 3), f"the attacker contradicts himself: {done.message}"
            ends.append(-sign * np.inf if done.status == 3 else sign * float(done.fun))
        return (round(ends[0], 6), round(ends[1], 6))
