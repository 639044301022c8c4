"""The same sections as Markdown: for repositories, wikis and mail."""

from __future__ import annotations

import re

from dptrain.report.document import Document
from dptrain.report.page.finding import finding
from dptrain.report.page.sections import Section
from dptrain.report.page.table import Table

INTERNAL = (
    "For internal use. This page holds small numbers of patients and figures of single ones: do not pass it on. What "
    "may leave the house is the version in release/."
)
"""At the top of a page that is not under disclosure control."""


def markdown_page(document: Document, found: tuple[Section, ...]) -> str:
    """The whole page."""
    study = document.summary
    simulated = " (SIMULATED data)" if study.simulated else ""
    lines = [f"# Privacy and performance: {escaped(study.name)}", ""]
    lines += [f"{escaped(study.cohort)}{simulated}, model {escaped(study.model)}.", ""]
    if document.audience == "house":
        lines += [f"**{INTERNAL}**", ""]
    for text in document.remarks:
        lines += [f"**{escaped(text)}**", ""]
    for warning in study.warnings:
        lines += [f"> {escaped(warning.withheld or warning.text or '')}", ""]
    lines += ["## What was found", "", escaped(" ".join(finding(document))), ""]
    for one in found:
        lines += section_lines(one)
    return "\n".join(lines).rstrip() + "\n"


def section_lines(one: Section) -> list[str]:
    """One section."""
    lines = [f"## {escaped(one.title)}", ""]
    for text in one.before:
        lines += [escaped(text), ""]
    if one.drawn is not None:
        lines += [f"![{escaped(one.description)}](figures/{one.key}.svg)", "", f"*{escaped(one.caption)}*", ""]
    for table in one.tables:
        lines += table_lines(table)
    for text in one.after:
        lines += [escaped(text), ""]
    lines += [f"- {escaped(text)}" for text in one.items] + ([""] if one.items else [])
    if one.code:
        lines += ["```sh", *one.code, "```", ""]
    return lines


def table_lines(table: Table) -> list[str]:
    """A table with its caption above it."""
    rows = [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in (table.header, *table.rows)]
    return [
        *([escaped(table.caption), ""] if table.caption else []),
        rows[0],
        "|" + "---|" * len(table.header),
        *rows[1:],
        "",
    ]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: names from data may hold anything."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text.replace("\n", " "))
