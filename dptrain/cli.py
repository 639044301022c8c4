"""The command line; the only file that imports hydra.

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

import importlib.util
import itertools
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain.conf_dir import config_dir
from dptrain.config import Config, parse_config, parse_data
from dptrain.errors import ConfigError, DptrainError, StudyError
from dptrain.help_text import command_help, help_text
from dptrain.options import near_miss

log = logging.getLogger(__name__)
_failures: list[str] = []
HELP = ("--help", "-h", "help")
CANNOT_JUDGE = 2
"""Exit code of `dptrain gate` when there is no verdict; 1 is a verdict: not met."""


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


def configure_logging() -> None:
    """Plain lines with the time on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dptrain").setLevel(logging.INFO)
    # dp-accounting logs every RDP order that it drops; the order that is used is not among them.
    logging.getLogger("absl").setLevel(logging.ERROR)


def print_problems(error: DptrainError) -> None:
    """Every problem on its own line, no traceback."""
    for problem in error.problems:
        print(f"error: {problem}" if not problem.startswith(" ") else problem, file=sys.stderr)


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


def swept_values(overrides: list[str]) -> dict[str, list[str]]:
    """`name=value` for each value of every setting, by name; raises ConfigError if Hydra cannot read one."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_unreadable(error)) from error
    values: dict[str, list[str]] = {}
    for override in parsed:
        name = override.get_key_element()
        if override.is_sweep_override() and override.is_discrete_sweep():
            values[name] = [f"{name}={value}" for value in override.sweep_string_iterator()]
        elif override.input_line is not None:
            values[name] = [override.input_line]
    return values


def refuse_lists(overrides: list[str]) -> None:
    """Raises ConfigError for settings with several values where none of them is swept over."""
    lists = [f"{name}={','.join(value.partition('=')[2] for value in values)}"
             for name, values in swept_values(overrides).items() if len(values) > 1]  # fmt: skip
    if lists:
        raise ConfigError(
            [f"{one} names several values. Put -m before the settings: dptrain -m {one}" for one in lists]
        )


def check_early(overrides: list[str], write: bool = True) -> Config:
    """Check all settings, and each value of a sweep with the others at their first, and, with `write`, that the study's
    folder can be written; raises ConfigError. Returns the configuration with all at their first."""
    values = swept_values(overrides)
    first = [each[0] for each in values.values()]
    variants = [[value] for each in values.values() for value in each[1:]]
    problems: list[str] = []
    configs: list[Config] = []
    for extra in [[], *variants]:
        try:
            config = compose(first + extra)
            configs.append(config)
            check_launcher(overrides)
            if write:
                check_folder(Path(config.study.dir))
        except DptrainError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    warn_of_ignored(set(values), {config.privacy.target for config in configs})
    if all(config.fleet.num_models for config in configs):
        for name in sorted(set(values) & {"fleet.headline", "fleet.headline_width", "fleet.max_models"}):
            log.warning("%s has no effect without fleet.num_models=auto.", name)
    return configs[0]


def check_launcher(overrides: list[str]) -> None:
    """Raise ConfigError if a launcher was asked for whose package is not there."""
    for launcher, module, package in (
        ("submitit", "hydra_plugins.hydra_submitit_launcher", "dptrain[slurm]"),
        ("ray", "hydra_plugins.hydra_ray_launcher", "hydra-ray-launcher"),
    ):
        asked = [item for item in overrides if item.startswith(f"hydra/launcher={launcher}")]
        if asked and importlib.util.find_spec(module) is None:
            raise ConfigError(f"{asked[0]} needs a package that is not installed: pip install '{package}'.")


def as_shards(arguments: list[str], overrides: list[str], num_shards: int) -> list[str]:
    """Arguments of a sweep over shards: each brings all arms of the study to completion, together with the others.

    Whatever is swept below `privacy` becomes the list of arms; other sweeps (over models, say) remain. Raises
    ConfigError if they ask for different arms.
    """
    if not any(item.startswith("hydra/launcher=") for item in overrides):
        log.warning(
            "fleet.shards=%d without hydra/launcher=... runs one shard after another. On one machine fleet.workers "
            "uses all cores; docs/cluster.md has the rest.",
            num_shards,
        )
    values = swept_values(overrides)
    privacy = [each for name, each in values.items() if name.startswith("privacy.")]
    others = [each for name, each in values.items() if not name.startswith("privacy.")]
    first = [each[0] for each in others]
    found = [arm_labels(first + [value], privacy) for each in others for value in each[1:]]
    labels = arm_labels(first, privacy)
    if any(other != labels for other in found):
        raise ConfigError(
            "fleet.shards needs the same arms everywhere in a sweep, and some of its values ask for others. Start one "
            "sweep for each of them."
        )
    quoted = ",".join(f'"{label}"' for label in labels)
    flags = [argument for argument in arguments if argument not in overrides]
    return [
        *flags,
        *([] if {"-m", "--multirun"} & set(flags) else ["-m"]),
        *(item for item in overrides if not item.startswith("privacy.")),
        *(each[0] for each in privacy),
        f"fleet.arms=[{quoted}]",
        f"fleet.shard={','.join(map(str, range(num_shards)))}",
    ]


def arm_labels(settings: list[str], privacy: list[list[str]]) -> list[str]:
    """Labels of the arms of all combinations of the swept settings `privacy`, in the order of every table."""
    from dptrain.training.arms import arms_of_run

    arms = {
        arm.label: arm
        for combination in itertools.product(*privacy)
        for arm in arms_of_run(compose([*settings, *combination]).privacy)
    }
    return sorted(arms, key=lambda label: arms[label].sort_key)


def _unreadable(error: Exception) -> str:
    """What Hydra says; for settings that its grammar cannot read, the way out as well."""
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown is not None:
        return _no_setting(unknown[1])
    if not isinstance(error, OverrideParseException):
        return str(error)
    return (
        f"{error.override} cannot be read. Values with spaces or punctuation need quotes inside the shell's quotes, as "
        "in 'data.label_columns=[\"Result (y/n)\"]'. Keys of {...} cannot be quoted: put such settings into a file of "
        "your own and name its folder with --config-dir (docs/data.md)."
    )


def _no_setting(name: str) -> str:
    """A setting that does not exist, and the one that was probably meant."""
    if name == "policy":
        return "A study has no policy: name it to dptrain gate or dptrain report, with --policy."
    known = _names(OmegaConf.to_container(hydra.compose("config")))
    return f"{name} is not a setting{near_miss(name, known)}. `dptrain --cfg job` prints all of them."


def _names(settings: Any, before: str = "") -> list[str]:
    """Names of all settings, groups before what is in them."""
    if not isinstance(settings, dict):
        return []
    found = []
    for key, value in settings.items():
        found += [f"{before}{key}", *_names(value, f"{before}{key}.")]
    return found


TARGET_OF = {
    "privacy.epsilon": "epsilon",
    "privacy.tpr": "tpr",
    "privacy.fpr": "tpr",
    "privacy.advantage": "advantage",
}
"""Settings that are read only for one value of privacy.target."""


def warn_of_ignored(names: set[str], targets: set[str]) -> None:
    """Say which of the settings given on the command line have no effect with these values of privacy.target."""
    for name in sorted(names & TARGET_OF.keys()):
        if TARGET_OF[name] not in targets:
            log.warning(
                "%s has no effect with privacy.target=%s. Leave it out, or set privacy.target=%s.",
                name,
                ",".join(sorted(targets)),
                TARGET_OF[name],
            )


def compose(overrides: list[str]) -> Config:
    """The configuration of one run, checked."""
    return from_hydra(_composed(overrides))


def _composed(overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            kept = [item for item in overrides if not item.startswith("hydra") or item.startswith("hydra.searchpath=")]
            composed = hydra.compose("config", kept)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_unreadable(error)) from error
    return composed


def from_hydra(composed: DictConfig) -> Config:
    """Plain dictionaries out of Hydra's, then our own schema."""
    return parse_config(_plain(composed))


