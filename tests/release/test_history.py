"""The list of releases: it only grows, and a change in it shows."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dptrain.errors import StudyError
from dptrain.release.history import append, digest_of_patients, read
from dptrain.release.journal import Journal, last_begun


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "restricted" / "list.jsonl"


def test_lines_are_kept_in_order_for_the_owner_only(path: Path) -> None:
    assert read(path) == []
    for number, event in enumerate(("begun", "continued", "finished")):
        append(path, event, {"run": "a", "step": number})
    assert [(line["event"], line["step"]) for line in read(path)] == [("begun", 0), ("continued", 1), ("finished", 2)]
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match="event='deleted'"):
        append(path, "deleted", {})


@pytest.mark.parametrize("change", ["value", "removed", "first removed", "cut", "swapped", "forged"])
def test_a_change_shows(path: Path, change: str) -> None:
    for number in range(4):
        append(path, "begun", {"run": str(number), "epsilon": 3.0})
    lines = path.read_text().splitlines()
    if change == "value":
        lines[1] = lines[1].replace("3.0", "0.3")
    elif change == "removed":
        del lines[1]
    elif change == "first removed":
        del lines[0]
    elif change == "cut":
        lines[3] = lines[3][:40]
    elif change == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines[1] = json.dumps({**json.loads(lines[1]), "epsilon": 0.3})
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(StudyError, match="changed or cut at line"):
        read(path)
    with pytest.raises(StudyError, match="changed or cut at line"):
        append(path, "begun", {"run": "b"})
    assert path.read_bytes() == before


def test_many_writers_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append(path, "begun", {"run": str(number)}), range(40)))
    assert sorted(int(line["run"]) for line in read(path)) == list(range(40))


def test_patients() -> None:
    assert digest_of_patients(["a", "b"]) == digest_of_patients(["b", "a"])
    assert digest_of_patients(["a", "b"]) != digest_of_patients(["ab"])


@pytest.mark.parametrize(
    ("text", "last"), [("", 0), ("1\n", 1), ("1\n2\n", 2), ("1\n2", 2), ("1\n2\n3\n1", 4), ("1", 1)]
)
def test_a_line_that_was_cut_off_counts_as_begun(tmp_path: Path, text: str, last: int) -> None:
    (tmp_path / "steps.log").write_text(text)
    assert last_begun(tmp_path / "steps.log") == last


def test_a_journal_is_on_disk_before_the_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "restricted" / "steps.log")
    journal.begin(1)
    assert last_begun(tmp_path / "restricted" / "steps.log") == 1
    journal.begin(2)
    journal.close()
    assert last_begun(tmp_path / "restricted" / "steps.log") == 2
