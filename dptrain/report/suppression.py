"""Which counts must be withheld so that no small one can be worked out from those that are shown. Pure arithmetic.

A count below the smallest that may be shown is *small*. Withholding the small ones alone (primary suppression) is not
enough: the others and the total give them away. Two structures cover everything that a report counts:

* a *partition*: groups that add up to a known total. Further groups are withheld until every small one could, for all
  that an attacker can compute, still be any small number (`hidden_in_partition`). The attacker is a strong one: he
  knows the total and, of every group that is withheld, whether it is small itself.
* a *chain*: numbers of patients at or above rising thresholds, each set inside the one before. Shown counts are such
  that each pair of them, the first and the total, and the last and zero, differ by at least the smallest count that may
  be shown (`kept_in_chain`): whatever is subtracted from whatever, the result is no small number.

Willenborg and de Waal, Elements of Statistical Disclosure Control, Springer 2001, chapters 1 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from dptrain.errors import ConfigError

LEAST_SENSIBLE = 3
"""With 2, whoever is one of two patients knows the other."""


@dataclass(frozen=True)
class Rule:
    """What counts as small."""

    min_count: int = 10
    """Smallest number of patients that may be shown."""
    zero_is_small: bool = True
    """Whether 0 is withheld too, so that nobody learns that a group has no patient of a kind."""

    def __post_init__(self) -> None:
        if self.min_count < LEAST_SENSIBLE:
            raise ConfigError(
                f"--min-count {self.min_count} must be at least {LEAST_SENSIBLE}: the smallest number of "
                "patients that a release may show; 10 is usual."
            )

    def is_small(self, count: float) -> bool:
        """Whether a number of patients must not be shown. What is below 0 or not a number is small: it is wrong."""
        return not (count >= self.min_count or (count == 0 and not self.zero_is_small))

    @property
    def smallest_hidden(self) -> int:
        """The smallest number that may stand behind a withheld count."""
        return 0 if self.zero_is_small else 1

    @property
    def words(self) -> str:
        """What is printed in place of a number."""
        return f"not reported (n<{self.min_count})"


def hidden_in_partition(
    counts: Mapping[str, float | None], total: float | None, rule: Rule, already: Set[str] = frozenset()
) -> frozenset[str]:
    """Names of the groups of a partition that must be withheld.

    Args:
        counts: by name of the group; None where it could not be counted.
        total: of all groups, known to everybody; None if it is not. What the groups lack of it is one more group that
            nobody shows.
        rule: what is small.
        already: withheld for other reasons.

    Returns: `already` and what comes to it; everything if the counts do not fit their total (then nothing is known).
    """
    known = {name: count for name, count in counts.items() if count is not None}
    everything = frozenset(counts)
    rest = 0.0 if total is None else total - sum(known.values())
    if len(known) < len(counts) or rest < -1e-6:
        return everything
    small = {name for name, count in known.items() if rule.is_small(count)}
    unlisted = rest if rest > 1e-6 else 0.0
    hidden = set(already & everything) | small
    while (hidden or (unlisted and rule.is_small(unlisted))) and not _is_protected(known, hidden, unlisted, rule):
        shown = sorted(everything - hidden, key=lambda name: (known[name], name))
        if not shown:
            break
        enough = (name for name in shown if _is_protected(known, hidden | {name}, unlisted, rule))
        hidden.add(next(enough, shown[-1]))
    return frozenset(hidden)


def _is_protected(known: Mapping[str, float], hidden: Set[str], unlisted: float, rule: Rule) -> bool:
    """Whether each small group among the hidden could be any small number.

    The attacker knows what the hidden groups add up to (`unlisted` among them), and of each whether it is small.
    """
    low, high = rule.smallest_hidden, rule.min_count - 1
    small = [name for name in hidden if rule.is_small(known[name])]
    num_large = len(hidden) - len(small)
    together = sum(known[name] for name in hidden) + unlisted
    if unlisted and rule.is_small(unlisted) and not hidden:
        return False
    if not small and not unlisted:
        return len(hidden) != 1
    has_free = num_large > 0 or unlisted > 0
    others = len(small) - 1
    least = low if has_free else max(low, together - others * high)
    most = min(high, together - others * low - num_large * rule.min_count)
    return least <= low and most >= high


def kept_in_chain(counts: Sequence[float | None], total: float, rule: Rule) -> list[bool]:
    """Which of nested counts may be shown, the earlier in the list the more wanted.

    All are numbers of patients at or above some threshold, so of any two the smaller set lies inside the larger. A
    count is shown if it differs from 0, from the total and from every count that is shown already by no small number.
    Two equal counts say that nobody lies between: they are shown together only if a 0 may be shown.
    """
    anchors = [0.0, float(total)]
    kept = []
    for count in counts:
        fits = count is not None and 0 <= count <= total and not any(_is_near(count, one, rule) for one in anchors)
        kept.append(fits)
        if fits and count is not None:
            anchors.append(float(count))
    return kept


def _is_near(count: float, other: float, rule: Rule) -> bool:
    return rule.is_small(abs(count - other))
