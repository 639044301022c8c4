"""`dptrain plan`: the sums are right, the trial trains what a study trains, bad input is named, nothing is written."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from dptrain import cli, plan_command
from dptrain.study import runner, trial
from dptrain.study.cost import ArmCost, disk_bytes, study_cost, wall_seconds
from dptrain.study.trial import Trial, patients_of, timed_trial
from dptrain.training import fleet
from tests.training.test_fleet import small_cohort, small_config

TRIAL = Trial(
    step_s={"none": 0.01, "matched": 0.02, "private": 0.05},
    model_s={"none": 1.0, "matched": 1.0, "private": 1.0},
    evaluation_s=0.1,
    memory_bytes=1000,
    seconds=1.0,
)


def test_seconds_of_a_model_by_hand():
    assert TRIAL.seconds_of("none", 100, 20) == pytest.approx(1 + 1.0 + 1.9)
    assert TRIAL.seconds_of("clip", 100, 1) == TRIAL.seconds_of("private", 100, 1) == pytest.approx(1 + 5.0)
    assert TRIAL.seconds_of("none", 3, 20) == pytest.approx(1 + 0.03 + 0.2), "no more looks than steps"


def test_cost_by_hand():
    config, cohort = small_config(), small_cohort()
    models = {"none": 8, "eps=8": 8, "baseline/none": 4}
    cost = study_cost(config, models, cohort, TRIAL, dataclasses.replace(TRIAL, model_s={"none": 0.5}), 2, 10_000)
    usual, private = 1 + 8 * 0.01 + 2 * 0.1, 1 + 6 * 0.05 + 2 * 0.1
    assert [arm.seconds for arm in cost.arms] == pytest.approx([8 * usual, 8 * private, 4 * (usual - 0.5)])
    assert (cost.num_models, cost.num_baselines, cost.num_steps) == (16, 4, 8 * 8 + 8 * 6 + 4 * 8)
    assert cost.memory_bytes == 12_000
    assert cost.seconds == pytest.approx(4 * usual + 4 * private + 4 * (usual - 0.5)), "five blocks for two workers"


def test_blocks_are_not_split():
    arms = [ArmCost("none", 12, 1, 12.0)]
    assert [wall_seconds(arms, 4, workers) for workers in (1, 2, 3, 8)] == [12.0, 8.0, 4.0, 4.0]


def test_disk_grows_with_models_by_their_outputs():
    config, cohort = small_config(), small_cohort()
    more = disk_bytes(config, cohort, 20) - disk_bytes(config, cohort, 10)
    assert more == 10 * (cohort.num_records * cohort.num_outputs * 4 + 4096)


def test_the_trial_goes_through_the_call_that_trains_fleets(monkeypatch):
    seen = []
    real = fleet.train_fleet_block

    def train(config, data, arm, mechanism, indices, members, speed=None):
        seen.append((arm.kind, len(list(indices)), config.training.num_steps))
        return real(config, data, arm, mechanism, indices, members, speed)

    monkeypatch.setattr(trial, "train_fleet_block", train)
    monkeypatch.setattr(trial.sys, "platform", "not linux")
    found = timed_trial(small_config(), small_cohort())
    assert {kind for kind, _, _ in seen} == {"none", "matched", "private"} == found.step_s.keys()
    assert {num_models for _, num_models, _ in seen} == {4}
    assert max(num_steps for _, _, num_steps in seen) > 1
    assert all(value > 0 for value in found.step_s.values())


def test_an_error_in_the_trial_is_told(monkeypatch):
    def train(*arguments):
        raise ValueError("planted")

    monkeypatch.setattr(trial, "train_fleet_block", train)
    with pytest.raises(RuntimeError, match="planted"):
        timed_trial(small_config(), small_cohort())


def test_a_part_of_a_large_cohort_has_batches_of_the_real_size():
    config = small_config()
    recipe = dataclasses.replace(config.training.private, sampling_rate=0.01)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, private=recipe))
    cohort = small_cohort(4000)
    part = trial._part(config, cohort)
    assert 380 <= len(part.train_patients) <= 420
    block = trial._Block(config, cohort, part, None)
    assert block._rate * len(part.train_patients) == pytest.approx(0.01 * len(cohort.train_patients))


def test_the_cohort_of_some_patients():
    cohort = small_cohort()
    keep = np.array([1, 4, 5, 8, 20, 30, 31, 32, 40, 44])
    part = patients_of(cohort, keep)
    assert part.patient_ids.tolist() == cohort.patient_ids[keep].tolist()
    rows = np.isin(cohort.patient, keep)
    assert np.array_equal(part.features, cohort.features[rows])
    assert np.array_equal(part.patient_ids[part.patient], cohort.patient_ids[cohort.patient[rows]])


@pytest.fixture
def config(monkeypatch, tmp_path):
    monkeypatch.setattr(plan_command, "prepared_cohort", lambda config: small_cohort())
    monkeypatch.setattr(plan_command, "timed_trial", lambda *arguments: TRIAL)
    base = small_config()
    return dataclasses.replace(
        base,
        study=dataclasses.replace(base.study, dir=str(tmp_path / "study")),
        fleet=dataclasses.replace(base.fleet, num_models=32, workers=2),
    )


def test_plan_says_what_the_models_can_show_and_what_cheaper_ones_save(config):
    found = plan_command.plan(config, ["none", "matched", "clip", "eps=8"])
    assert found.certifiable_epsilon == pytest.approx(math.log((1 - (u := 1 - 0.025 ** (1 / 16))) / u))
    assert found.resolution.standard_error[0.5] == pytest.approx(0.103, abs=2e-3)
    by_settings = {one.settings: one for one in found.options}
    assert set(by_settings) >= {
        "fleet.num_models=16",
        "privacy.controls=false",
        "training.num_steps=4",
        "training.private.num_steps=3",
    }
    assert by_settings["fleet.num_models=16"].saved_fraction == pytest.approx(0.5, abs=0.15)
    assert [one.seconds for one in found.options] == sorted(one.seconds for one in found.options)
    text = plan_command.as_table(found)
    assert f"±{1.96 * found.resolution.standard_error[0.5]:.3f} near 0.5" in text
    assert "SIMULATED" not in text
    entry = json.loads(plan_command.as_json([found]))[0]
    assert entry["num_models"] == 128
    assert entry["seconds"] == found.cost.seconds
    assert max(len(line) for line in text.splitlines()) <= 160


def test_the_same_line_opens_a_study(config, monkeypatch):
    monkeypatch.setattr(runner, "prepared_cohort", lambda config: small_cohort())
    config = dataclasses.replace(
        config,
        privacy=dataclasses.replace(config.privacy, epsilon=math.inf),
        fleet=dataclasses.replace(config.fleet, num_models=4, block_size=2),
    )
    lines = []

    def announce(study, missing):
        assert not study.finished_blocks("none")
        lines.append(plan_command.opening_line(study, config, missing))

    runner.run_study(config, announce=announce)
    assert len(lines) == 1
    assert lines[0].startswith("Plan: 4 models and 4 logistic regressions, 64 steps, about ")
    runner.run_study(config, announce=announce)
    assert len(lines) == 1, "nothing is missing"


def test_plan_from_the_command_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_command, "timed_trial", lambda *arguments: TRIAL)
    cli.main(["plan", "--json", "privacy.epsilon=8,3,inf", "fleet.num_models=8,16", "baseline.num_models=0"])
    entries = json.loads(capsys.readouterr().out)
    assert [entry["num_models"] for entry in entries] == [5 * 8, 5 * 16]
    assert [arm["label"] for arm in entries[0]["arms"]] == ["none", "matched", "clip", "eps=8", "eps=3"]
    assert not list(tmp_path.iterdir()), "a plan writes nothing"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "nonsense"], "takes the settings of a study and --json, not 'nonsense'"),
        (["plan", "fleet.num_models=9"], "fleet.num_models=9 must be even"),
    ],
)
def test_bad_input_is_named(capsys, arguments, words):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert words in capsys.readouterr().err
