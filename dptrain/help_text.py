"""What `dptrain --help` and `dptrain COMMAND --help` print: the commands, and the groups of settings in `conf/`."""

from __future__ import annotations

import textwrap

from dptrain.conf_dir import config_dir

NOT_SETTINGS = ("hydra", "policy")
"""Folders of conf/ that no study is set by: launchers, and the policies of `dptrain gate`."""
WIDTH = 100


def help_text(description: str) -> str:
    """All commands and groups. `description` is the top of the room `cli`, whose indented lines list the commands."""
    commands = [line for line in description.splitlines() if line.startswith("    dptrain")]
    lines = [
        "dptrain: how surely could an attacker tell that a patient was in the training set, and what does differential",
        "privacy cost to bring that down?",
        "",
        "Commands (dptrain COMMAND --help tells more):",
        "",
        *(line[2:] for line in commands),
        "",
        "Without a command, settings of the form name=value make a study; -m sweeps over lists. Groups of settings:",
        "",
    ]
    alone = []
    for folder in sorted(path for path in config_dir().iterdir() if path.is_dir() and path.name not in NOT_SETTINGS):
        options = sorted(file.stem for file in folder.glob("*.yaml"))
        indented = f"  {folder.name + '=':<12}"
        if options == ["default"]:
            alone.append(f"{folder.name}.*")
        else:
            lines += textwrap.wrap(f"{indented}{', '.join(options)}", WIDTH, subsequent_indent=" " * len(indented))
    policies = ", ".join(sorted(file.stem for file in (config_dir() / "policy").glob("*.yaml")))
    return "\n".join(
        [
            *lines,
            f"  and {', '.join(alone)}",
            "",
            f"Policies for --policy: {policies}, or a file.",
            f"Every setting with its value: dptrain --cfg job. What they mean: the files in {config_dir()}.",
        ]
    )


def command_help(command: str, usage: str, description: str) -> str:
    """A command that takes settings: its line in the list, an example, and where the settings are."""
    lines = [line.strip() for line in description.splitlines() if line.startswith(f"    dptrain {command} ")]
    told = [line.split("   ")[-1].strip() for line in lines]
    return "\n".join(
        [
            f"usage: {usage.strip()}",
            "",
            *told,
            *(["Settings as of a study: dptrain --help lists groups, dptrain --cfg job all."] if "=" in usage else []),
        ]
    )
