"""The pages of a report: complete, self-contained, the same in every format, and true to the document."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from dptrain.report.document import Document
from dptrain.report.leaves import Count, Curve, Figure, Leaf, Remark, transform
from dptrain.report.page import numbers
from dptrain.report.page.finding import finding, of_100
from dptrain.report.page.render import render
from dptrain.report.page.sections import sections

HIDDEN = "not reported (n<10)"


class Outline(HTMLParser):
    """Tags that are open, addresses that are used, headings, tables without a header, pictures without words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.problems: list[str] = []
        self.num_tables = self.num_header_rows = self.num_svg = self.num_described = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in ("meta", "link", "br", "path", "use", "rect"):
            self.open.append(tag)
        self.addresses += [str(named[key]) for key in ("href", "src", "xlink:href") if key in named]
        self.ids += [str(named["id"])] if "id" in named else []
        self.num_tables += tag == "table"
        self.num_header_rows += tag == "thead"
        self.num_svg += tag == "svg"
        self.num_described += tag == "svg" and named.get("role") == "img" and "aria-labelledby" in named
        if tag == "script":
            self.problems.append("a script")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "use", "rect"):
            return
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> without its start")


@pytest.fixture(scope="module")
def files(document: Document) -> dict[str, str]:
    return render(document)


def test_the_page_is_one_file_that_loads_nothing(files: dict[str, str]) -> None:
    outline = Outline()
    outline.feed(files["report.html"])
    assert not outline.problems
    assert not outline.open
    assert all(address.startswith(("#", "data:,")) for address in outline.addresses)
    assert "url(http" not in files["report.html"]
    assert "@import" not in files["report.html"]


def test_every_link_leads_somewhere_and_no_id_is_used_twice(files: dict[str, str]) -> None:
    outline = Outline()
    outline.feed(files["report.html"])
    assert len(set(outline.ids)) == len(outline.ids)
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)
    for one in re.findall(r"url\(#([^)]+)\)", files["report.html"]):
        assert one in outline.ids


def test_tables_have_headers_and_pictures_have_words(files: dict[str, str]) -> None:
    outline = Outline()
    outline.feed(files["report.html"])
    assert outline.num_tables == outline.num_header_rows > 8
    assert outline.num_svg == outline.num_described == 14
    assert '<th scope="row">' in files["report.html"]


def test_all_parts_are_there_in_every_format(files: dict[str, str], document: Document) -> None:
    titles = [one.title for one in sections(document)]
    assert len(titles) == 11
    for title in titles:
        assert title in files["report.html"]
        assert f"## {title}" in files["report.md"]
    for name in ("tradeoff", "survival", "roc", "paired", "groups", "access", "performance"):
        picture = files[f"figures/{name}.svg"]
        ElementTree.fromstring(picture)
        assert "#0101" not in picture, "a stand-in colour was left"


def test_markdown_tables_have_as_many_cells_as_headers(files: dict[str, str]) -> None:
    block: list[int] = []
    for line in [*files["report.md"].splitlines(), ""]:
        if line.startswith("|"):
            block.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(block)) <= 1, line
            block = []


def test_a_page_for_the_house_says_so_and_a_release_does_not(files: dict[str, str], document: Document) -> None:
    released = render(dataclasses.replace(document, audience="release"))
    for name in ("report.html", "report.md"):
        assert "For internal use" in files[name]
        assert "For internal use" not in released[name]


def test_the_same_document_gives_the_same_bytes(files: dict[str, str], document: Document) -> None:
    assert render(document) == files


def test_names_from_data_cannot_break_the_page(document: Document) -> None:
    nasty = '<script>alert(1)</script> | "quoted" $x$'
    summary = dataclasses.replace(document.summary, cohort=nasty, warnings=(Remark(nasty),))
    groups = tuple(dataclasses.replace(group, group=f"{group.group}{nasty}") for group in document.groups)
    files = render(dataclasses.replace(document, summary=summary, groups=groups))
    outline = Outline()
    outline.feed(files["report.html"])
    assert not outline.problems
    assert "<script>" not in files["report.html"]
    assert "<script>" not in files["report.md"]
    for name, text in files.items():
        if name.endswith(".svg"):
            ElementTree.fromstring(text)


