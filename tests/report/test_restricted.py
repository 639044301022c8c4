"""The table about single patients: pseudonyms that need the key, a key that lies elsewhere, nothing said aloud."""

from __future__ import annotations

import csv
import io
import stat
from pathlib import Path

import pytest

from dptrain.errors import DptrainError, StudyError
from dptrain.report import patient_command, restricted
from dptrain.report.pseudonyms import Pseudonyms, study_domain, study_pseudonyms
from dptrain.report.results import StudyResult
from dptrain.study.atomic import write_json

INFO = {"schema": 1, "settings": {"fleet": {"num_models": 8}}, "fingerprint": "f", "cohort": {"fingerprint": "c"}}
DOMAIN = study_domain(INFO)


@pytest.fixture
def study(result: StudyResult, tmp_path: Path) -> Path:
    """A study with its restricted bundle, made with a key of its own beside it."""
    path = tmp_path / "study"
    write_json(path / "study.json", INFO)
    restricted.write_restricted(path, result, DOMAIN, tmp_path / "house" / "key")
    return path


def _rows(study: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((study / "restricted" / "patient_risk.csv").read_text())))


def test_table_and_note_are_for_the_owner_and_name_nobody(study: Path, result: StudyResult) -> None:
    files = sorted(path for path in (study / "restricted").rglob("*") if path.is_file())
    assert [file.name for file in files] == ["README.md", "patient_risk.csv", "pseudonyms.json"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((study / "restricted").stat().st_mode) == 0o700
    key = (study.parent / "house" / "key").read_text().strip()
    for file in files:
        assert "SECRET" not in file.read_text()
        assert key not in file.read_text()
    rows = _rows(study)
    assert len({row["pseudonym"] for row in rows}) == result.num_patients
    assert [row["pseudonym"] for row in rows] == sorted(row["pseudonym"] for row in rows), "not the data's order"
    assert {"group_sex", "patient_auc_none", "patient_attack_auc_eps=3"} <= set(rows[0])


def test_who_holds_the_key_finds_a_patient(study: Path, result: StudyResult) -> None:
    ids = result.patient_ids[[5, 0]].tolist()
    text = patient_command.answer(
        [str(study), "--key", str(study.parent / "house" / "key")], io.StringIO("\n".join(ids))
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["patient_auc_none"]) for row in rows] == pytest.approx(
        result.arm("none").risk.patient_auc[[5, 0]].tolist(), abs=1e-6
    )
    assert [row["group_sex"] for row in rows] == result.groups["sex"][[5, 0]].tolist()
    assert text == patient_command.answer([str(study), *ids]), "the study knows where the key lay"
    assert "SECRET" not in text


@pytest.mark.parametrize("arguments", [["SECRET-9999"], ["--kye", "SECRET-9999"]])
def test_an_unknown_patient_is_not_said_aloud(study: Path, arguments: list[str]) -> None:
    with pytest.raises(DptrainError) as caught:
        patient_command.answer([str(study), *arguments])
    assert "SECRET" not in str(caught.value)


def test_a_pseudonym_depends_on_key_study_and_patient() -> None:
    names = {
        Pseudonyms(key, domain).of(patient) for key in (b"k", b"l") for domain in ("a", "b") for patient in ("1", "2")
    }
    assert len(names) == 8
    assert all(len(name) == 20 for name in names)
    assert "secret" not in repr(Pseudonyms(b"secret", "a"))


def test_the_same_key_gives_the_same_table(study: Path, result: StudyResult) -> None:
    before = (study / "restricted" / "patient_risk.csv").read_bytes()
    restricted.write_restricted(study, result, DOMAIN)
    assert (study / "restricted" / "patient_risk.csv").read_bytes() == before


def test_without_its_key_the_table_stays_as_it_is(
    study: Path, result: StudyResult, caplog: pytest.LogCaptureFixture
) -> None:
    (study.parent / "house" / "key").unlink()
    before = (study / "restricted" / "patient_risk.csv").read_bytes()
    restricted.write_restricted(study, result, DOMAIN)
    assert (study / "restricted" / "patient_risk.csv").read_bytes() == before
    assert "the key of its pseudonyms is not on this machine" in caplog.text
    with pytest.raises(StudyError, match="is not here"):
        patient_command.answer([str(study), "SECRET-0001"])


def test_another_key_is_noticed(study: Path, result: StudyResult) -> None:
    other = study.parent / "other"
    assert study_pseudonyms(study.parent / "elsewhere", DOMAIN, other) is not None
    with pytest.raises(StudyError, match="is not the key of this study"):
        restricted.write_restricted(study, result, DOMAIN, other)


def test_a_key_that_is_not_kept_apart_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="lies inside the study"):
        study_pseudonyms(study, DOMAIN, study / "restricted" / "key")
    key = tmp_path / "house" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    with pytest.raises(StudyError, match="chmod 600"):
        study_pseudonyms(study, DOMAIN, key)
    key.chmod(0o600)
    key.write_text("abc")
    with pytest.raises(StudyError, match="not a key of dptrain"):
        study_pseudonyms(study, DOMAIN, key)


def test_the_house_has_one_key(house_key: Path, tmp_path: Path) -> None:
    first = study_pseudonyms(tmp_path / "a", "a")
    second = study_pseudonyms(tmp_path / "b", "b")
    assert first is not None
    assert second is not None
    assert house_key.read_text().strip() == first.key.hex() == second.key.hex()
    assert first.of("1") != second.of("1")