def _plain(composed: DictConfig) -> dict[str, Any]:
    """The resolved configuration without Hydra's own part."""
    try:
        raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    raw.pop("hydra", None)
    assert isinstance(raw, dict)
    return raw


def check_folder(path: Path) -> None:
    """A study folder must be creatable before Hydra or a training writes anything."""
    from dptrain.study.atomic import probe_folder

    probe_folder(path)


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


def run_job(config: Config) -> None:
    """The whole job of one configuration."""
    from dptrain.plan_command import opening_line
    from dptrain.progress import format_duration
    from dptrain.report.enough import headline_widths
    from dptrain.report.write import write_report
    from dptrain.study.drawing import draw_once, last_drawing
    from dptrain.study.runner import run_study

    start, drawn = time.monotonic(), last_drawing(Path(config.study.dir))
    study = run_study(config, headline_widths, lambda study, missing: log.info(opening_line(study, config, missing)))
    key_file = None if config.study.key_file is None else Path(config.study.key_file)

    def draw() -> None:
        write_report(study.path, tensorboard_runs=config.study.tensorboard, key_file=key_file)

    draw_once(study, drawn, draw, is_shard=config.fleet.shards > 1)

    log.info(
        "Study %s is up to date after %s. Chart: %s",
        config.study.name,
        format_duration(time.monotonic() - start),
        study.path / "tradeoff.png",
    )


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

    data = parse_data(_plain(_composed(arguments)))
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