def test_what_is_withheld_is_said_and_not_drawn(document: Document) -> None:
    def withhold(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        if isinstance(leaf, Curve):
            cut = dataclasses.replace(leaf, x=(), y=(), low=None, high=None, withheld=HIDDEN)
            return leaf if leaf.public else cut
        if isinstance(leaf, Remark):
            return Remark(None, HIDDEN)
        return dataclasses.replace(leaf, value=None, low=None, high=None, withheld=HIDDEN)

    files = render(dataclasses.replace(transform(document, withhold), audience="release"))
    assert [name for name in files if name.endswith(".svg")] == []
    assert files["report.html"].count("not reported") > 100
    text = " ".join(finding(transform(document, withhold)))
    assert HIDDEN in text
    assert "None" not in text + files["report.html"] + files["report.md"]


def test_one_withheld_figure_leaves_the_others_in_place(document: Document) -> None:
    def withhold(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        if path[:2] == ("arms", "0") and path[-1] == "p99":
            return dataclasses.replace(leaf, value=None, low=None, high=None, withheld=HIDDEN)
        return leaf

    files = render(transform(document, withhold))
    assert "figures/tradeoff.svg" in files
    assert HIDDEN in " ".join(finding(transform(document, withhold)))


def test_the_paragraph_says_what_the_figures_say(document: Document) -> None:
    text = " ".join(finding(document))
    p99 = document.arms[0].risk.p99.value
    assert p99 is not None
    assert of_100(p99) in text
    assert "120 patients" in text
    assert "simulated data, no real patients" in text
    assert "With differential privacy at ε = 3" in text
    assert "ε = 3" in text
    assert "cannot be told from none" in text or "a change of" in text


def test_the_paragraph_is_about_the_most_exposed_5_percent_where_1_percent_is_withheld(document: Document) -> None:
    def withhold(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        if isinstance(leaf, Figure) and path[-1] == "p99":
            return dataclasses.replace(leaf, value=None, low=None, high=None, withheld=HIDDEN)
        return leaf

    text = " ".join(finding(transform(document, withhold)))
    p95 = document.arms[0].risk.p95
    assert p95 is not None
    assert p95.value is not None
    assert "most exposed 5%" in text
    assert of_100(p95.value) in text
    assert "most exposed 1%" not in text


def test_an_experiment_too_small_to_tell_does_not_speak_of_certainty(document: Document) -> None:
    def lucky(leaf: Leaf, path: tuple[str, ...]) -> Leaf:
        if isinstance(leaf, Figure) and path[-1] in ("p99", "p99_null"):
            return dataclasses.replace(leaf, value=1.0, low=1.0, high=1.0)
        return leaf

    text = " ".join(finding(transform(document, lucky)))
    assert "So few models cannot tell" in text
    assert "cannot be told either" in text
    assert "tells which is which" not in text


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (Figure(0.98512, 0.952, 0.9961), "0.985 (0.952 to 0.996)"),
        (Figure(0.99999), "> 0.9995"),
        (Figure(1.0, 0.9, 1.0), "1.000 (0.900 to 1.000)"),
        (Figure(None), "cannot be estimated"),
        (Figure(0.5, withheld=HIDDEN), HIDDEN),
        (Figure(0.043, 0.0368, 0.0492, unit="fraction"), "4.3% (3.7% to 4.9%)"),
        (Figure(0.01, unit="fraction"), "1%"),
        (Figure(0.0004, unit="p-value"), "< 0.001"),
        (Figure(0.004, unit="patients"), "< 0.1"),
        (Figure(-0.0001), "0.000"),
    ],
)
def test_figures_as_text(leaf: Figure, text: str) -> None:
    assert numbers.figure(leaf) == text


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (Count(25, 399, 16.4, 36.2), "25 of 399 (16 to 37)"),
        (Count(1234), "1,234"),
        (Count(2.5, 40), "2.5 of 40"),
        (Count(-9.0, 399, -16.2, -2.1, difference=True), "−9 (−17 to −2)"),
        (Count(3, 60, withheld=HIDDEN), HIDDEN),
    ],
)
def test_counts_as_text(leaf: Count, text: str) -> None:
    assert numbers.count(leaf) == text


def test_epsilon_is_rounded_up() -> None:
    assert [numbers.epsilon(value) for value in (7.9966, 2.9991, 0.12341, 8.0, None)] == ["8", "3", "0.124", "8", "–"]


def test_certainty_is_said_for_certainty_only() -> None:
    assert of_100(1.0) == "100 of 100"
    assert of_100(0.999) == "more than 99 of 100"
    assert of_100(0.505) == "51 of 100"
