"""The release bundle: the report as it may leave the house, in `release/` of the study.

The same pages as the house's report, drawn from the document after disclosure control. Before anything is written,
every file is searched for identifiers of the patients: a second safeguard, since no part of a document has any. If
something is refused, an earlier release is removed too, because it may hold the same.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from dptrain.report.disclosure import DisclosureError, for_release
from dptrain.report.document import Document
from dptrain.report.page.render import render
from dptrain.report.suppression import Rule
from dptrain.study.atomic import write_bytes

FOLDER = "release"
NOTE = "README.md"
WORDS = re.compile(r"[\w.\-]+")
LONG_NUMBER = 8
"""Digits from which on a number cannot be mistaken for another one by chance."""
LONG_NAME = 4
"""Characters from which on an identifier with letters is searched for."""


def release_files(document: Document, rule: Rule, identifiers: Iterable[str]) -> dict[str, bytes]:
    """Name and content of every file of the bundle.

    Raises DisclosureError if the document holds what disclosure control does not know, or a file holds an identifier.
    """
    safe = for_release(document, rule)
    files = {name: text.encode() for name, text in {**render(safe), NOTE: _note(rule)}.items()}
    refuse_identifiers(files, identifiers)
    return files


def write_release(path: Path, document: Document, rule: Rule, identifiers: Iterable[str]) -> None:
    """Write the bundle into `path`/release, and nothing else is left there; raises as `release_files`."""
    folder = path / FOLDER
    try:
        files = release_files(document, rule, identifiers)
    except DisclosureError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for name, content in files.items():
        write_bytes(folder / name, content)
    for old in sorted(folder.rglob("*")):
        if old.is_file() and old.relative_to(folder).as_posix() not in files:
            old.unlink()


def refuse_identifiers(files: Mapping[str, bytes], identifiers: Iterable[str]) -> None:
    """Raise DisclosureError (without saying whose) if a file holds an identifier that cannot be there by chance."""
    wanted = {name for name in identifiers if _is_telling(name)}
    for file, content in files.items():
        words: set[str] = set(WORDS.findall(content.decode("utf-8", "replace")))
        num_found = len(wanted & (words | {part for word in words for part in re.split(r"[.\-_]", word)}))
        if num_found:
            raise DisclosureError(
                f"{file} of the release would hold {num_found} patient identifiers; nothing was released. Names of "
                "groups, labels and settings must not be identifiers."
            )


def _is_telling(identifier: str) -> bool:
    if identifier.isdigit():
        return len(identifier) >= LONG_NUMBER
    return len(identifier) >= LONG_NAME


def _note(rule: Rule) -> str:
    zero = "0 included" if rule.zero_is_small else "0 excepted"
    return f"""# Release: the report under disclosure control

This folder is the study's report as it may leave the house, if those who answer for the data agree. No identifier, no
figure of fewer than {rule.min_count} patients ({zero}) and nothing from which one could be worked out is in it;
“{rule.words}” is printed in place of such a figure. Against whom this protects, what remains possible and what must
be looked at by a person is in docs/disclosure.md of dptrain.

One release per study: whoever gets two, made with other rules, other arms or other patients, can subtract them.
"""
