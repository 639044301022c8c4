"""`dptrain attack`: a .npz or a folder of somebody's models in, attack.json and restricted/patients.csv out."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dptrain import cli
from dptrain.attack_command import answer
from dptrain.attacks import compute_signals, lira_online
from dptrain.attacks import lira_online as online
from dptrain.audit import auc, patient_auc, patient_evidence
from dptrain.errors import ConfigError, DataError
from tests.oracles import attack_oracles
from tests.oracles.simulate import twin_membership

RNG = np.random.default_rng(0)
P, N, M = 60, 90, 12
PATIENT = np.sort(np.concatenate([np.arange(P), RNG.integers(0, P, N - P)]))
HALVES = twin_membership(M, P, RNG)
LABELS = RNG.integers(0, 3, N)
LOGITS = RNG.normal(size=(M, N, 3))
LOGITS[:, np.arange(N), LABELS] += 1.0 + 1.5 * HALVES[:, PATIENT]


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "models.npz"
    np.savez(path, **arrays)
    return path


def run(path: Path, *arguments: str) -> dict[str, Any]:
    found = json.loads(answer([str(path), "--json", "--num-permutations", "20", *arguments]))
    assert isinstance(found, dict)
    return found


def test_one_target_of_65_models_equals_the_slow_twin(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    membership = rng.random((65, 200)) < 0.5
    signals = rng.normal(size=(65, 200)) + 1.0 * membership + 5.0 * rng.normal(size=200)
    path = saved(tmp_path, membership=membership, signals=signals)
    found = run(path, "--attack", "lira_online", "--variance", "per_record", "--targets", "64")
    references = range(64)
    slow = np.empty(200)
    for n in range(200):
        inside, outside = attack_oracles.sides(signals, membership, references, n)
        gaps = [(signals[64][n] - np.mean(side)) / np.std(side) for side in (inside, outside)]
        slow[n] = 0.5 * (gaps[1] ** 2 - gaps[0] ** 2) + np.log(np.std(outside) / np.std(inside))
    np.testing.assert_allclose(lira_online(signals, membership, "per_record", targets=[64])[0], slow, atol=1e-9)
    lira = found["attacks"]["lira_online"]
    assert lira["auc"] == pytest.approx(auc(slow, membership[64]), abs=1e-9)
    assert lira["auc_low"] < lira["auc"] < lira["auc_high"]
    assert lira["variance"] == "per_record"
    order = np.sort(slow[~membership[64]])[::-1]
    expected = np.mean(slow[membership[64]] > order[len(order) // 100])
    if len(order) >= 100:
        assert lira["tpr_at_fpr_0.01"] == pytest.approx(expected, abs=1e-9)
    assert lira["tpr_at_fpr_0.001"] is None, "fewer than 1000 non-members: null, never 0"
    assert any("tpr_at_fpr_0.001: not estimable" in note for note in lira["notes"])
    assert found["targets"] == [64]


def test_everything_about_patients_of_a_classifier(tmp_path: Path) -> None:
    names = np.array([f"p{place:03d}" for place in PATIENT])
    sex = np.array(["f", "m"])[np.arange(P) % 2]
    path = saved(
        tmp_path,
        membership=HALVES,
        logits=LOGITS,
        labels=LABELS,
        patient=names,
        group_sex=sex,
        population_logits=RNG.normal(size=(M, 40, 3)),
        population_labels=RNG.integers(0, 3, 40),
    )
    found = run(path, "--access")
    assert list(found["attacks"]) == [
        "threshold", "lira_online", "lira_offline", "rmia_online", "rmia_offline", "rmia_one_reference",
    ]  # fmt: skip
    signals = compute_signals(LOGITS, LABELS, "multiclass")
    scores = online(signals, HALVES[:, PATIENT], "shrunk")
    totals = np.stack([np.bincount(PATIENT, weights=row) for row in scores])
    expected = np.mean([auc(row, member) for row, member in zip(totals, HALVES, strict=True)])
    assert found["attacks"]["lira_online"]["auc"] == pytest.approx(expected, abs=1e-9)
    assert found["attacks"]["lira_online"]["variance"] == "shrunk"
    assert len(found["attacks"]["lira_online"]["per_target"]) == M
    assert found["num_twin_pairs"] == M // 2
    assert set(found["access"]) >= {"logits", "top1", "label"}
    assert found["access"]["logits"]["attacks"]["lira_online"]["auc"] == pytest.approx(expected, abs=1e-9)
    assert found["access"]["label"]["patient_auc_mean"] < found["access"]["logits"]["patient_auc_mean"]
    assert {group["group"] for group in found["subgroups"]["groups"]} == {"f", "m"}
    assert found["remeasured"]["num_picked"] == 1
    risk = patient_auc(patient_evidence(signals, PATIENT, P), HALVES)
    assert found["risk"]["patient_auc_max"] == pytest.approx(risk.max(), abs=1e-9)
    table = list(csv.DictReader((tmp_path / "restricted" / "patients.csv").open()))
    assert [row["patient_id"] for row in table] == sorted(set(names.tolist()))
    np.testing.assert_allclose([float(row["patient_auc"]) for row in table], risk, atol=1e-5)
    assert stat.S_IMODE((tmp_path / "restricted" / "patients.csv").stat().st_mode) == 0o600
    text = (tmp_path / "attack.json").read_text()
    assert json.loads(text) == found
    assert "p001" not in text


def test_the_risk_block_has_the_keys_of_a_study(tmp_path: Path) -> None:
    from dptrain.report.analysis import analyse
    from dptrain.report.tradeoff import _risk  # the two are written by different rooms
    from tests.report.fake_study import FakeStudy

    study = _risk(analyse(FakeStudy()).arms[0])
    found = run(saved(tmp_path, membership=HALVES, logits=LOGITS, labels=LABELS, patient=PATIENT))
    assert set(study) <= set(found["risk"])
    assert set(study["at_least"]["0.8"]) == set(found["risk"]["at_least"]["0.8"])


def test_queries_and_labels_are_combined(tmp_path: Path) -> None:
    membership = HALVES[:, PATIENT]
    rng = np.random.default_rng(2)
    queries = 0.5 * membership[:, :, None] + rng.normal(size=(M, N, 4))
    one = run(saved(tmp_path, membership=membership, signals=queries[:, :, 0]), "--attack", "lira_online")
    four = run(saved(tmp_path, membership=membership, signals=queries), "--attack", "lira_online")
    assert four["attacks"]["lira_online"]["auc"] > one["attacks"]["lira_online"]["auc"] + 0.05
    labels = (rng.random((N, 2)) < 0.5).astype(float)
    labels[rng.random((N, 2)) < 0.2] = np.nan
    logits = rng.normal(size=(M, N, 2)) + membership[:, :, None] * np.nan_to_num(2 * labels - 1)
    path = saved(tmp_path, membership=membership, logits=logits, labels=labels)
    together = run(path, "--attack", "lira_online")
    apart = run(path, "--attack", "lira_online", "--per-label")
    assert together["task"] == "multilabel"
    assert apart["attacks"]["lira_online"]["auc"] > 0.6
    assert apart["attacks"] != together["attacks"]
    assert apart["risk"] == together["risk"]


def test_regression_must_be_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=P)
    outputs = truth + np.where(HALVES, 0.5, 1.0) * rng.normal(size=(M, P))
    path = saved(tmp_path, membership=HALVES, logits=outputs[:, :, None], labels=truth)
    with pytest.raises(DataError, match="--task"):
        run(path)
    found = run(path, "--task", "regression", "--attack", "threshold")
    totals = -((outputs - truth) ** 2)
    expected = np.mean([auc(row, member) for row, member in zip(totals, HALVES, strict=True)])
    assert found["attacks"]["threshold"]["auc"] == pytest.approx(expected, abs=1e-9)
    assert "rmia_online" in run(path, "--task", "regression")["not_run"]
    with pytest.raises(ConfigError, match="classifier"):
        run(path, "--task", "regression", "--access")


def test_patients_may_be_numbered_by_whole_floats(tmp_path: Path) -> None:
    arrays = {"membership": HALVES, "logits": LOGITS, "labels": LABELS}
    whole = run(saved(tmp_path, patient=PATIENT, **arrays), "--attack", "threshold")
    assert run(saved(tmp_path, patient=PATIENT.astype(float), **arrays), "--attack", "threshold") == whole
    with pytest.raises(DataError, match="whole numbers"):
        run(saved(tmp_path, patient=PATIENT + 0.5, **arrays))


def test_a_folder_of_models_as_the_reference_study_writes_them(tmp_path: Path) -> None:
    one_hot = np.eye(3)[LABELS]
    for model in range(M):
        folder = tmp_path / "runs" / f"run{model:02d}"
        folder.mkdir(parents=True)
        np.save(folder / "train_logits.npy", LOGITS[model][:, None, :].astype(np.float32))
        np.save(folder / "train_labels.npy", one_hot)
        np.save(folder / "subset_mask.npy", HALVES[model, PATIENT])
    np.save(tmp_path / "runs" / "patient.npy", PATIENT)
    found = run(tmp_path / "runs", "--attack", "lira_online")
    direct = run(
        saved(tmp_path, membership=HALVES, logits=LOGITS.astype(np.float32), labels=LABELS, patient=PATIENT),
        "--attack",
        "lira_online",
    )
    assert found["task"] == "multiclass"
    assert found == direct
    assert (tmp_path / "runs" / "attack.json").exists()
    (tmp_path / "runs" / "run03" / "subset_mask.npy").unlink()
    np.save(tmp_path / "runs" / "run04" / "train_labels.npy", one_hot[:5])
    with pytest.raises(DataError) as error:
        run(tmp_path / "runs")
    assert len(error.value.problems) == 2


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    signals = np.zeros((M, N))
    signals[3, 1] = np.nan
    path = saved(tmp_path, membership=HALVES[:, :7], signals=signals, patient=PATIENT, target=[99], group_x=np.zeros(3))
    with pytest.raises(DataError) as error:
        run(path)
    text = "\n".join(error.value.problems)
    for words in ("model 3 gave NaN", "membership.shape=(12, 7)", "99 is not one of the models", "groups 'x'"):
        assert words in text


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"membership": HALVES}, "neither logits nor signals"),
        ({"signals": np.zeros((M, N))}, "membership is missing"),
        ({"membership": HALVES, "logits": LOGITS, "patient": PATIENT}, "labels is missing"),
        ({"membership": HALVES, "logits": LOGITS, "labels": LABELS[:3], "patient": PATIENT}, "labels.shape"),
        ({"membership": HALVES, "logits": LOGITS, "labels": LABELS + 5, "patient": PATIENT}, "do not fit task"),
        ({"membership": HALVES * 2.0, "signals": np.zeros((M, P))}, "true and false"),
        ({"membership": HALVES, "signals": np.zeros((M, P)), "patient": PATIENT}, "patient.shape"),
        ({"membership": np.ones((M, P), bool), "signals": np.zeros((M, P))}, "nothing can be compared"),
        ({"membership": HALVES, "signals": np.array(["x"])}, "of numbers"),
        ({"membership": HALVES, "signals": np.zeros((M, P)), "population_signals": np.zeros((3, 9))}, "must fit"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(saved(tmp_path, **arrays))
    assert not (tmp_path / "attack.json").exists()


def test_records_of_a_patient_must_go_together(tmp_path: Path) -> None:
    membership = HALVES[:, PATIENT].copy()
    place = int(np.flatnonzero(np.diff(PATIENT) == 0)[0]) + 1
    membership[0, place] ^= True
    with pytest.raises(DataError, match=f"record {place} .* other models"):
        run(saved(tmp_path, membership=membership, signals=np.zeros((M, N)), patient=PATIENT))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack", "lire"], "--attack lire must be one of"),
        (["--variance", "own"], "--variance own must be one of"),
        (["--targets", "x"], "--targets x must be numbers"),
        (["--targets", "12"], "12 is not one of the models"),
        (["--attack", "rmia_online"], "population_signals"),
        (["--task", "ranking"], "--task ranking must be one of"),
        (["--num-permutations", "3"], "at least 20"),
        (["--per-label"], "multilabel"),
        (["--access"], "needs logits"),
        (["--wrong"], "unrecognized"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = saved(tmp_path, membership=HALVES, signals=np.random.default_rng(0).normal(size=(M, P)))
    with pytest.raises(ConfigError, match=words):
        answer([str(path), *arguments])
    assert not (tmp_path / "attack.json").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "object.npz", membership=HALVES, groups=np.array([None, "a"], dtype=object))
    for name, words in (
        ("text.npz", "not an .npz"),
        ("empty", "no folder with"),
        ("one.npy", "single array"),
        ("missing.npz", "does not exist"),
        ("object.npz", "Save text as"),
    ):
        with pytest.raises(DataError, match=words):
            answer([str(tmp_path / name)])


def test_the_command_line_prints_a_table_and_exits_with_1_on_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, membership=HALVES, signals=np.random.default_rng(0).normal(size=(M, P)))
    cli.main(["attack", str(path), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "not estimable" in shown
    assert "not resolvable with 12 models" in shown
    assert "rmia_online was not run" in shown
    assert (tmp_path / "out" / "restricted" / "patients.csv").exists()
    with pytest.raises(SystemExit) as stop:
        cli.main(["attack", str(tmp_path / "none.npz")])
    assert stop.value.code == 1
    assert "error: " in capsys.readouterr().err


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    path = saved(tmp_path, membership=HALVES, logits=LOGITS, labels=LABELS, patient=PATIENT)
    texts = {answer([str(path), "--json", "--threads", threads]) for threads in ("1", "3")}
    assert len(texts) == 1


def test_models_that_are_references_only(tmp_path: Path) -> None:
    membership = np.concatenate([HALVES, np.zeros((2, P), bool)])
    signals = np.random.default_rng(3).normal(size=membership.shape)
    path = saved(tmp_path, membership=membership, signals=signals)
    assert run(path)["targets"] == list(range(M))
    with pytest.raises(ConfigError, match="target 13 was trained on all patients or on none"):
        run(path, "--targets", "13")
