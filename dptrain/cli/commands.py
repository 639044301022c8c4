"""Commands beside the study itself: each parses little, imports late and prints what its room answers."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from dptrain.cli.composition import compose, compose_data, swept_values
from dptrain.cli.console import print_problems
from dptrain.cli.early import check_early
from dptrain.cli.sweeps import arm_labels
from dptrain.errors import ConfigError, DptrainError, StudyError

log = logging.getLogger(__name__)
CANNOT_JUDGE = 2
"""Exit code of `dptrain gate` when there is no verdict; 1 is a verdict: not met."""


def command_report(arguments: list[str]) -> None:
    """dptrain report STUDY [--min-count N] [--show-zero] [--key FILE]"""
    from dptrain.report.report_command import answer

    print(answer(arguments))


def command_board(arguments: list[str]) -> None:
    """dptrain board STUDY [STUDY ...]"""
    from dptrain.report.board import command

    command(arguments, lambda text: print(text, flush=True))


def command_patient(arguments: list[str]) -> None:
    """dptrain patient STUDY < identifiers"""
    from dptrain.report.patient_command import answer

    print(answer(arguments), end="")


def command_status(arguments: list[str]) -> None:
    """dptrain status STUDY"""
    from dptrain.study.status import status_text

    print(status_text(_one_study(arguments, "status")))


def command_constants(arguments: list[str]) -> None:
    """dptrain constants data=table data.path=... > constants.yaml (or data=meds)"""
    from dptrain.cohorts.constants import fit_constants
    from dptrain.cohorts.meds_constants import fit_meds_constants

    data = compose_data(arguments)
    fit = {"table": fit_constants, "meds": fit_meds_constants}.get(data.name)
    if fit is None:
        raise ConfigError(f"dptrain constants is for data=table and data=meds; data={data.name} brings its constants.")
    print(fit(data), end="")


def command_account(arguments: list[str]) -> None:
    """dptrain account --sampling-rate 0.01 --num-steps 500 --noise-multiplier 1.0 --delta 1e-5"""
    from dptrain.account_command import answer

    print(answer(arguments))


def command_attack(arguments: list[str]) -> None:
    """dptrain attack models.npz --attack lira_online --targets 64 --json"""
    from dptrain.attack_command import answer

    print(answer(arguments))


def command_check(arguments: list[str]) -> None:
    """dptrain check privacy.epsilon=3 model=custom model.name=my_package.my_module:MyNet"""
    from dptrain.check_command import check

    report, table = check(compose(arguments))
    print(table)
    report.check()


def command_screen(arguments: list[str]) -> None:
    """dptrain screen screen.study=studies/breast_cancer-mlp"""
    from dptrain.screen.command import screen

    folder, text = screen(compose(_settings_only(arguments, "screen")))
    print(f"{text}\nEverything is in {folder}")


def command_plan(arguments: list[str]) -> None:
    """dptrain plan [--json] privacy.epsilon=8,3,1,inf fleet.num_models=64"""
    from dptrain.plan_command import as_json, as_table, plan

    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    other = [argument for argument in arguments if argument not in (*overrides, "-m", "--multirun", "--json")]
    if other:
        raise ConfigError(f"dptrain plan takes the settings of a study and --json, not {other[0]!r}.")
    check_early(overrides, write=False)
    values = swept_values(overrides)
    privacy = [each for name, each in values.items() if name.startswith("privacy.")]
    others = itertools.product(*(each for name, each in values.items() if not name.startswith("privacy.")))
    plans = [
        plan(compose([*settings, *(each[0] for each in privacy)]), arm_labels(list(settings), privacy))
        for settings in others
    ]
    print(as_json(plans) if "--json" in arguments else "\n\n".join(map(as_table, plans)))


def command_train(arguments: list[str]) -> None:
    """dptrain train privacy.epsilon=3 release.study=studies/breast_cancer-mlp"""
    from dptrain.release.command import train

    folder = train(compose(_settings_only(arguments, "train")))
    print(f"Model and privacy statement: {folder}")


def _settings_only(arguments: list[str], command: str) -> list[str]:
    """The arguments of a command that makes one model, if all of them are settings."""
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    if len(overrides) < len(arguments):
        other = next(argument for argument in arguments if argument not in overrides)
        raise ConfigError(
            f"dptrain {command} takes settings of the form name=value, not {other!r}. It makes one model."
        )
    return overrides


def command_gate(arguments: list[str]) -> None:
    """dptrain gate STUDY --policy strict --arm eps=3"""
    from dptrain.report.gate import gate

    try:
        passed, text = gate(arguments)
    except DptrainError as error:
        print_problems(error)
        sys.exit(CANNOT_JUDGE)
    except Exception:
        log.exception("Nothing was judged.")
        sys.exit(CANNOT_JUDGE)
    print(text)
    sys.exit(0 if passed else 1)


def command_card(arguments: list[str]) -> None:
    """dptrain card RELEASE --study STUDY --texts card.yaml"""
    from dptrain.release.card_command import card

    print(f"Model card: {card(arguments)}")


def command_version(arguments: list[str]) -> None:
    """dptrain version"""
    from dptrain import __version__

    print(__version__)


def _one_study(arguments: list[str], command: str) -> Path:
    if len(arguments) != 1:
        raise StudyError(f"dptrain {command} takes one study folder, got {len(arguments)}: dptrain {command} STUDY")
    return Path(arguments[0])


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "account": command_account,
    "attack": command_attack,
    "board": command_board,
    "card": command_card,
    "check": command_check,
    "constants": command_constants,
    "gate": command_gate,
    "patient": command_patient,
    "plan": command_plan,
    "report": command_report,
    "screen": command_screen,
    "status": command_status,
    "train": command_train,
    "version": command_version,
}
WITH_FLAGS = (
    command_account, command_attack, command_board, command_card, command_gate, command_patient, command_report
)  # fmt: skip
"""Commands that explain themselves when asked with --help."""
