"""Where the Hydra configuration lies: inside the package in a wheel, beside it in a checkout or an editable install."""

from __future__ import annotations

from pathlib import Path

from dptrain.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
MARKER = "config.yaml"


def config_dir(package: Path = PACKAGE) -> Path:
    """The absolute folder that holds `config.yaml` and its groups.

    `dptrain/conf` (a wheel) comes before `conf` beside the package (a checkout, an editable install). The marker file
    keeps an unrelated folder called `conf` in site-packages from being taken for ours.
    """
    candidates = (package / "conf", package.parent / "conf")
    for folder in candidates:
        if (folder / MARKER).is_file():
            return folder
    looked = " nor ".join(str(folder / MARKER) for folder in candidates)
    raise ConfigError([f"dptrain's configuration is missing: neither {looked} exists. Reinstall dptrain."])
