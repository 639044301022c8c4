"""The page in a real browser: wide and narrow, light and dark, and printed; nothing is asked of any other machine.

`DPTRAIN_SCREENSHOTS=FOLDER` keeps the pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dptrain.report.document import Document
from dptrain.report.page.render import render
from tests.report.browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
TEXT_OF_FIGURE = """[...document.querySelectorAll('figure svg')].filter(svg => svg.getBoundingClientRect().width > 0)
  .flatMap(svg => [...svg.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect(), frame = svg.getBoundingClientRect();
    const scale = frame.width / svg.viewBox.baseVal.width;
    return [text.textContent, box.left - frame.left, frame.right - box.right,
      parseFloat(getComputedStyle(text).fontSize) * scale];
  }))"""
"""Of every text in a visible figure: text, room to the left and to the right edge, height of the font in pixels."""


@pytest.fixture(scope="module")
def page(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, text in render(document).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_as_it_is_seen(page: Path, browser: Browser, width: int, dark: bool) -> None:
    browser.open(page.as_uri(), width=width, dark=dark)
    picture = browser.picture()
    if "DPTRAIN_SCREENSHOTS" in os.environ:
        folder = Path(os.environ["DPTRAIN_SCREENSHOTS"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{width}-{'dark' if dark else 'light'}.png").write_bytes(picture)
    assert picture.startswith(b"\x89PNG")
    assert browser.value("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
    red = browser.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] * 1")
    assert (red < 60) == dark
    assert browser.foreign_requests() == []
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 400])
def test_no_text_of_a_figure_is_cut_off_or_too_small(page: Path, browser: Browser, width: int) -> None:
    browser.open(page.as_uri(), width=width)
    texts = browser.value(TEXT_OF_FIGURE)
    assert len(texts) > 50
    for text, left, right, size in texts:
        assert left > -1, f"{text!r} is cut off on the left"
        assert right > -1, f"{text!r} is cut off on the right"
        assert size > 9, f"{text!r} is {size:.1f} pixels high"


def test_a_request_to_another_machine_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    """The assertion above can fail: a page that loads something is noticed, and so is an error in the console."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://dptrain.invalid/pixel.png"><script>console.error("broken")</script>')
    before = len(browser.requests), len(browser.complaints)
    browser.open(bad.as_uri(), width=400)
    assert browser.foreign_requests() == ["http://dptrain.invalid/pixel.png"]
    assert len(browser.complaints) > before[1]
    del browser.requests[before[0] :], browser.complaints[before[1] :]


def test_the_page_prints(page: Path, browser: Browser) -> None:
    """In print all tables are unfolded and the dark page is light; pages are counted in the PDF."""
    browser.open(page.as_uri(), width=1280, dark=True)
    printed = browser.pdf()
    if "DPTRAIN_SCREENSHOTS" in os.environ:
        (Path(os.environ["DPTRAIN_SCREENSHOTS"]) / "page.pdf").write_bytes(printed)
    assert printed.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 16
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        height = browser.value("Math.min(...[...document.querySelectorAll('table')].map(one => one.offsetHeight))")
        assert height > 10, "a folded table is not printed"
        assert browser.value("getComputedStyle(document.documentElement).getPropertyValue('--paper')") == "#ffffff"
        assert browser.value("getComputedStyle(document.querySelector('.narrow')).display") == "none"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
