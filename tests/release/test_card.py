"""The model card: what `dptrain train` writes beside the statement, what `dptrain card` writes again."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dptrain import cli
from dptrain.card_texts import CardTexts
from dptrain.conf_dir import config_dir
from dptrain.privacy.secure_random import SecureStream
from dptrain.release.card import build_card
from dptrain.release.card_words import SECTIONS, card_markdown
from dptrain.release.checklist import CHECKLISTS, NIST_SP_800_226, TRIPOD_AI

DATA = ("data=table", "data.path=visits.csv", "data.patient_column=patient", "data.label_columns=[sick]",
        "data.group_columns=[sex,site]", "data.numeric={age:{center:60,scale:20}}", "data.nominal_patients=210",
        "data.delta=1e-3", "training.private.num_steps=4", "privacy.epsilon=3", "study.name=visits")  # fmt: skip
TINY = ("fleet.num_models=8", "fleet.workers=1", "training.num_steps=5", "attack.num_permutations=20",
        "attack.num_bootstrap=20", "study.tensorboard=false", "baseline.num_models=0")  # fmt: skip
FOLDER = Path("releases/visits/eps=3")
ALL = {field.name: f"what people say about {field.name}" for field in dataclasses.fields(CardTexts)}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Iterator[Path]:
    """A folder with a table of 300 patients (3 of them at a rare site), a study of it and a release with that study."""
    folder = tmp_path_factory.mktemp("card")
    rng = np.random.default_rng(0)
    rows = [
        f"mrn-{row:05d},{40 + rng.integers(50)},{'fm'[row % 2]},{'north' if row % 100 else 'rare'},{rng.integers(2)}"
        for row in range(300)
    ]
    (folder / "visits.csv").write_text("patient,age,sex,site,sick\n" + "\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli._failures.clear()
        cli.main([*DATA, *TINY])
        cli.main(["train", *DATA, "release.study=studies/visits", "release.card.intended_use=Triage", *TINY])
    return folder


@pytest.fixture(autouse=True)
def here(work: Path, monkeypatch) -> None:
    monkeypatch.chdir(work)


def call(capsys, *arguments: str) -> tuple[int, str]:
    code = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def card() -> tuple[dict[str, Any], str]:
    return json.loads((FOLDER / "model_card.json").read_text()), (FOLDER / "model_card.md").read_text()


def statement_and_model() -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((FOLDER / "statement.json").read_text()), json.loads((FOLDER / "model.json").read_text())


def leaves(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "leaf" in node:
            yield node
        for value in node.values():
            yield from leaves(value)
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value)


def test_the_metadata_can_be_read_and_agrees_with_the_statement() -> None:
    content, text = card()
    stated, _ = statement_and_model()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["library_name"] == "dptrain"
    assert metadata["pipeline_tag"] == "tabular-classification"
    assert {"differential-privacy", "membership-inference-audit"} <= set(metadata["tags"])
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == stated["utility"]["all"]["value"]
    assert result["dataset"]["name"] == stated["setting"]["cohort"]
    assert content["privacy"]["epsilon"] == stated["epsilon"]
    assert "**(epsilon, delta) = (3" in text or "**(epsilon, delta) = (2.9" in text


def test_the_card_says_what_the_study_measured_with_intervals_beside_the_arm_without_privacy() -> None:
    content, text = card()
    assert list(content["risk"]["arms"]) == ["none", "eps=3"]
    assert content["risk"]["num_models"] == 8
    here = content["risk"]["arms"]["eps=3"]["attack_auc"]
    assert f"{here['value']:.3f} ({here['low']:.3f} to {here['high']:.3f})" in text
    assert "| sex: f |" in text


def test_nothing_in_it_is_about_fewer_than_ten_patients_or_names_one(work) -> None:
    content, text = card()
    for leaf in leaves(content):
        if leaf["leaf"] == "count" and leaf["value"] is not None:
            assert leaf["value"] >= 10
    rare = next(line for line in text.splitlines() if line.startswith("| site: rare |"))
    assert not re.search(r"\d\.\d", rare)
    assert "not reported" in rare
    for name in ("model_card.md", "model_card.json", "statement.md", "statement.json"):
        written = (FOLDER / name).read_text()
        assert "mrn-" not in written
        assert "visits.csv" not in written
        assert str(work) not in written
    stated, _ = statement_and_model()
    assert stated["audit"]["patient_auc_p99"] is None
    assert stated["audit"]["attack"]["tpr_at_fpr_0.01"] is None
    assert stated["audit"]["attack"]["auc"] is not None
    assert "the most exposed 1% of patients: not reported (n<10)" in (FOLDER / "statement.md").read_text()


def test_what_is_not_said_is_listed_as_open() -> None:
    content, text = card()
    assert "- Use: Triage" in text
    assert "point 8 of the privacy statement is where that must be declared" in text
    assert "*not stated:*" in text
    rows = {row["item"]: row for row in content["checklists"]["tripod_ai"]}
    assert rows["3b"]["state"] == "filled"
    assert rows["17"] == {
        "item": "17", "topic": "ethical approval", "state": "open", "where": "give release.card.ethics"
    }  # fmt: skip
    assert rows["11"]["state"] == "open"
    assert rows["23a"]["state"] == "filled"
    assert rows["12f"]["state"] == "not applicable"


def test_every_text_has_a_place_and_fills_an_item() -> None:
    stated, model = statement_and_model()
    bare = card_markdown(build_card(stated, model, {}, None))
    full_card = build_card(stated, model, ALL, None)
    full = card_markdown(full_card)
    placed = {name for _, names in SECTIONS for name, _ in names} | {"title"}
    assert placed == set(ALL)
    for text in ALL.values():
        assert text in full
        assert text not in bare
    used = {name for items in CHECKLISTS.values() for item in items for name in item.texts}
    assert set(ALL) - used == {"license", "developers", "contact", "out_of_scope"}
    left = {row["item"] for rows in full_card["checklists"].values() for row in rows if row["state"] == "open"}
    assert left == {"12d", "20a-c", "23b", "floating point", "audit"}


def test_the_checklists_are_whole() -> None:
    numbers = [int(re.match(r"\d+", item.number)[0]) for item in TRIPOD_AI]
    assert sorted(set(numbers)) == list(range(1, 28))
    assert numbers == sorted(numbers)
    assert len({item.number for item in TRIPOD_AI}) == len(TRIPOD_AI)
    assert len({item.number for item in NIST_SP_800_226}) == len(NIST_SP_800_226)
    sections = set(re.findall(r"^## (.*)$", card()[1], re.MULTILINE)) | {"top of the card"}
    assert {item.where for items in CHECKLISTS.values() for item in items if item.where} <= sections


def test_without_a_study_nothing_is_claimed_about_risk() -> None:
    stated, model = statement_and_model()
    content = build_card(stated, model, {}, None)
    text = card_markdown(content)
    assert content["risk"] is None
    assert "No membership inference audit was named" in text
    assert "membership-inference-audit" not in text
    assert {row["item"]: row["state"] for row in content["checklists"]["nist_sp_800_226"]}["audit"] == "open"


def test_a_model_trained_on_everybody_states_no_performance() -> None:
    stated, model = statement_and_model()
    content = build_card({**stated, "utility": None}, model, {}, None)
    assert "model-index" not in yaml.safe_load(card_markdown(content).split("---")[1])
    assert {row["item"]: row["state"] for row in content["checklists"]["tripod_ai"]}["23a"] == "open"


def test_the_card_is_written_again_with_texts_and_keeps_the_study(capsys, tmp_path) -> None:
    before, _ = card()
    (tmp_path / "card.yaml").write_text("ethics: approved\nlicense: apache-2.0\n")
    code, text = call(capsys, "card", str(FOLDER), "--texts", str(tmp_path / "card.yaml"))
    assert code == 0, text
    after, words = card()
    assert after["texts"] == {"intended_use": "Triage", "ethics": "approved", "license": "apache-2.0"}
    assert after["risk"] == before["risk"]
    assert yaml.safe_load(words.split("---")[1])["license"] == "apache-2.0"
    code, text = call(capsys, "card", str(FOLDER), "--study", "studies/visits")
    assert code == 0, text
    assert card()[0] == after


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere holds no release with a model: statement.json is missing"),
        ([str(FOLDER), "--texts", "none.yaml"], "Cannot read none.yaml"),
        ([str(FOLDER), "--texts", "visits.csv"], "must hold texts by name"),
        ([str(FOLDER), "--study", "nowhere"], "release.study=nowhere has no readable tradeoff.json"),
        ([], "the following arguments are required: RELEASE"),
    ],
)
def test_what_is_wrong_is_named_and_the_card_stays(capsys, arguments, words) -> None:
    before = (FOLDER / "model_card.md").read_bytes()
    code, text = call(capsys, "card", *arguments)
    assert code == 1
    assert words in text
    assert (FOLDER / "model_card.md").read_bytes() == before


def test_a_misspelt_text_is_refused(capsys, tmp_path) -> None:
    (tmp_path / "card.yaml").write_text("etics: approved\n")
    code, text = call(capsys, "card", str(FOLDER), "--texts", str(tmp_path / "card.yaml"))
    assert code == 1
    assert "(did you mean 'ethics'?)" in text


def test_a_study_about_another_mechanism_is_refused(capsys, tmp_path) -> None:
    outcome = Path("studies/visits/tradeoff.json")
    original = outcome.read_text()
    changed = json.loads(original)
    for arm in changed["arms"]:
        arm["num_steps"] = 999
    outcome.write_text(json.dumps(changed))
    try:
        code, text = call(capsys, "card", str(FOLDER), "--study", "studies/visits")
    finally:
        outcome.write_text(original)
    assert code == 1
    assert "num_steps: the study has 999, this release 4" in text


def test_a_text_that_names_a_patient_is_refused_before_training(capsys) -> None:
    code, text = call(capsys, "train", *DATA, "release.dir=other", 'release.card.limitations="worked for mrn-00012"')
    assert code == 1
    assert "release.card.limitations of the release would hold 1 patient identifiers; nothing was released" in text
    assert not Path("other").exists()


def test_a_void_release_has_no_card(capsys, monkeypatch) -> None:
    monkeypatch.setattr(SecureStream, "normal", lambda self, size: np.zeros(size))
    code, _ = call(capsys, "train", *DATA, "release.dir=void")
    assert code == 1
    assert Path("void/statement.md").exists()
    assert not Path("void/model_card.md").exists()
    code, text = call(capsys, "card", "void")
    assert code == 1
    assert "holds no release with a model: model.json is missing" in text


def test_the_settings_file_names_every_text() -> None:
    content = yaml.safe_load((config_dir() / "release" / "default.yaml").read_text())
    assert list(content["card"]) == list(ALL)
