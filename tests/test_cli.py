"""The command line as a user types it: bad input, tiny studies, resume."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dptrain import cli
from dptrain.study.folder import StudyFolder

TINY = (
    "fleet.num_models=4",
    "fleet.workers=1",
    "training.num_steps=5",
    "training.private.num_steps=3",
    "attack.num_permutations=20",
    "attack.num_bootstrap=20",
    "study.tensorboard=false",
)


def call(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of `dptrain ARGUMENTS`, in this process."""
    cli._failures.clear()
    code = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["privacy.epsilon=0"], "privacy.epsilon=0.0 must be > 0. For a run without DP use privacy.epsilon=inf."),
        (["privacy.epsilon=-3"], "privacy.epsilon=-3.0 must be > 0"),
        (["privacy.epsilon=abc"], "privacy.epsilon='abc' must be a number > 0"),
        (["-m", "privacy.epsilon=8,3,abc"], "privacy.epsilon='abc' must be a number > 0"),
        (["-m", "privacy.epsilon=8,0"], "privacy.epsilon=0.0 must be > 0"),
        (["fleet.num_models=2"], "fleet.num_models=2 must be even and at least 4"),
        (["fleet.num_models=9"], "fleet.num_models=9 must be even and at least 4"),
        (["privacy.nosuch=1"], "nosuch"),
        (["data=nosuch"], "nosuch"),
        (["model.nosuch=1"], "nosuch"),
        (["privacy.delta=0.01"], "privacy.delta=0.01 must be below 1/399"),
        (["privacy.target=risk"], "privacy.target='risk' must be epsilon, tpr or advantage"),
        (["-m", "privacy.target=tpr", "privacy.tpr=0.05,0.005"], "privacy.tpr=0.005 must be above privacy.fpr=0.01"),
        (["-m", "privacy.target=advantage", "privacy.advantage=0.1,5"], "For 5% write 0.05"),
        (["nonsense"], "'nonsense' is neither a command"),
        (["privacy.epsilom=3"], "privacy.epsilom is not a setting (did you mean 'privacy.epsilon'?)"),
        (["policy=strict"], "name it to dptrain gate or dptrain report, with --policy"),
        (["privacy.epsilon=3,1"], "privacy.epsilon=3,1 names several values. Put -m before the settings"),
        (["stauts", "x"], "(did you mean 'status'?). `dptrain --help` shows what there is."),
        (["data=table", "data.keep={Qualität:ok}"], "data.keep={Qualität:ok} cannot be read. Values with spaces"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: not a folder"),
        (["check", "--config-dir"], "--config-dir : not a folder"),
        (["status"], "takes one study folder"),
        (["report", "/nonexistent"], "is not a study"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, text = call(capsys, *arguments)
    assert code != 0
    assert words in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("study.json"))
    assert not list(tmp_path.rglob("*.npz"))


def test_unwritable_folder(capsys, tmp_path):
    """Root may write everywhere, so the folder is made impossible: its parent is a file."""
    (tmp_path / "file").write_text("kept")
    code, text = call(capsys, "privacy.epsilon=inf", f"study.dir={tmp_path}/file/study")
    assert code != 0
    assert "Cannot write" in text
    assert "choose" in text
    assert "Traceback" not in text
    assert (tmp_path / "file").read_text() == "kept"


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "study"
    cli._failures.clear()
    cli.main(["-m", "privacy.epsilon=8,inf", f"study.dir={folder}", *TINY])
    assert not cli._failures
    return folder


def test_a_sweep_fills_one_study(tiny_study):
    outcome = json.loads((tiny_study / "tradeoff.json").read_text())
    assert [arm["label"] for arm in outcome["arms"]] == ["none", "matched", "clip", "eps=8"]
    for suffix in ("png", "svg", "csv"):
        assert (tiny_study / f"tradeoff.{suffix}").stat().st_size > 0


def test_attack_reports_in_the_form_of_sacro_ml(capsys, tiny_study):
    code, text = call(capsys, "report", str(tiny_study), "--format", "sacro")
    assert code == 0, text
    for label in ("none", "matched", "clip", "eps=8"):
        folder = tiny_study / "report" / "sacro" / label
        (experiment,) = json.loads((folder / "report.json").read_text()).values()
        assert len(experiment["attack_experiment_logger"]["attack_instance_logger"]) == 4
        assert experiment["metadata"]["target_model"] == "mlp"
        target = yaml.safe_load((folder / "target.yaml").read_text())
        assert target["dataset_name"] == "breast_cancer"
        assert len(target["features"]) == 30
    code, text = call(capsys, "report", str(tiny_study), "--format", "pdf")
    assert code == 1
    assert "choose from" in text


def test_the_same_command_again_trains_nothing_and_writes_the_same_bytes(capsys, tiny_study):
    before = (tiny_study / "tradeoff.json").read_bytes()
    blocks = {path: path.stat().st_mtime_ns for path in tiny_study.rglob("*.npz")}
    code, _ = call(capsys, "privacy.epsilon=8", f"study.dir={tiny_study}", *TINY)
    assert code == 0
    assert (tiny_study / "tradeoff.json").read_bytes() == before
    assert blocks == {path: path.stat().st_mtime_ns for path in tiny_study.rglob("*.npz")}


def test_another_configuration_is_refused_with_the_difference(capsys, tiny_study):
    before = (tiny_study / "tradeoff.json").read_bytes()
    code, text = call(capsys, "privacy.epsilon=8", "model.width=5", f"study.dir={tiny_study}", *TINY)
    assert code == 1
    assert "model.width: the study has" in text
    assert "asks for 5" in text
    assert (tiny_study / "tradeoff.json").read_bytes() == before


def test_status_and_report(capsys, tiny_study):
    code, text = call(capsys, "status", str(tiny_study))
    assert code == 0
    assert "eps=8" in text
    assert "complete" in text
    (tiny_study / "tradeoff.svg").unlink()
    code, _ = call(capsys, "report", str(tiny_study))
    assert code == 0
    assert (tiny_study / "tradeoff.svg").exists()


def test_caps_on_attacks_join_a_study_of_epsilons(capsys, tiny_study, tmp_path):
    """A study goes on with another kind of target; what is there is neither refused nor trained again."""
    folder = tmp_path / "study"
    shutil.copytree(tiny_study, folder)
    blocks = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    before = json.loads((folder / "tradeoff.json").read_text())["arms"]
    command = ["-m", "privacy.target=tpr", "privacy.tpr=0.3,0.4", "privacy.fpr=0.1", f"study.dir={folder}", *TINY]
    code, text = call(capsys, *command)
    assert code == 0, text
    outcome = (folder / "tradeoff.json").read_bytes()
    arms = json.loads(outcome)["arms"]
    assert [arm for arm in arms if not arm["label"].startswith("tpr")] == before
    spent = [arm["epsilon"] for arm in arms if arm["epsilon"] is not None]
    assert spent == sorted(spent, reverse=True)
    for tpr in (0.3, 0.4):
        arm = next(arm for arm in arms if arm["label"] == f"tpr={tpr}@fpr=0.1")
        assert arm["target_epsilon"] is None
        assert (arm["target_tpr"], arm["target_fpr"]) == (tpr, 0.1)
        assert arm["noise_multiplier"] > 0
        assert 0.99 * tpr < arm["cap"]["tpr_at_fpr_0.1"] <= tpr
    assert all(path.stat().st_mtime_ns == time for path, time in blocks.items())
    blocks = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    code, text = call(capsys, *command)
    assert code == 0, text
    assert (folder / "tradeoff.json").read_bytes() == outcome
    assert blocks == {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    code, text = call(capsys, "status", str(folder))
    assert code == 0
    assert "tpr=0.3@fpr=0.1 " in text


def test_settings_without_effect_are_named(caplog, tmp_path):
    cli.check_early(["privacy.tpr=0.2", f"study.dir={tmp_path}"])
    assert "privacy.tpr has no effect with privacy.target=epsilon" in caplog.text
    assert "set privacy.target=tpr" in caplog.text
    caplog.clear()
    cli.check_early(["privacy.target=advantage", "privacy.epsilon=3", f"study.dir={tmp_path}"])
    assert "privacy.epsilon has no effect with privacy.target=advantage" in caplog.text
    caplog.clear()
    cli.check_early(["privacy.target=tpr,advantage", "privacy.tpr=0.2", "privacy.advantage=0.2,0.3"])
    assert "has no effect" not in caplog.text
    cli.check_early(["fleet.max_models=64"])
    assert "fleet.max_models has no effect without fleet.num_models=auto" in caplog.text


@pytest.mark.slow
def test_sigkill_in_the_middle_and_the_same_command_give_the_same_bytes(tmp_path):
    """Kill a two-worker study once it has some blocks, start it again, compare with one that was left alone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    tiny = [*TINY, "fleet.workers=2", "fleet.num_models=8", "fleet.block_size=1", "training.num_steps=150"]

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-m", "dptrain", "-m", "privacy.epsilon=8,inf", f"study.dir={folder}", *tiny]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, env=environment, capture_output=True)
    process = subprocess.Popen(command(killed), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(killed.rglob("*.npz"))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in killed.rglob("*.npz")}
    assert 0 < len(done) < 32
    assert not (killed / "tradeoff.json").exists()
    subprocess.run(command(killed), check=True, env=environment, capture_output=True)
    assert (killed / "tradeoff.json").read_bytes() == (whole / "tradeoff.json").read_bytes()
    assert all(path.stat().st_mtime_ns == time for path, time in done.items()), "a finished block was trained twice"


def test_settings_in_a_folder_of_ones_own(capsys, tmp_path, monkeypatch):
    """Column names that the command line's grammar cannot express, in a folder with a space, for every command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my settings" / "data").mkdir(parents=True)
    (tmp_path / "my settings" / "data" / "visits.yaml").write_text(
        "defaults: [table]\n"
        "path: visits.csv\npatient_column: Pat.-Nr.\nlabel_columns: ['Befund: ja/nein']\npositive: ja\n"
        "keep: {Qualität: ok}\nnumeric: {'Alter [Jahre]': {center: 50, scale: 20}}\n"
        "nominal_patients: 28\ndelta: 1e-2\n"
    )
    rows = [f"{i:03d};{'ja' if i % 3 else 'nein'};{'alt' if i % 7 == 0 else 'ok'};{20 + i}" for i in range(60)]
    (tmp_path / "visits.csv").write_text("\n".join(["Pat.-Nr.;Befund: ja/nein;Qualität;Alter [Jahre]", *rows]) + "\n")
    settings = ["data=visits", "fleet.num_models=4", "fleet.workers=1", "training.num_steps=3", "study.dir=here"]
    code, text = call(capsys, "--config-dir", "my settings", "-m", "privacy.epsilon=inf", *settings)
    assert code == 0, text
    assert StudyFolder.open(tmp_path / "here").info["cohort"]["num_patients"] == 51
    code, text = call(capsys, "constants", "--config-dir=my settings", "data=visits")
    assert code == 0, text
    assert "Alter [Jahre]" in text


def test_constants_need_no_settings_of_training(capsys, tmp_path):
    path = tmp_path / "visits.csv"
    path.write_text("patient,age,sick\n" + "".join(f"p{row // 2},{40 + row % 30},{row % 2}\n" for row in range(40)))
    table = ["data=table", f"data.path={path}", "data.patient_column=patient", "data.label_columns=[sick]"]
    code, text = call(capsys, "constants", *table)
    assert code == 0, text
    assert "age:" in text
    code, text = call(capsys, *table, f"study.dir={tmp_path}/study")
    assert code == 1
    assert "data.nominal_patients=None must be a public" in text
    assert "privacy.delta=None must be a number below 1 / number of training patients (set data.delta" in text
