"""`dptrain gate` on a real, tiny study: exit codes, the verdict file, and what cannot be judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dptrain import cli
from dptrain.errors import ConfigError
from dptrain.report import gate as gate_module
from dptrain.report import report_command
from dptrain.report.analysis import analyse
from dptrain.report.contradictions import GuaranteeRefuted
from dptrain.report.policy import load_policy
from dptrain.report.write import withdraw
from dptrain.study.folder import StudyFolder

TINY = ("fleet.num_models=4", "fleet.workers=1", "training.num_steps=5", "training.private.num_steps=3",
        "attack.num_permutations=20", "attack.num_bootstrap=20", "study.tensorboard=false",
        "baseline.num_models=0", "privacy.controls=false")  # fmt: skip
LAX = "privacy: {unit: patient, max_epsilon: 10, checked: true}\nperformance: {min_utility: 0.1}\n"


def call(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["gate", *arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "study"
    cli._failures.clear()
    cli.main(["-m", "privacy.epsilon=8,3", f"study.dir={folder}", *TINY])
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "study")


@pytest.fixture
def lax(tmp_path: Path) -> str:
    (tmp_path / "lax.yaml").write_text(LAX)
    return str(tmp_path / "lax.yaml")


def test_met_is_0_and_the_verdict_is_written(capsys, study, lax):
    code, text = call(capsys, str(study), "--policy", lax)
    assert code == 0
    assert "gate: PASS (eps=8, eps=3)" in text
    verdict = json.loads((study / "verdict.json").read_text())
    assert verdict["passed"] is True
    assert [arm["label"] for arm in verdict["arms"]] == ["eps=8", "eps=3"]
    assert verdict["policy"]["privacy"]["max_epsilon"] == 10
    for rule in verdict["arms"][0]["rules"]:
        assert rule["words"] in text


def test_not_met_is_1(capsys, study):
    code, text = call(capsys, str(study), "--policy", "strict", "--arm", "eps=3")
    assert code == 1
    assert "gate: FAIL (eps=3)" in text
    verdict = json.loads((study / "verdict.json").read_text())
    failed = {rule["rule"]: rule["outcome"] for rule in verdict["arms"][0]["rules"] if not rule["passed"]}
    assert failed["power.min_models"] == "too_few"
    assert failed["risk.max_share"] == "too_few"
    assert failed["groups.max_higher"] == "missing"


def test_one_arm_that_fails_is_enough(capsys, study, tmp_path):
    (tmp_path / "four.yaml").write_text("privacy: {max_epsilon: 4}")
    assert call(capsys, str(study), "--policy", str(tmp_path / "four.yaml"), "--arm", "eps=3")[0] == 0
    assert call(capsys, str(study), "--policy", str(tmp_path / "four.yaml"))[0] == 1


def test_the_arm_without_privacy_can_be_asked_about(capsys, study, lax):
    code, text = call(capsys, str(study), "--policy", lax, "--arm", "none")
    assert code == 1
    assert "no epsilon protects a patient" in text
    assert "no record of preflight and ledger" in text


def test_no_limits_is_said(capsys, study):
    code, text = call(capsys, str(study), "--policy", "none")
    assert code == 0
    assert "a pass says nothing about risk" in text


def test_the_figures_come_from_the_folder_not_from_a_table(capsys, study, lax):
    call(capsys, str(study), "--policy", lax)
    before = (study / "verdict.json").read_bytes()
    for name in ("tradeoff.json", "tradeoff.csv"):
        (study / name).unlink()
    call(capsys, str(study), "--policy", lax)
    assert (study / "verdict.json").read_bytes() == before


def test_an_epsilon_that_was_edited_fails(capsys, study, lax):
    record = study / "arms" / "eps=3" / "arm.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "epsilon": 1.0}))
    code, text = call(capsys, str(study), "--policy", lax, "--arm", "eps=3")
    assert code == 1
    assert "the guarantee does not hold: epsilon=1.0 is recorded" in text


def test_a_preflight_that_failed_fails(capsys, study, lax):
    (study / "arms" / "eps=3" / "preflight.json").write_text('{"passed": false, "findings": ["x"]}')
    code, text = call(capsys, str(study), "--policy", lax, "--arm", "eps=3")
    assert code == 1
    assert "preflight: 1 findings" in text


def test_a_refuted_guarantee_fails_every_policy(capsys, study, monkeypatch):
    def refuted(_):
        raise GuaranteeRefuted({"eps=8": ("attack AUC 0.9 above 0.6",)})

    monkeypatch.setattr(gate_module, "analyse", refuted)
    code, text = call(capsys, str(study), "--policy", "none", "--arm", "eps=3")
    assert code == 1
    assert "arm eps=8: FAIL, an attack does better than its guarantee allows" in text
    assert json.loads((study / "verdict.json").read_text())["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "strikt"], "policy='strikt' is neither a file nor one of none, research, strict (did you mean"),
        ([], "the following arguments are required: --policy"),
        (["--policy", "strict", "--arm", "eps=33"], "--arm eps=33: the study has no such arm (did you mean 'eps=3'?)"),
        (["--policy", "strict", "--fast"], "unrecognized arguments: --fast. `dptrain gate --help` shows"),
    ],
)
def test_what_cannot_be_judged_is_2_and_withdraws_nothing_but_verdicts(capsys, study, arguments, words):
    before = {path for path in study.rglob("*") if path.is_file()}
    code, text = call(capsys, str(study), *arguments)
    assert code == 2
    assert words in text
    assert "Traceback" not in text
    assert {path for path in study.rglob("*") if path.is_file()} == before


def test_no_study_is_2(capsys, tmp_path):
    code, text = call(capsys, str(tmp_path), "--policy", "strict")
    assert code == 2
    assert "is not a study" in text


def test_missing_and_damaged_models_are_2_and_an_older_pass_does_not_stand(capsys, study, lax):
    assert call(capsys, str(study), "--policy", lax)[0] == 0
    block = study / "restricted" / "blocks" / "eps=3" / "block-0000.npz"
    block.write_bytes(block.read_bytes()[:1000])
    code, text = call(capsys, str(study), "--policy", lax)
    assert code == 2
    assert "block-0000.npz is missing or damaged" in text
    assert not (study / "verdict.json").exists()
    block.unlink()
    code, text = call(capsys, str(study), "--policy", lax)
    assert code == 2
    assert "Arm eps=3 lacks models: 0 of 1 blocks" in text


def test_a_study_without_private_arms_is_2_unless_one_is_named(capsys, study, lax):
    for label in ("eps=8", "eps=3"):
        shutil.rmtree(study / "arms" / label)
    code, text = call(capsys, str(study), "--policy", lax)
    assert code == 2
    assert "has no private arm (it has none)" in text
    assert call(capsys, str(study), "--policy", "none", "--arm", "none")[0] == 0


def test_an_unexpected_failure_is_2_and_not_a_verdict(capsys, study, lax, monkeypatch):
    def broken(_):
        raise KeyError("a bug")

    monkeypatch.setattr(gate_module, "analyse", broken)
    assert call(capsys, str(study), "--policy", lax)[0] == 2
    assert not (study / "verdict.json").exists()


def test_the_chosen_arm_can_be_asked_about(capsys, study, tmp_path):
    (tmp_path / "four.yaml").write_text("privacy: {max_epsilon: 4}")
    code, text = call(capsys, str(study), "--policy", str(tmp_path / "four.yaml"), "--arm", "chosen")
    assert code == 0
    assert "gate: PASS (eps=3)" in text
    assert "The largest epsilon that meets the policy four is that of eps=3" in text
    assert json.loads((study / "verdict.json").read_text())["choice"]["chosen"] == "eps=3"
    (tmp_path / "one.yaml").write_text("privacy: {max_epsilon: 1}")
    code, text = call(capsys, str(study), "--policy", str(tmp_path / "one.yaml"), "--arm", "chosen")
    assert code == 1
    assert "No epsilon of this study meets the policy one" in text


def test_the_report_says_which_epsilon(study, tmp_path):
    (tmp_path / "four.yaml").write_text("description: Ours\nprivacy: {max_epsilon: 4}")
    policy = load_policy(str(tmp_path / "four.yaml"))
    opened = StudyFolder.open(study)
    choice = gate_module.choice_for_report(opened, analyse(opened), policy)
    assert (choice.policy, choice.description.text) == ("four", "Ours")
    assert "is that of eps=3" in str(choice.answer.text)
    assert [one.label for one in choice.arms] == ["eps=3", "eps=8"]
    assert choice.arms[0].verdict.text == "met: 1 rules"
    assert "privacy.max_epsilon" in str(choice.arms[1].verdict.text)


def test_the_report_is_given_the_policy(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(report_command, "write_report", lambda study, **given: asked.append(given["policy"]))
    report_command.answer(["nowhere"])
    report_command.answer(["nowhere", "--policy", "strict"])
    assert asked == [None, load_policy("strict")]
    with pytest.raises(ConfigError, match="policy='strickt' is neither a file nor one of"):
        report_command.answer(["nowhere", "--policy", "strickt"])


def test_a_verdict_does_not_outlive_a_refuted_guarantee(capsys, study, lax):
    assert call(capsys, str(study), "--policy", lax)[0] == 0
    withdraw(study, {"eps=8": ["attack AUC 0.9 above 0.6"]})
    assert not (study / "verdict.json").exists()
