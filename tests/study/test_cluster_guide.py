"""The site example of docs/cluster.md composes and says what it claims."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install dptrain[slurm]")


@pytest.mark.slow
def test_the_site_example_is_a_launcher(tmp_path):
    text = (ROOT / "docs" / "cluster.md").read_text()
    name, content = re.search(r"```yaml\n# site/(\S+)\n(.*?)```", text, re.DOTALL).groups()
    file = tmp_path / "site" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    command = [sys.executable, "-m", "dptrain", "--cfg", "hydra", "-p", "hydra.launcher", "--config-dir", "site"]
    done = subprocess.run(
        [*command, f"hydra/launcher={Path(name).stem}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for line in ("partition: cpu", "cpus_per_task: 16", "name: dptrain", "timeout_min: 1440", "_target_: hydra_"):
        assert line in done.stdout
