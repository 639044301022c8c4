"""What leaves the house: nothing small, nothing that gives it away, nothing unknown; and an attacker who tries."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dptrain.report.analysis import analyse
from dptrain.report.bundle import refuse_identifiers, release_files, write_release
from dptrain.report.disclosure import FREE_TEXT, DisclosureError, for_release
from dptrain.report.document import Document
from dptrain.report.leaves import Count, Curve, Figure, Leaf, Remark, leaves, transform
from dptrain.report.page.render import render
from dptrain.report.suppression import Rule
from tests.report.attack_release import attack, numbers_in_withheld
from tests.report.fake_study import document_for
from tests.report.random_study import identifier, random_study

RULE = Rule()
STAND_IN_TEXT = "no patient identifiers: the unit of privacy is the"


@pytest.fixture(scope="module")
def safe(document: Document) -> Document:
    return for_release(document, RULE)


def as_json(document: Document) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(document.to_json())
    return content


def test_a_release_says_so_and_drops_nothing(document: Document, safe: Document) -> None:
    assert safe.audience == "release"
    assert "not reported (n<10)" in " ".join(safe.remarks)
    assert [path for path, _ in leaves(safe)] == [path for path, _ in leaves(document)]
    for (path, before), (_, after) in zip(leaves(document), leaves(safe), strict=True):
        assert type(before) is type(after)
        if isinstance(after, Count | Figure) and before.value is not None and after.value is None:
            assert after.withheld == "not reported (n<10)", path


def test_no_small_count_no_maximum_no_far_quantile(document: Document, safe: Document) -> None:
    assert all(not leaf.withheld for arm in document.arms for leaf in (arm.risk.maximum, arm.risk.p99))
    for arm in safe.arms:
        assert arm.risk.maximum.withheld
        assert arm.risk.p99.withheld, "a 99th percentile of 120 patients is the second most exposed one"
        assert arm.risk.picked is None or arm.risk.picked.withheld
        assert arm.risk.median.value is not None
    for path, leaf in leaves(safe):
        if isinstance(leaf, Count) and leaf.value is not None and not leaf.difference:
            assert leaf.value >= 10, path
        if isinstance(leaf, Count | Figure):
            assert leaf.cell is None


def test_curves_end_at_the_tenth_patient_and_have_no_step_of_fewer(safe: Document) -> None:
    for arm in safe.arms:
        curve = arm.risk.survival
        counts = [*curve.y, *(one.count.value for one in arm.risk.at_least if one.count.value is not None), 0.0, 120.0]
        assert len(curve.y) >= 3
        assert all(a == b or abs(a - b) >= 10 for a, b in itertools.combinations(counts, 2))
        assert all(round(x * 100) == pytest.approx(x * 100) for x in curve.x), "a public grid, no patient's own value"
        roc = arm.attack.roc
        assert roc.n
        assert roc.n_x
        assert all(x * roc.n_x + 1e-2 >= 10 and y * roc.n + 1e-2 >= 10 for x, y in zip(roc.x, roc.y, strict=True))
    assert min(safe.null.y) >= 10


def test_withheld_leaves_hold_no_number(safe: Document) -> None:
    assert not list(numbers_in_withheld(as_json(safe)))


def test_free_text_stays_in_the_house(document: Document) -> None:
    summary = replace(
        document.summary,
        warnings=(Remark("3 patients are left out."), Remark(f"{STAND_IN_TEXT} image")),
        outside_dp=("Balanced by label.", "Constants of 7 patients."),
    )
    safe = for_release(replace(document, summary=summary), RULE).summary
    assert [one.text for one in safe.warnings] == [None, f"{STAND_IN_TEXT} image"]
    assert safe.warnings[0].withheld == FREE_TEXT
    assert safe.outside_dp == ("Balanced by label.", FREE_TEXT)


def changed(document: Document, where: tuple[str, ...], **changes: Any) -> Document:
    def change(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        return dataclasses.replace(leaf, **changes) if path == where else leaf

    return transform(document, change)


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        (("arms", "0", "attack", "auc"), {"n": None}),
        (("arms", "0", "attack", "auc"), {"n": 9}),
        (("arms", "0", "attack", "auc"), {"n_unit": "wards"}),
        (("arms", "0", "attack", "auc"), {"unit": "patients"}),
        (("arms", "0", "attack", "auc"), {"unit": "euros"}),
        (("arms", "0", "attack", "auc"), {"rests_on": 3}),
        (("arms", "0", "risk", "median"), {"n": 19}),
        (("arms", "0", "performance", "prevalence"), {"value": 0.1}),
        (("arms", "0", "performance", "prevalence"), {"value": 0.95}),
        (("arms", "0", "risk", "survival"), {"kind": "new"}),
        (("arms", "0", "risk", "survival"), {"n": None}),
        (("arms", "0", "attack", "roc"), {"n_x": None}),
        (("arms", "0", "attack", "roc"), {"kind": "cap", "public": False}),
    ],
)
def test_what_does_not_say_enough_is_withheld(document: Document, where: tuple[str, ...], changes: Any) -> None:
    documents = (document, changed(document, where, **changes))
    before, after = (dict(leaves(for_release(one, RULE)))[where] for one in documents)
    assert not before.withheld
    assert after.withheld == "not reported (n<10)"
    if isinstance(after, Curve):
        assert not after.x


def test_performance_rests_on_both_outcomes(document: Document) -> None:
    rare = for_release(changed(document, ("arms", "0", "performance", "prevalence"), value=0.1), RULE)
    assert rare.arms[0].performance.auroc.withheld
    assert not rare.arms[1].performance.auroc.withheld


def test_a_second_record_of_few_patients_is_not_told(document: Document) -> None:
    few = for_release(changed(document, ("summary", "num_records"), value=123), RULE)
    assert few.summary.num_records.withheld
    assert not for_release(changed(document, ("summary", "num_records"), value=140), RULE).summary.num_records.withheld


def test_a_difference_is_shown_only_beside_both_counts(document: Document) -> None:
    place = next(i for i, one in enumerate(document.arms[0].risk.at_least) if one.threshold == 0.8)
    many = document
    for arm in range(len(document.arms)):
        many = changed(many, ("arms", str(arm), "risk", "at_least", str(place), "count"), value=60)
    assert for_release(many, RULE).arms[3].paired.count_at_least["0.8"].value is not None  # type: ignore[union-attr]
    for arm in (0, 3):
        few = changed(many, ("arms", str(arm), "risk", "at_least", str(place), "count"), value=4)
        assert for_release(few, RULE).arms[3].paired.count_at_least["0.8"].withheld  # type: ignore[union-attr]


def test_leaves_of_one_cell_are_withheld_together(document: Document) -> None:
    first = changed(document, ("arms", "0", "attack", "auc"), cell="same", n=3)
    second = changed(first, ("arms", "1", "attack", "auc"), cell="same")
    assert for_release(second, RULE).arms[1].attack.auc.withheld


def test_a_small_group_takes_another_with_it(document: Document) -> None:
    small = changed(document, ("groups", "0", "num_patients"), value=4)
    small = changed(small, ("groups", "1", "num_patients"), value=116)
    for group in for_release(small, RULE).groups:
        assert group.num_patients.withheld
        for _, leaf in leaves(group.arms):
            assert leaf.withheld, "with the size, the mean could be worked out"


@dataclass(frozen=True)
class Unheard:
    """A part of a document that nobody has decided about."""

    name: str = "new"


def test_an_unknown_part_is_refused_not_passed_through(document: Document, tmp_path: Path) -> None:
    arm = replace(document.arms[0], attack=Unheard())  # type: ignore[arg-type]
    unknown = replace(document, arms=(arm,))
    with pytest.raises(DisclosureError, match=r"does not know Arm\.attack"):
        for_release(unknown, RULE)
    number = replace(document, groups=(3,))  # type: ignore[arg-type]
    with pytest.raises(DisclosureError, match=r"does not know Document\.groups"):
        for_release(number, RULE)
    write_release(tmp_path, document, RULE, [])
    assert (tmp_path / "release" / "report.json").exists()
    with pytest.raises(DisclosureError):
        write_release(tmp_path, unknown, RULE, [])
    assert not (tmp_path / "release").exists(), "an earlier release may hold the same"


def test_a_leaf_of_another_kind_is_refused(document: Document) -> None:
    class Odd(Count):
        pass

    odd = changed(document, ("summary", "num_patients"))
    odd = replace(odd, summary=replace(odd.summary, num_patients=Odd(3)))
    with pytest.raises(DisclosureError, match=r"Summary\.num_patients"):
        for_release(odd, RULE)


def test_the_pages_are_drawn_from_what_is_left(document: Document) -> None:
    files = release_files(document, RULE, [])
    assert {"report.html", "report.md", "report.json", "README.md", "figures/survival.svg"} <= set(files)
    for name in ("report.html", "report.md"):
        text = files[name].decode()
        assert "not reported (n<10)" in html.unescape(text).replace("\\", "")
        assert "None" not in text.replace("None of", "")
        assert f"{document.arms[0].risk.p99.value:.3f} (" not in text


def test_where_the_99th_percentile_may_not_be_shown_the_95th_is(document: Document) -> None:
    assert document.headline_percent == 1
    larger = document
    for arm in range(len(document.arms)):
        larger = changed(larger, ("arms", str(arm), "risk", "p95"), n=400, rests_on=20)
    safe = for_release(larger, RULE)
    assert safe.headline_percent == 5
    assert safe.arms[0].risk.p99.withheld
    files = render(safe)
    assert "most exposed 5%" in files["report.md"]
    assert "figures/tradeoff.svg" in files
    assert for_release(document, RULE).headline_percent == 1, "of 120 patients, six are beyond it"
    assert "figures/tradeoff.svg" not in render(for_release(document, RULE))


def test_zero_can_be_shown(document: Document) -> None:
    where = ("arms", "0", "risk", "exposed")
    none = changed(document, where, value=0)
    assert dict(leaves(for_release(none, RULE)))[where].withheld
    assert dict(leaves(for_release(none, Rule(zero_is_small=False))))[where].value == 0


def test_files_are_searched_for_identifiers(document: Document) -> None:
    refuse_identifiers({"a": b"123456 SECR 0.123"}, ["123456", "SECRET-0001", "12"])
    for text in (b"x SECRET-0001,", b'"SECRET-0001"', b"<td>20260001</td>"):
        with pytest.raises(DisclosureError, match="1 patient identifiers") as caught:
            refuse_identifiers({"a": text}, ["SECRET-0001", "20260001"])
        assert "SECRET" not in str(caught.value)
    named = replace(document, groups=(replace(document.groups[0], group="SECRET-0001"),))
    with pytest.raises(DisclosureError, match="would hold"):
        release_files(named, RULE, ["SECRET-0001"])


def test_the_attacker_gets_what_a_house_report_gives_away(document: Document) -> None:
    """The attack itself works: without disclosure control it recovers every small number."""
    house = as_json(document)
    found = attack(house, house)
    assert len(found) > 20
    assert all(one.recovered for one in found)


@pytest.mark.parametrize("seed", range(6))
def test_the_attacker_recovers_nothing_from_a_release(seed: int) -> None:
    study = random_study(seed)
    house = document_for(analyse(study, details=True))
    files = release_files(house, RULE, study.cohort().patient_ids.tolist())
    found = attack(json.loads(files["report.json"]), as_json(house))
    assert found
    assert not [one for one in found if one.recovered or one.confined]
    assert not list(numbers_in_withheld(json.loads(files["report.json"])))
    for patient in range(study.num_train + study.num_test):
        assert not any(identifier(seed, patient).encode() in content for content in files.values())
