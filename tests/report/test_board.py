"""TensorBoard over several studies, started by `dptrain board`, looked at in a browser.

`DPTRAIN_SCREENSHOTS=FOLDER` keeps the pictures.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dptrain.errors import ConfigError, StudyError
from dptrain.report import tensorboard
from dptrain.report.board import command, free_port, links_to
from dptrain.report.results import StudyResult
from tests.report.browser import CHROMIUM, Browser

SCATTER = """(() => {
  const found = [];
  const walk = node => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children || []) walk(child);
    if (node.tagName === 'PAPER-TAB' && /scatter/i.test(node.textContent)) found.push(node);
  };
  walk(document.body);
  found.forEach(node => node.click());
  return found.length;
})()"""
TEXT = """(() => {
  const found = [];
  const walk = node => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.childNodes || []) {
      if (child.nodeType === 3 && child.textContent.trim()) found.push(child.textContent.trim());
      else if (!['STYLE', 'SCRIPT', 'TEMPLATE'].includes(child.tagName)) walk(child);
    }
  };
  walk(document.body);
  return found.join(' ');
})()"""


def study(folder: Path) -> Path:
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "study.json").write_text("{}")
    return folder


def test_runs_are_named_by_study_wherever_it_lies(tmp_path: Path) -> None:
    one, two, three = (study(tmp_path / name) for name in ("a/first", "a/second", "b/first"))
    assert links_to([one]) == {"first": one / "tensorboard"}
    assert links_to([tmp_path / "a"]) == {"first": one / "tensorboard", "second": two / "tensorboard"}
    assert links_to([one, tmp_path]) == {
        "a-first": one / "tensorboard", "a-second": two / "tensorboard", "b-first": three / "tensorboard"
    }  # fmt: skip


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is no study, and no folder with studies"):
        links_to([tmp_path])
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="no TensorBoard runs yet"):
        links_to([tmp_path])
    with pytest.raises(ConfigError, match="STUDY"):
        command([], str)


def take_ctrl_c() -> None:
    """As on a terminal, also where these tests run in the background of a shell, which ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def address(result: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`dptrain board` on two studies, in a process of its own; its end is a test too."""
    root = tmp_path_factory.mktemp("studies")
    for name in ("first", "second"):
        tensorboard.write_runs(study(root / name) / "tensorboard", result)
    links = root / "tmp"
    links.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "dptrain", "board", str(root), "--port", str(free_port())],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(links)}, preexec_fn=take_ctrl_c,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("first, second: http://127.0.0.1:")
    yield first.split()[-1]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Stop with Ctrl-C" in process.stdout.read()
    assert not list(links.glob("dptrain-board-*")), "nothing of ours is left"


@pytest.mark.slow
def test_all_arms_of_all_studies_are_runs(address: str) -> None:
    end = time.monotonic() + 60
    names = ("none", "matched", "clip", "eps=3", "study")
    expected = {f"{study}/{name}" for study in ("first", "second") for name in names}
    runs: set[str] = set()
    while runs != expected and time.monotonic() < end:
        with urllib.request.urlopen(f"{address}data/runs", timeout=10) as answer:
            runs = set(json.load(answer))
        time.sleep(0.5)
    assert runs == expected


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    ("tab", "words"),
    [
        ("scalars", ["result/performance_auroc", "result/risk_patient_auc_p99", "training/epsilon_spent"]),
        ("hparams", ["performance", "risk", "1 / epsilon", "Number of matching session groups: 8"]),
        ("custom_scalars", ["Mean and middle 80% of models", "Epsilon spent"]),
        ("images", ["chart", "performance_against_epsilon_spent", "first/study", "second/study"]),
        ("text", ["table", "Patients are taken in groups of 10."]),
    ],
)
def test_tensorboard_as_it_is_seen(address: str, tab: str, words: list[str], tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{address}#{tab}", width=1500, height=1100, settle_s=2)
        end, text = time.monotonic() + 60, ""
        while time.monotonic() < end and not all(word in text for word in words):
            time.sleep(1)
            text = browser.value(TEXT)
        if tab == "hparams":
            assert browser.value(SCATTER) == 1
            time.sleep(2)
        picture = browser.picture(whole=False)
        if "DPTRAIN_SCREENSHOTS" in os.environ:
            folder = Path(os.environ["DPTRAIN_SCREENSHOTS"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"tensorboard-{tab}.png").write_bytes(picture)
        assert [word for word in words if word not in text] == []
        assert len(picture) > 20_000
        assert not browser.foreign_requests()
        assert not browser.complaints
