"""`dptrain train`: a release is made once, continued after a kill without drawing noise again, or refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import dptrain
from dptrain import cli
from dptrain.cohorts.registry import load_cohort
from dptrain.privacy.secure_random import SecureStream
from dptrain.release import history, plan, run
from dptrain.release.model_file import load_model
from dptrain.training.fleet import predict
from dptrain.training.utility import auroc

STEPS = 12


class Killed(BaseException):
    """Ends a run where a kill would."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "release"


def call(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `dptrain train ARGUMENTS`."""
    code = 0
    try:
        steps = f"training.private.num_steps={STEPS}"
        cli.main(["train", "privacy.epsilon=3", steps, "release.dir=release", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


def at_step(monkeypatch, step: int, act: Callable[[], None]) -> None:
    """Call `act` in the middle of a step of this process: its noise is used, its result is not stored."""
    original = run.private_steps

    def steps(*arguments):
        inner = original(*arguments)
        count = {"steps": 0}

        def one_step() -> float:
            count["steps"] += 1
            loss = inner()
            if count["steps"] == step:
                act()
            return loss

        return one_step

    monkeypatch.setattr(run, "private_steps", steps)


def die() -> None:
    raise Killed


def killed_run(capsys, monkeypatch, step: int, *arguments: str) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, step, die)
        with pytest.raises(Killed):
            call(capsys, *arguments)


def journal(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "restricted" / "steps.log").read_text().split()]


def statement(folder: Path) -> dict:
    return json.loads((folder / "statement.json").read_text())


def test_a_release_is_whole_and_its_model_is_the_one_that_was_measured(capsys, folder):
    code, text = call(capsys)
    assert code == 0, text
    stated = statement(folder)
    assert stated["epsilon"] == pytest.approx(3, rel=0.01)
    assert stated["void"] == []
    assert journal(folder) == list(range(1, STEPS + 1))
    cohort = load_cohort(cli.compose([]).data, 0)
    model = load_model(folder)
    assert not model.training
    test = cohort.is_test[cohort.patient]
    measured = auroc(predict(model, torch.from_numpy(cohort.features))[test], cohort.labels[test], "binary")
    assert stated["utility"]["all"]["value"] == pytest.approx(measured, abs=1e-4)
    assert not (folder / "restricted" / "checkpoint.pt").exists()
    for path in (folder / "restricted").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    events = [line["event"] for line in history.read(Path("releases/restricted/breast_cancer.jsonl"))]
    assert events == ["begun", "finished"]


def test_nothing_that_leaves_names_a_patient_or_a_path(capsys, tmp_path, folder):
    rng = np.random.default_rng(0)
    rows = [f"mrn-{row // 2:05d},{40 + rng.integers(50)},{'fm'[row // 2 % 2]},{rng.integers(2)}" for row in range(400)]
    (tmp_path / "visits.csv").write_text("patient,age,sex,sick\n" + "\n".join(rows) + "\n")
    code, text = call(
        capsys, "data=table", "data.path=visits.csv", "data.patient_column=patient", "data.label_columns=[sick]",
        "data.group_columns=[sex]", "data.numeric={age:{center:60,scale:20}}", "data.nominal_patients=140",
        "data.delta=1e-3",
    )  # fmt: skip
    assert code == 0, text
    for path in folder.iterdir():
        if path.is_file():
            content = path.read_bytes()
            assert b"mrn-" not in content
            assert str(tmp_path).encode() not in content
            assert b"visits.csv" not in content
    stated = statement(folder)
    assert set(stated["utility"]["groups"]["sex"]) == {"f", "m"}
    assert "140" not in json.dumps(stated["utility"])


def test_the_same_command_again_trains_nothing(capsys, folder):
    call(capsys)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, text = call(capsys)
    assert code == 0
    assert "release" in text
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("averaging", ["0", "0.5"])
def test_a_killed_run_goes_on_with_fresh_noise_and_never_more_steps(capsys, monkeypatch, folder, averaging):
    drawn: list[bytes] = []
    normal = SecureStream.normal

    def watched(self, size):
        values = normal(self, size)
        drawn.append(values.tobytes())
        return values

    monkeypatch.setattr(SecureStream, "normal", watched)
    options = (f"training.private.averaging={averaging}", "release.max_lost_fraction=0.2")
    killed_run(capsys, monkeypatch, 5, *options)
    killed_run(capsys, monkeypatch, 3, *options)
    code, text = call(capsys, *options)
    assert code == 0, text
    assert journal(folder) == list(range(1, STEPS + 1))
    stated = statement(folder)
    lost = stated["mechanism"]["num_lost_steps"]
    assert stated["mechanism"]["num_processes"] == 3
    assert lost == 2
    ledger = json.loads((folder / "restricted" / "ledger.json").read_text())
    assert ledger["num_steps"] + lost == STEPS
    assert len(set(drawn)) == len(drawn)
    assert "continued 2 times with fresh noise" in (folder / "statement.md").read_text()
    events = [line["event"] for line in history.read(Path("releases/restricted/breast_cancer.jsonl"))]
    assert events == ["begun", "continued", "continued", "finished"]


def test_too_many_lost_steps_are_refused_unless_asked_for(capsys, monkeypatch, folder):
    options = ("release.checkpoint_overhead=0",)
    killed_run(capsys, monkeypatch, 6, *options)
    code, text = call(capsys, *options)
    assert code == 1
    assert "6 of 12 steps were begun and lost" in text
    assert "release.max_lost_fraction=0.5" in text
    assert journal(folder) == [1, 2, 3, 4, 5, 6]
    code, text = call(capsys, *options, "release.max_lost_fraction=0.5")
    assert code == 0, text
    assert statement(folder)["mechanism"]["num_lost_steps"] == 6


def test_a_stop_signal_loses_nothing(capsys, monkeypatch, folder):
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        code, text = call(capsys, "release.checkpoint_overhead=0")
    assert code == 1
    assert "Stopped after step 4 of 12" in text
    code, text = call(capsys, "release.checkpoint_overhead=0")
    assert code == 0, text
    assert statement(folder)["mechanism"]["num_lost_steps"] == 0


def test_a_folder_put_back_from_a_backup_is_refused(capsys, monkeypatch, folder, tmp_path):
    killed_run(capsys, monkeypatch, 5)
    shutil.copytree(folder, tmp_path / "backup")
    killed_run(capsys, monkeypatch, 3)
    call(capsys)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    code, text = call(capsys)
    assert code == 1
    assert "put back from an older copy" in text
    assert not (folder / "statement.json").exists()


def test_an_older_journal_is_refused(capsys, monkeypatch, folder):
    killed_run(capsys, monkeypatch, 8)
    (folder / "restricted" / "steps.log").write_text("1\n")
    code, text = call(capsys)
    assert code == 1
    assert "not from the same moment" in text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("checkpoint.pt", b"no checkpoint", "checkpoint"),
        ("steps.log", b"1\ntwo\n", "damaged"),
    ],
)
def test_damage_is_refused(capsys, monkeypatch, folder, name, content, words):
    killed_run(capsys, monkeypatch, 5)
    (folder / "restricted" / name).write_bytes(content)
    code, text = call(capsys)
    assert code == 1
    assert words in text
    assert "Traceback" not in text


def test_another_configuration_is_refused_with_the_difference(capsys, monkeypatch, folder):
    killed_run(capsys, monkeypatch, 5)
    code, text = call(capsys, "model.width=8")
    assert code == 1
    assert "model.width: the study has" in text or "model.width" in text
    code, text = call(capsys, "privacy.epsilon=2")
    assert code == 1
    assert "mechanism.noise_multiplier" in text
    assert journal(folder) == [1, 2, 3, 4, 5]


def test_a_folder_with_other_things_is_left_alone(capsys, folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("kept")
    code, text = call(capsys)
    assert code == 1
    assert "thesis.tex" in text
    assert sorted(path.name for path in folder.iterdir()) == ["thesis.tex"]


def test_what_ran_and_was_not_accounted_has_no_epsilon_and_no_model(capsys, monkeypatch, folder):
    """The noise is switched off behind everybody's back: the ledger finds it in the gradients."""
    monkeypatch.setattr(SecureStream, "normal", lambda self, size: np.zeros(size))
    code, text = call(capsys)
    assert code == 1
    assert "The noise found in the gradients has standard deviation" in text
    stated = statement(folder)
    assert stated["epsilon"] is None
    assert stated["accounting"]["epsilon"] is None
    assert "epsilon" not in stated["tuning"]
    assert stated["void"]
    assert not (folder / "model.safetensors").exists()
    assert "(epsilon, delta) =" not in (folder / "statement.md").read_text()
    code, again = call(capsys)
    assert code == 1
    assert "has no epsilon" in again
    events = [line["event"] for line in history.read(Path("releases/restricted/breast_cancer.jsonl"))]
    assert events == ["begun", "void"]


def test_an_epsilon_of_another_mechanism_is_void(capsys, monkeypatch, folder):
    original = plan.build_mechanism

    def flattering(*arguments):
        mechanism, accounting = original(*arguments)
        return mechanism, {**accounting, "epsilon": 0.1}

    monkeypatch.setattr(plan, "build_mechanism", flattering)
    code, text = call(capsys)
    assert code == 1
    assert "epsilon=0.1 is recorded" in text
    assert statement(folder)["epsilon"] is None


def test_no_training_after_a_failed_preflight(capsys, folder, monkeypatch):
    """A user's network whose forward pass mixes records."""
    source = Path("mixing_net.py")
    source.write_text(
        "from torch import nn\n"
        "class Mixing(nn.Module):\n"
        "    def __init__(self, input_shape, num_outputs):\n"
        "        super().__init__()\n"
        "        self.norm = nn.BatchNorm1d(input_shape[0], affine=False)\n"
        "        self.linear = nn.Linear(input_shape[0], num_outputs)\n"
        "    def forward(self, x):\n"
        "        return self.linear(self.norm(x))\n"
    )
    monkeypatch.syspath_prepend(str(source.parent.resolve()))
    code, text = call(capsys, "model=custom", "model.name=mixing_net:Mixing")
    assert code == 1
    assert "BatchNorm" in text or "batch" in text
    assert not (folder / "restricted" / "steps.log").exists()
    assert not Path("releases/restricted/breast_cancer.jsonl").exists()


def test_bad_settings(capsys, folder):
    for arguments, words in (
        (["privacy.epsilon=inf"], "without privacy"),
        (["-m"], "not '-m'"),
        (["release.num_runs=0"], "release.num_runs=0.0 must be at least 1"),
        (["release.num_runs=2.5"], "whole number"),
        (["release.selection=lucky"], "fixed, geometric or poisson"),
        (["release.study=nowhere"], "no readable tradeoff.json"),
        (["privacy.delta=0.01"], "must be below 1/399"),
    ):
        code, text = call(capsys, *arguments)
        assert code == 1
        assert words in text
        assert not folder.exists()


def test_earlier_releases_and_tuning_add_up(capsys, folder):
    call(capsys)
    code, text = call(capsys, "release.dir=second", "release.num_runs=3")
    assert code == 0, text
    stated = statement(Path("second"))
    assert [run["state"] for run in stated["earlier_releases"]["runs"]] == ["finished"]
    assert stated["earlier_releases"]["epsilon_of_all"] > stated["epsilon"] * 1.3
    assert stated["tuning"]["epsilon"] > stated["earlier_releases"]["epsilon_of_all"]


def test_all_patients(capsys, folder):
    code, text = call(capsys, "release.hold_out=false")
    assert code == 0, text
    stated = statement(folder)
    assert stated["utility"] is None
    assert stated["mechanism"]["divisor"] == pytest.approx(570)
    ledger = json.loads((folder / "restricted" / "ledger.json").read_text())
    assert ledger["num_eligible"] == 569


def test_record_unit_states_what_it_means_for_patients(capsys, folder):
    code, text = call(capsys, "privacy.unit=record", "training.private.sampling_rate=0.5")
    assert code == 0, text
    table = statement(folder)["unit"]["patient_epsilon"]
    assert table["1"] == pytest.approx(3, rel=0.02)
    assert table["2"] > 1.4 * table["1"]
    assert "| 2 |" in (folder / "statement.md").read_text()


@pytest.mark.slow
def test_sigkill_and_the_same_command_again(folder, tmp_path):
    command = [
        sys.executable, "-m", "dptrain", "train", "privacy.epsilon=3", "training.private.num_steps=3000",
        "release.dir=release", "release.max_lost_fraction=0.5",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(dptrain.__file__).parents[1])}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline and not (
        (folder / "restricted" / "steps.log").exists() and len(journal(folder)) > 200
    ):
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert len(journal(folder)) < 3000
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert journal(folder) == list(range(1, 3001))
    assert statement(folder)["void"] == []
