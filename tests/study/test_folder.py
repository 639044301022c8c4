"""The study folder: what it refuses, what it keeps, what it does with damage and claims."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dptrain.config import ModelConfig
from dptrain.errors import DataError, StudyError
from dptrain.study import atomic, blocks, runner
from dptrain.study.folder import StudyFolder
from dptrain.study.frozen import difference, fingerprint, freeze
from tests.training.test_fleet import small_cohort, small_config


@pytest.fixture
def config(tmp_path):
    base = small_config()
    return dataclasses.replace(base, study=dataclasses.replace(base.study, dir=str(tmp_path / "study")))


@pytest.fixture
def cohort(monkeypatch):
    made = small_cohort()
    monkeypatch.setattr(runner, "prepared_cohort", lambda config: made)
    return made


def create(config, cohort) -> StudyFolder:
    return StudyFolder.create_or_open(config.study.dir, config, cohort)


def test_what_was_written_is_read_back(config, cohort):
    study = create(config, cohort)
    again = StudyFolder.open(study.path)
    assert again.cohort().fingerprint() == cohort.fingerprint()
    membership = again.membership()
    assert membership.shape == (4, 45)
    assert (membership[0::2] != membership[1::2]).all()
    assert freeze(again.config()) == freeze(config)


def test_free_settings_may_differ_and_all_others_may_not(config, cohort):
    study = create(config, cohort)
    before = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}
    faster = dataclasses.replace(
        config,
        fleet=dataclasses.replace(config.fleet, workers=2, block_size=1),
        privacy=dataclasses.replace(
            config.privacy, epsilon=1.0, controls=False, target="tpr", tpr=0.2, fpr=0.1, advantage=0.5
        ),
    )
    assert create(faster, cohort).block_size == study.block_size
    changed = dataclasses.replace(
        config,
        model=ModelConfig("mlp", {"width": 5, "depth": 1}),
        privacy=dataclasses.replace(config.privacy, delta=1e-4),
    )
    with pytest.raises(StudyError) as caught:
        create(changed, cohort)
    text = str(caught.value)
    assert "model.width: the study has 4, this run asks for 5" in text
    assert "privacy.delta: the study has 0.001, this run asks for 0.0001" in text
    assert before == {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}


def test_other_data_are_refused(config, cohort):
    create(config, cohort)
    with pytest.raises(StudyError, match="made from other data"):
        create(config, small_cohort(seed=1))


def test_every_frozen_setting_is_in_the_fingerprint(config):
    frozen = freeze(config)
    assert fingerprint(frozen) == fingerprint(json.loads(json.dumps(frozen)))
    for group, name, value in (
        ("training", "num_steps", 9),
        ("fleet", "num_models", 6),
        ("attack", "name", "threshold"),
    ):
        other = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: value})})
        assert fingerprint(freeze(other)) != fingerprint(frozen)
        assert difference(frozen, freeze(other))[0].startswith(f"{group}.{name}:")


def test_where_files_lie_and_speed_of_decoding_may_change(config):
    here, there = (
        dataclasses.replace(config, data=dataclasses.replace(config.data, options={"size": 8, **free}))
        for free in ({"cache_dir": "a", "workers": 1, "root": "b"}, {"cache_dir": "c", "workers": 2})
    )
    assert freeze(here) == freeze(there)
    assert freeze(here)["data"]["options"] == {"size": 8}
    assert here.data.options["workers"] == 1, "the configuration itself stays as it is"


def test_a_folder_with_other_things_is_left_alone(config, cohort, tmp_path):
    folder = Path(config.study.dir)
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(StudyError, match=r"thesis\.tex"):
        create(config, cohort)
    assert sorted(path.name for path in folder.iterdir()) == ["thesis.tex"]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StudyError, match="is a file"):
        StudyFolder.create_or_open(file, config, cohort)


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(StudyError, match=r"no study\.json"):
        StudyFolder.open(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(StudyError, match="Cannot read"):
        StudyFolder.open(tmp_path)
    (tmp_path / "study.json").write_text('{"schema": 99}')
    with pytest.raises(StudyError, match="schema=99"):
        StudyFolder.open(tmp_path)


def test_restricted_files_are_for_the_owner_only(config, cohort):
    study = create(config, cohort)
    files = [path for path in (study.path / "restricted").rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert (study.path / "restricted").stat().st_mode & 0o777 == 0o700
    assert "p12" not in (study.path / "study.json").read_text()


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    atomic.write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(StudyError, match="No space left"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_full_disk_in_the_middle_of_a_study_loses_nothing(config, cohort, monkeypatch):
    """The third block does not fit: the two before stay, and the next run trains the rest."""
    config = dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, block_size=1, workers=1))
    config = dataclasses.replace(config, privacy=dataclasses.replace(config.privacy, epsilon=float("inf")))
    real, calls = os.replace, []

    def replace(source, target):
        if str(target).endswith(".npz"):
            calls.append(target)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", replace)
        with pytest.raises(StudyError, match="No space left"):
            runner.run_study(config)
    study = StudyFolder.open(config.study.dir)
    assert study.finished_blocks("none") == [0, 1]
    assert not list(study.path.rglob("*.tmp"))
    assert not list(study.path.rglob("*.claim-*"))
    first = blocks.block_path(study.path, "none", 0).stat().st_mtime_ns
    assert runner.run_study(config).is_complete("none")
    assert blocks.block_path(study.path, "none", 0).stat().st_mtime_ns == first


def test_one_and_two_workers_give_the_same_bytes_and_any_block_size_the_same_numbers(config, cohort):
    logits = []
    for workers, block_size in ((1, 2), (2, 2), (2, 1), (1, 3)):
        fleet = dataclasses.replace(config.fleet, workers=workers, block_size=block_size)
        directory = f"{config.study.dir}-{workers}-{block_size}"
        run = dataclasses.replace(config, fleet=fleet, study=dataclasses.replace(config.study, dir=directory))
        study = runner.run_study(run)
        assert [arm.label for arm in study.arms()] == ["none", "matched", "clip", "eps=8"]
        logits.append({arm.label: study.logits(arm.label) for arm in study.arms()})
    assert all(np.array_equal(logits[0][label], logits[1][label]) for label in logits[1])
    for other in logits[2:]:
        # Models that go through a pass together share its shapes, and so the rounding.
        assert all(np.allclose(logits[0][label], other[label], atol=1e-4) for label in other)


def test_a_damaged_block_is_trained_anew(config, cohort, caplog):
    config = dataclasses.replace(config, privacy=dataclasses.replace(config.privacy, epsilon=float("inf")))
    config = dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, workers=1))
    study = runner.run_study(config)
    path = blocks.block_path(study.path, "none", 0)
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    with pytest.raises(StudyError, match="damaged"):
        study.logits("none")
    runner.run_study(config)
    assert "damaged on disk" in caplog.text
    assert path.read_bytes() == content


def test_delta_of_one_over_the_patients_is_refused_before_anything_is_written(config, cohort):
    config = dataclasses.replace(config, privacy=dataclasses.replace(config.privacy, delta=1 / 45))
    with pytest.raises(DataError, match="must be below 1/45"):
        runner.run_study(config)
    assert not Path(config.study.dir).exists()


def test_what_a_study_has_fixed_already_is_said(config, cohort, caplog):
    study = create(config, cohort)
    info = json.loads((study.path / "study.json").read_text())
    (study.path / "study.json").write_text(json.dumps({**info, "dptrain": "0.0.1"}))
    create(dataclasses.replace(config, fleet=dataclasses.replace(config.fleet, block_size=1)), cohort)
    assert f"fleet.block_size=1 has no effect: this study was created with {study.block_size}." in caplog.text
    assert "created by dptrain 0.0.1" in caplog.text
