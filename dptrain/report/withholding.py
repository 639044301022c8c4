"""What of a report document must not leave the house, and what would give it away: the decisions of `disclosure`.

Every leaf has reasons of its own (too few patients, no word about how many, an unknown unit). Then come the leaves from
which a withheld one could be worked out: nested counts, counts in two arms beside their difference, groups that add up
to a total, everything about a group whose size is withheld, and leaves that name the same `cell`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dptrain.report import document as doc
from dptrain.report.leaves import PATIENTS, Count, Curve, Figure, Leaf, Remark, leaves
from dptrain.report.suppression import Rule, hidden_in_partition, kept_in_chain

Path = tuple[str, ...]
TEST_PATIENTS = "test patients"
PEOPLE = (PATIENTS, TEST_PATIENTS)
"""What `n` counts where it counts people; anything else is refused but `models`."""
UNITS = ("AUC", "AUROC", "AUPRC", "Brier score", "slope", "relative change", "p-value", "fraction")
"""Units of figures that may leave. `patients` only where chance is counted."""
CHANCE = "chance"
"""In `Figure.about` where permuted, not real, patients were counted."""
WANTED_THRESHOLD = 0.9
"""If not all thresholds can be shown, those next to this one are."""


def paths_to_withhold(document: doc.Document, rule: Rule) -> frozenset[Path]:
    """Paths (`leaves.leaves`) of what must not leave: for its own reasons, then what gives it away."""
    found = dict(leaves(document))
    hidden = {path for path, leaf in found.items() if not _may_stand_alone(leaf, path, document, rule)}
    if _is_small_difference(document.summary.num_records, document.summary.num_patients, rule):
        hidden.add(("summary", "num_records"))
    while True:
        before = len(hidden)
        for place, arm in enumerate(document.arms):
            hidden |= _chain(arm, ("arms", str(place)), hidden, document, rule)
        hidden |= _differences(document, hidden)
        hidden |= _partitions(found, hidden, rule)
        hidden |= _of_hidden_groups(document, found, hidden)
        cells = {leaf.cell for path, leaf in found.items() if path in hidden and isinstance(leaf, Count | Figure)}
        cells.discard(None)
        hidden |= {path for path, leaf in found.items() if isinstance(leaf, Count | Figure) and leaf.cell in cells}
        if len(hidden) == before:
            return frozenset(hidden)


def _may_stand_alone(leaf: Leaf, path: Path, document: doc.Document, rule: Rule) -> bool:
    """Whether a leaf may be shown as far as it alone is concerned."""
    if leaf.withheld is not None:
        return False
    if isinstance(leaf, Remark):
        return True
    if isinstance(leaf, Count):
        if leaf.difference:
            return leaf.value is not None
        complement = None if leaf.of is None or leaf.value is None else leaf.of - leaf.value
        return leaf.value is not None and not rule.is_small(leaf.value) and not (
            complement is not None and complement != 0 and rule.is_small(complement)
        )
    if isinstance(leaf, Curve):
        return _curve_may_stand(leaf)
    return _figure_may_stand(leaf, path, document, rule)


def _curve_may_stand(leaf: Curve) -> bool:
    if leaf.kind == "cap":
        return leaf.public
    if leaf.kind in ("survival", "null"):
        return leaf.n is not None and leaf.y_unit == PATIENTS
    return leaf.kind == "roc" and leaf.n is not None and leaf.n_x is not None


def _figure_may_stand(leaf: Figure, path: Path, document: doc.Document, rule: Rule) -> bool:
    if leaf.n is None or leaf.n_unit not in (*PEOPLE, "models"):
        return False
    if leaf.unit not in UNITS and not (leaf.unit == PATIENTS and CHANCE in leaf.about):
        return False
    if leaf.n_unit == "models":
        return True
    if rule.is_small(leaf.n) or (leaf.rests_on is not None and rule.is_small(leaf.rests_on)):
        return False
    if path[-1].endswith("median") and rule.is_small(leaf.n // 2):
        return False
    if path[0] == "groups" and leaf.value is None:
        return False
    if "auroc" in path[-1] and path[0] == "groups" and leaf.rests_on is None:
        return False
    if path[-1] != "prevalence" and path[:1] == ("arms",) and "performance" in path:
        return _has_both_outcomes(document.arms[int(path[1])], rule)
    if "tpr_at_fpr" in "".join(path) and leaf.value is not None:
        return not rule.is_small(_rate(path) * leaf.n / 2) and not rule.is_small(leaf.value * leaf.n / 2)
    if leaf.unit == "fraction" and leaf.value is not None:
        share = leaf.value * leaf.n
        return not any(rule.is_small(round(one)) for one in (share, leaf.n - share))
    return True


def _rate(path: Path) -> float:
    """The false-positive rate of a figure that is a true-positive rate; 0 where its place does not say."""
    if path[-1] == "tpr_at_fpr_001":
        return 0.01
    try:
        return float(path[-1])
    except ValueError:
        return 0.0


def _has_both_outcomes(arm: doc.Arm, rule: Rule) -> bool:
    """Whether enough test patients have, and have not, what is diagnosed."""
    share = arm.performance.prevalence
    if share.value is None or share.n is None:
        return False
    return not any(rule.is_small(round(one)) for one in (share.value * share.n, (1 - share.value) * share.n))


def _is_small_difference(records: Count, patients: Count, rule: Rule) -> bool:
    """Whether the numbers of records and patients say that only few patients have a second record."""
    if records.value is None or patients.value is None:
        return True
    more = records.value - patients.value
    return more != 0 and rule.is_small(more)


def _chain(arm: doc.Arm, where: Path, hidden: set[Path], document: doc.Document, rule: Rule) -> set[Path]:
    """Counts of patients at or above thresholds, and on the list of exposed patients, in one arm."""
    total = document.summary.num_patients.value
    wanted = sorted(
        range(len(arm.risk.at_least)), key=lambda place: abs(arm.risk.at_least[place].threshold - WANTED_THRESHOLD)
    )
    places = [(*where, "risk", "at_least", str(place), "count") for place in wanted]
    counts = [arm.risk.at_least[place].count for place in wanted]
    places.append((*where, "risk", "exposed"))
    counts.append(arm.risk.exposed)
    values = [None if path in hidden else count.value for path, count in zip(places, counts, strict=True)]
    kept = [False] * len(values) if total is None else kept_in_chain(values, total, rule)
    return {path for path, keep in zip(places, kept, strict=True) if not keep}


def _differences(document: doc.Document, hidden: set[Path]) -> set[Path]:
    """A difference of counts between an arm and `none` is shown only beside both counts."""
    shown: dict[str, set[str]] = {}
    for place, arm in enumerate(document.arms):
        shown[arm.label] = {
            f"{one.threshold:g}"
            for index, one in enumerate(arm.risk.at_least)
            if ("arms", str(place), "risk", "at_least", str(index), "count") not in hidden
        }
    found: set[Path] = set()
    for place, arm in enumerate(document.arms):
        for threshold in () if arm.paired is None else arm.paired.count_at_least:
            if threshold not in shown[arm.label] & shown.get("none", set()):
                found.add(("arms", str(place), "paired", "count_at_least", threshold))
    return found


def _partitions(found: Mapping[Path, Leaf], hidden: set[Path], rule: Rule) -> set[Path]:
    """Groups that add up to a known total."""
    members: dict[str, dict[Path, Count]] = {}
    for path, leaf in found.items():
        if isinstance(leaf, Count) and leaf.partition is not None:
            members.setdefault(leaf.partition, {})[path] = leaf
    more: set[Path] = set()
    for counts in members.values():
        totals = {leaf.of for leaf in counts.values()}
        total = totals.pop() if len(totals) == 1 else None
        if total is None:
            more |= set(counts)
            continue
        names = {"/".join(path): path for path in counts}
        values = {name: counts[path].value for name, path in names.items()}
        already = frozenset(name for name, path in names.items() if path in hidden)
        more |= {names[name] for name in hidden_in_partition(values, total, rule, already)}
    return more


def _of_hidden_groups(document: doc.Document, found: Mapping[Path, Leaf], hidden: set[Path]) -> set[Path]:
    """Everything about a group whose size is withheld: with the size, its means could be worked out."""
    places = [str(place) for place in range(len(document.groups))]
    sizes = {place for place in places if ("groups", place, "num_patients") in hidden}
    tests = {place for place in places if ("groups", place, "num_test_patients") in hidden}
    return {
        path
        for path in found
        if path[0] == "groups" and (path[1] in sizes or (path[1] in tests and path[-1] == "auroc"))
    }
