"""Commands in the guides to data and networks are settings that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dptrain.cli import compose
from dptrain.options import parse_options, parse_parts
from tests.cohorts.test_conf import OPTIONS

ROOT = Path(__file__).resolve().parents[2]


def commands() -> list[str]:
    """The studies in the guides' blocks that need no settings file; without those that leave something out (`...`)."""
    found = []
    for page in ("data", "models"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if line.startswith("dptrain ") and " ... " not in line]
    return [line for line in found if "--config-dir" not in line and "dptrain constants" not in line]


def test_there_is_an_example_of_every_data_set() -> None:
    named = set(re.findall(r"data=(\w+)", " ".join(commands())))
    assert set(OPTIONS) - {"breast_cancer"} <= named


@pytest.mark.parametrize("command", commands())
def test_the_settings_of_a_command_exist(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word != "-m" and "=" in word]
    words = [re.sub(r"^(privacy\.epsilon=[^,]*),.*", r"\1", word) for word in words]
    config = compose(words)
    entry = OPTIONS[config.data.name]
    if isinstance(entry, tuple):
        parse_parts(entry, config.data.options, "data")
    else:
        parse_options(entry, config.data.options, "data")


def test_the_settings_files_of_the_guide_are_understood(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    files = re.findall(r"^```yaml\n# settings/data/(\w+)\.yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert {name for name, _ in files} == {"films", "mortality"}
    (tmp_path / "data").mkdir()
    for name, content in files:
        (tmp_path / "data" / f"{name}.yaml").write_text(content)
        data = compose([f"hydra.searchpath=[{tmp_path.as_uri()}]", f"data={name}"]).data
        owners = OPTIONS[data.name]
        parsed = parse_parts(owners if isinstance(owners, tuple) else (owners,), data.options, "data")
        assert data.nominal_patients is not None
        assert parsed
