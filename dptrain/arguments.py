"""Arguments of commands that take no Hydra settings: argparse that speaks the way the rest of dptrain does."""

from __future__ import annotations

import argparse
from typing import NoReturn

from dptrain.errors import ConfigError


class ArgumentParser(argparse.ArgumentParser):
    """No abbreviations; what is wrong with the arguments is a ConfigError."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. `{self.prog} --help` shows what there is.")
