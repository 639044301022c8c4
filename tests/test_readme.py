"""The README's commands work: every ```bash block is run, in order, in one empty folder.

    ```bash                     run
    ```bash no-run              shown only (make, pip: the packaging tests and CI run those)
    ```bash needs=FILE          run if FILE is in $DPTRAIN_DATA or in shared/data beside the checkout

`dptrain` in a block is a stand-in that adds settings for tiny studies, so that this takes seconds per command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TINY = (
    "fleet.num_models=4 fleet.workers=1 training.num_steps=20 training.num_evaluations=2 training.private.num_steps=5 "
    "attack.num_permutations=20 attack.num_bootstrap=20"
)
STAND_IN = f"""#!/usr/bin/env bash
case "$1" in
  attack|status|report|gate|constants|version|account|--*) exec "{sys.executable}" -m dptrain "$@" ;;
esac
case " $* " in *data=diabetes130*) set -- "$@" data.max_patients=300 data.delta=1e-3 ;; esac
exec "{sys.executable}" -m dptrain "$@" {TINY}
"""


@dataclass(frozen=True)
class Block:
    line: int
    tags: str
    code: str


def bash_blocks(text: str) -> list[Block]:
    pattern = re.compile(r"^```bash(?P<tags>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        Block(text.count("\n", 0, match.start()) + 1, match["tags"].strip(), match["code"])
        for match in pattern.finditer(text)
    ]


def find_data(name: str) -> Path | None:
    for root in (os.environ.get("DPTRAIN_DATA"), ROOT.parent / "shared" / "data"):
        found = sorted(Path(root).rglob(name)) if root else []
        if found:
            return found[0]
    return None


def run_block(block: Block, folder: Path) -> None:
    tools = folder.parent / "bin"
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"README.md:{block.line}\n{block.code}\n{done.stdout}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working folder with the stand-in for dptrain beside it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    stand_in = tools / "dptrain"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    return work


@pytest.mark.slow
def test_every_block_runs_in_order(folder: Path) -> None:
    blocks = [block for block in bash_blocks(README.read_text("utf-8")) if block.tags == ""]
    assert len(blocks) >= 5
    for block in blocks:
        run_block(block, folder)
    for study in ("breast_cancer-mlp", "just-three", "sepsis"):
        for ending in ("png", "svg", "csv", "json"):
            assert (folder / "studies" / study / f"tradeoff.{ending}").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.data
def test_blocks_that_need_data(folder: Path) -> None:
    blocks = [block for block in bash_blocks(README.read_text("utf-8")) if block.tags.startswith("needs=")]
    assert blocks
    for block in blocks:
        name = block.tags.removeprefix("needs=")
        source = find_data(name)
        if source is None:
            pytest.skip(f"{name} is neither in $DPTRAIN_DATA nor in shared/data beside the checkout")
        (folder / name).symlink_to(source)
        run_block(block, folder)


def test_tags_are_known() -> None:
    for block in bash_blocks(README.read_text("utf-8")):
        assert block.tags in ("", "no-run") or block.tags.startswith("needs="), f"README.md:{block.line}: {block.tags}"


def test_relative_links_and_the_tree_lead_somewhere() -> None:
    text = README.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
    tree = text.split("## Where things are")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        name = line.split()[0]
        folder = ROOT if not line.startswith(" ") else ROOT / "dptrain"
        assert (folder / name).exists(), name


def test_no_machine_paths_registry_hosts_or_promises_in_our_text_files() -> None:
    """What a stranger reads names no machine of ours, no package index, and nothing that is still to be done."""
    files = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "pyproject.toml",
                                      "constraints.txt", ".ci/run")]  # fmt: skip
    files += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "conf").rglob("*.yaml"))
    files += sorted((ROOT / "dptrain").rglob("*.py"))
    hosts = r"pypi\.org|pythonhosted|download\.pytorch|file://"
    forbidden = re.compile(rf"/work/|/opt/|/root/|{hosts}|\bTO" + r"DO\b|\bFIX" + r"ME\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if forbidden.search(line)
    ]
    assert not found
