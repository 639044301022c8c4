"""The files of a report from its document: HTML in one file, Markdown, JSON, and the pictures on their own."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dptrain.report.document import Document
from dptrain.report.page.finding import finding
from dptrain.report.page.markdown import INTERNAL, markdown_page
from dptrain.report.page.scene import arm_looks
from dptrain.report.page.sections import Section, sections
from dptrain.report.page.svg import arm_variables
from dptrain.report.repeat import FOLDER, settings_file

TEMPLATES = Path(__file__).parent / "templates"


def render(document: Document) -> dict[str, str]:
    """Text of every file by its path in the report's folder. The same document gives the same bytes."""
    found = sections(document)
    pictures = {f"figures/{one.key}.svg": one.drawn.wide + "\n" for one in found if one.drawn is not None}
    return {
        "report.html": html_page(document, found),
        "report.md": markdown_page(document, found),
        "report.json": document.to_json(),
        f"{FOLDER}/experiment/repeat.yaml": settings_file(document.repeat.settings),
        **pictures,
    }


def html_page(document: Document, found: tuple[Section, ...]) -> str:
    """The page: one file without scripts, nothing loaded from anywhere."""
    known = arm_looks(document)
    return environment().get_template("report.html.j2").render(
        document=document,
        study=document.summary,
        internal=INTERNAL,
        paragraph=" ".join(finding(document)),
        sections=found,
        light=Markup(arm_variables(known, dark=False)),
        dark=Markup(arm_variables(known, dark=True)),
    )


def unbroken(text: str) -> Markup:
    """A cell whose intervals are not broken across lines."""
    return Markup(re.sub(r"(\([^()]{1,40} to [^()]{1,40}\))", r"<span>\1</span>", str(escape(text))))


def environment() -> Environment:
    """Templates with everything escaped that is not our own markup."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["markup"] = Markup
    made.filters["unbroken"] = unbroken
    made.globals["css"] = Markup((TEMPLATES / "report.css").read_text("utf-8"))
    return made
