"""How to make a study again: its commands and settings, without paths of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dptrain.report.document import Repeat
from dptrain.report.results import StudyResult

FOLDER = "repeat"
"""Beside the pages: what `--config-dir` is pointed at."""


def repeat_of(result: StudyResult, info: Mapping[str, Any], version: str) -> Repeat:
    """`info` is study.json."""
    settings = without_paths(info["settings"])
    return Repeat(
        commands=(
            *_study_commands(result, info),
            "dptrain report STUDY",
        ),
        dptrain=str(info.get("dptrain", version)),
        fingerprint=str(info["fingerprint"]),
        settings=settings,
    )


def _study_commands(result: StudyResult, info: Mapping[str, Any]) -> list[str]:
    """One command per kind of target; `inf` is the arm without privacy."""
    settings = info["settings"]
    data = settings["data"]
    start = f"dptrain --config-dir {FOLDER} -m data={data['name']} model=custom experiment=repeat study.dir=STUDY"
    if without_paths(data) != data:
        start += " data.path=YOUR_COPY"
    epsilons = [f"{arm.target_epsilon:g}" for arm in result.arms if arm.target_epsilon is not None]
    commands = [f"{start} privacy.epsilon={','.join([*epsilons, 'inf'])}"] if epsilons else []
    for arm in result.arms:
        target = arm.target
        if target.target_advantage is not None:
            commands.append(f"{start} privacy.target=advantage privacy.advantage={target.target_advantage:g}")
        elif target.target_tpr is not None:
            commands.append(
                f"{start} privacy.target=tpr privacy.tpr={target.target_tpr:g} privacy.fpr={target.target_fpr:g}"
            )
    return commands or [f"{start} privacy.epsilon=inf"]


def settings_file(settings: Mapping[str, Any]) -> str:
    """A settings file for `--config-dir`: every frozen setting, options of data and model in their places."""
    content = {name: value for name, value in settings.items() if name != "study"}
    for group in ("data", "model"):
        if group in content:
            one = dict(content[group])
            content[group] = {**one, **one.pop("options", {})}
            content[group].pop("options", None)
    head = "# @package _global_\n# Every setting of the study; privacy.epsilon is given on the command line.\n"
    return head + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def without_paths(settings: Any) -> Any:
    """The settings with every value that names a place on a disk left out."""
    if isinstance(settings, Mapping):
        return {
            key: without_paths(value)
            for key, value in settings.items()
            if not (key == "path" or str(key).endswith(("_path", "_dir", "_root", "_file")))
        }
    return [without_paths(one) for one in settings] if isinstance(settings, list) else settings
