"""The command line; the only room that imports hydra.

    dptrain -m privacy.epsilon=8,3,1,inf     the study: arms, attacks, chart (inf = without DP)
    dptrain -m privacy.target=tpr privacy.tpr=0.02,0.05   the same with caps on attacks instead of epsilons
    dptrain privacy.epsilon=3                one arm and what it is compared with
    dptrain status STUDY                     what is there and what is missing
    dptrain report STUDY                     redraw everything from the folder, with pages for the house and for release
    dptrain board STUDY [STUDY ...]          TensorBoard with the arms of all these studies, on this machine only
    dptrain patient STUDY < identifiers      rows of the restricted table, for who holds the key of the pseudonyms
    dptrain gate STUDY --policy strict       does it meet a declared risk appetite? exit code 0, 1 or 2
    dptrain train privacy.epsilon=3          the model to release, with its privacy statement
    dptrain card RELEASE                     write its model card again, with other texts or another study
    dptrain screen                           a first answer from one training: whom to look at first
    dptrain check privacy.epsilon=3 ...      is a private step of this model, loss and data what is accounted?
    dptrain constants data=table ...         write down scaling constants for a new table (or data=meds)
    dptrain attack FILE.npz                  audit models that some other trainer made, from saved logits
    dptrain plan privacy.epsilon=8,3 ...     what a study costs and what it can show, before it is begun
    dptrain account --sampling-rate ...      epsilon, caps on attacks and patient-level epsilon of a mechanism

`--config-dir FOLDER` beside any of them adds a folder of your own settings files, laid out like `conf/`.

Hydra composes `conf/` and runs the sweep. Before it starts, every setting (every swept value too) is checked, so a
sweep with a typing error in its last value fails before its first training.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dptrain.cli.commands import COMMANDS, WITH_FLAGS
from dptrain.cli.composition import compose, from_hydra
from dptrain.cli.console import configure_logging, print_problems
from dptrain.cli.early import check_early
from dptrain.cli.job import run_job
from dptrain.cli.sweeps import as_shards, refuse_lists
from dptrain.conf_dir import config_dir
from dptrain.errors import ConfigError, DptrainError
from dptrain.help_text import command_help, help_text
from dptrain.options import near_miss

__all__ = ["main", "COMMANDS", "with_own_settings", "compose", "check_early", "as_shards", "configure_logging"]

log = logging.getLogger(__name__)
_failures: list[str] = []
HELP = ("--help", "-h", "help")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0 only if everything that was asked for is there."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _failures.clear()
    configure_logging()
    try:
        if arguments and arguments[0] in HELP:
            print(help_text(__doc__ or ""))
            return
        arguments = with_own_settings(arguments)
        command = COMMANDS.get(arguments[0]) if arguments else None
        if command is not None and command not in WITH_FLAGS and set(HELP) & set(arguments[1:]):
            print(command_help(arguments[0], command.__doc__ or "", __doc__ or ""))
        elif command is not None:
            command(arguments[1:])
        else:
            run_sweep(arguments)
    except DptrainError as error:
        print_problems(error)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Stopped. Finished models are kept; the same command goes on from there.", file=sys.stderr)
        sys.exit(130)
    if _failures:
        print(f"{len(_failures)} run(s) failed: {', '.join(_failures)}. See the messages above.", file=sys.stderr)
        sys.exit(1)


def with_own_settings(arguments: list[str]) -> list[str]:
    """`--config-dir DIR` as a setting that every command understands: a folder of the user's own files like `conf/`.

    Raises ConfigError if DIR is missing or no folder.
    """
    rest: list[str] = []
    folders: list[str] = []
    values = iter(arguments)
    for argument in values:
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            name = value if equals else next(values, "")
            if not name or not Path(name).is_dir():
                raise ConfigError(f"{flag} {name}: not a folder. Give a folder with files like those in conf/.")
            quoted = str(Path(name).absolute()).replace("\\", "\\\\").replace('"', '\\"')
            folders.append(f'"{quoted}"')
        else:
            rest.append(argument)
    return [*rest, f"hydra.searchpath=[{','.join(folders)}]"] if folders else rest


def run_sweep(arguments: list[str]) -> None:
    """Hydra's own command line: single runs, `-m` sweeps, `--help`, `--cfg job`, launchers."""
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    unknown = [argument for argument in arguments if "=" not in argument and not argument.startswith(("-", "~", "+"))]
    values = _flag_values(arguments)
    unknown = [argument for argument in unknown if argument not in values]
    if unknown:
        raise ConfigError(
            f"{unknown[0]!r} is neither a command ({', '.join(sorted(COMMANDS))}) nor a setting of the form name=value"
            f"{near_miss(unknown[0], COMMANDS)}. `dptrain --help` shows what there is."
        )
    if not any(
        flag in arguments for flag in ("--help", "-h", "--hydra-help", "--version", "--info", "-i", "--cfg", "-c")
    ):
        if not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments):
            refuse_lists(overrides)
        num_shards = check_early(overrides).fleet.shards
        if num_shards > 1:
            arguments = as_shards(arguments, overrides, num_shards)
    sys.argv = [sys.argv[0], *arguments]
    runner = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_job)
    runner()


def _flag_values(arguments: list[str]) -> set[str]:
    """Values of Hydra's flags that take one, such as `--config-dir DIR`."""
    flags = (
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
        "--package",
        "-p",
        "--cfg",
        "-c",
        "--experimental-rerun",
        "--info",
        "-i",
        "--shell-completion",
        "-sc",
    )
    return {value for flag, value in itertools.pairwise(arguments) if flag in flags}


# Here and not in job.py: Hydra names the job after this module, and jobs that wait on a cluster know it by this name.
def _job(composed: DictConfig) -> None:
    """One run of a sweep: train what is missing, then redraw the chart. May run in a job of a cluster."""
    is_here = HydraConfig.get().runtime.choices.get("hydra/launcher", "basic") == "basic"
    if not is_here:
        configure_logging()
    try:
        run_job(from_hydra(composed))
    except DptrainError as error:
        print_problems(error)
        if not is_here:
            raise
        _failures.append(_asked_for(composed))
    except Exception:
        log.exception("The run with %s failed.", _asked_for(composed))
        raise


def _asked_for(composed: DictConfig) -> str:
    """The run of a sweep as the user would find it in the command."""
    privacy = composed.privacy
    if privacy.get("target") == "tpr":
        return f"privacy.tpr={privacy.tpr} privacy.fpr={privacy.fpr}"
    if privacy.get("target") == "advantage":
        return f"privacy.advantage={privacy.advantage}"
    return f"privacy.epsilon={privacy.epsilon}"
