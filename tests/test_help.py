"""`dptrain --help` names every command and every group of settings, and every command explains itself."""

from __future__ import annotations

import pytest

from dptrain import cli
from dptrain.conf_dir import config_dir
from dptrain.help_text import NOT_SETTINGS


def printed(capsys, *arguments: str) -> str:
    code = None
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    assert not code
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_every_command_and_every_group_is_listed(capsys, flag) -> None:
    text = printed(capsys, flag)
    for command in set(cli.COMMANDS) - {"version"}:
        assert f"  dptrain {command}" in text
    for folder in config_dir().iterdir():
        if folder.is_dir() and folder.name not in NOT_SETTINGS:
            assert f"  {folder.name}=" in text or f"{folder.name}.*" in text
    for option in ("tab_resnet_300x6", "sim_imaging", "few_patients", "strict"):
        assert option in text
    assert "Hydra" not in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_itself_and_does_nothing(capsys, tmp_path, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    text = printed(capsys, command, "--help")
    assert text.startswith(f"usage: dptrain {command}")
    assert not list(tmp_path.iterdir())
