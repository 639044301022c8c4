"""Arms of a fleet: what they share, what is theirs, and that a model depends on its own streams alone."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.membership import draw_membership
from dptrain.config import (
    AttackConfig,
    AugmentSpec,
    Config,
    DataConfig,
    FleetConfig,
    ModelConfig,
    PrivacyConfig,
    PrivateRecipe,
    StudySettings,
    TrainingConfig,
)
from dptrain.errors import ConfigError
from dptrain.privacy.accounting import account
from dptrain.privacy.mechanism import Mechanism
from dptrain.privacy.tradeoff import tradeoff
from dptrain.training.arms import Arm, arm_from_label, arms_of_run, build_mechanism
from dptrain.training.fleet import FleetData, train_fleet_model
from dptrain.training.loop import evaluation_steps


def small_cohort(num_patients: int = 60, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(num_patients), rng.integers(0, num_patients, 40)]))
    features = rng.normal(size=(len(patient), 5)).astype(np.float32)
    labels = (features[:, 0] + rng.normal(size=len(patient)) > 0).astype(np.int64)
    is_test = np.arange(num_patients) % 4 == 0
    ids = np.array([f"p{index}" for index in range(num_patients)])
    return Cohort("small", "binary", features, labels, patient, ids, is_test, ("no", "yes"))


def small_config(**changes: object) -> Config:
    private = PrivateRecipe(learning_rate=0.5, num_steps=6, sampling_rate=0.5)
    config = Config(
        StudySettings("small", "unused"),
        DataConfig("small", nominal_patients=45, delta=1e-3),
        ModelConfig("mlp", {"width": 4, "depth": 1}),
        TrainingConfig(num_steps=8, batch_size=8, num_evaluations=3, private=private),
        PrivacyConfig(epsilon=8.0, delta=1e-3),
        FleetConfig(num_models=4),
        AttackConfig(),
    )
    return dataclasses.replace(config, **changes)


def mechanism(**changes: object) -> Mechanism:
    values: dict = {
        "unit": "patient",
        "sampling_rate": 0.5,
        "noise_multiplier": 0.0,
        "clipping_norm": 1.0,
        "num_steps": 6,
        "expected_batch_size": 11.25,
        "delta": 1e-3,
    }
    return Mechanism(**(values | changes))


@pytest.fixture(scope="module")
def data() -> FleetData:
    return FleetData.build(small_cohort(), "patient")


@pytest.fixture(scope="module")
def membership() -> np.ndarray:
    return draw_membership(0, 4, 45)


def train(data, membership, label, mech, model=0, config=None):
    return train_fleet_model(config or small_config(), data, arm_from_label(label), mech, model, membership[model])


def test_matched_equals_clip_where_the_clip_does_not_bind(data, membership):
    """Same initial weights, same coins, same records: without clipping the two engines are the same training."""
    matched = train(data, membership, "matched", mechanism())
    clip = train(data, membership, "clip", mechanism(clipping_norm=1e6))
    assert np.allclose(matched.logits, clip.logits, atol=1e-5)
    assert not np.allclose(
        matched.logits, train(data, membership, "clip", mechanism(clipping_norm=0.1)).logits, atol=1e-3
    )


@pytest.mark.parametrize("arm", ["none", "matched", "eps=8"])
def test_augmentation_reaches_every_arm(data, membership, arm):
    varied = AugmentSpec(noise=0.5)
    config = small_config()
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, augment=varied))
    private = dataclasses.replace(config.training.private, augment=varied, copies=3)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, private=private))
    used = None if arm == "none" else mechanism(noise_multiplier=1.0 if arm == "eps=8" else 0.0)
    plain = train(data, membership, arm, used).logits
    results = [train_fleet_model(config, data, arm_from_label(arm), used, 0, membership[0]) for _ in range(2)]
    assert not np.allclose(results[0].logits, plain, atol=1e-3)
    assert np.array_equal(results[0].logits, results[1].logits)
    if arm == "eps=8":
        ledger = results[0].ledger
        assert ledger is not None
        assert ledger["num_sampled"] == train(data, membership, arm, used).ledger["num_sampled"]


def test_matched_and_clip_share_the_variants(data, membership):
    """Copies are averaged inside the clipped unit: where the clip does not bind, they are the same training."""
    config = small_config()
    private = dataclasses.replace(config.training.private, augment=AugmentSpec(noise=0.5), copies=4)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, private=private))
    matched, clip = (
        train_fleet_model(config, data, arm_from_label(arm), mechanism(clipping_norm=1e6), 0, membership[0]).logits
        for arm in ("matched", "clip")
    )
    assert np.allclose(matched, clip, atol=1e-5)


def test_copies_without_augmentation_are_refused():
    with pytest.raises(ConfigError, match="copies=4 without augmentation averages 4 equal gradients"):
        PrivateRecipe(copies=4)


def test_noise_differs_between_models_and_arms_and_repeats_for_the_same(data, membership):
    noisy = mechanism(noise_multiplier=5.0)
    clip = train(data, membership, "clip", mechanism()).logits
    one = train(data, membership, "eps=8", noisy).logits - clip
    same = train(data, membership, "eps=8", noisy).logits - clip
    arm = train(data, membership, "eps=3", noisy).logits - clip
    assert np.array_equal(one, same)
    assert np.abs(np.corrcoef(one.ravel(), arm.ravel())[0, 1]) < 0.99
    assert not np.allclose(one, arm, atol=1e-3)


def test_training_leaves_the_global_random_state_alone(data, membership):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(data, membership, "eps=8", mechanism(noise_multiplier=1.0))
    assert torch.equal(torch.rand(3), expected)


def test_a_model_sees_only_its_members(data, membership):
    """Change the records of everybody who is not a member: the model must not notice (logits of members equal)."""
    for label, mech in (("none", None), ("matched", mechanism()), ("clip", mechanism())):
        members = data.record_membership(membership[0])
        cohort = data.cohort
        features = np.where(members[:, None], cohort.features, cohort.features[::-1] + 3).astype(np.float32)
        labels = np.where(members, cohort.labels, 1 - cohort.labels)
        other = FleetData.build(dataclasses.replace(cohort, features=features, labels=labels), "patient")
        before, after = train(data, membership, label, mech), train(other, membership, label, mech)
        assert np.array_equal(before.logits[members], after.logits[members]), label
        assert not np.array_equal(before.logits[~members], after.logits[~members])


def test_members_do_change_the_model(data, membership):
    """Mutant of the test above: flipping members' labels must be noticed."""
    flipped = dataclasses.replace(data.cohort, labels=1 - data.cohort.labels)
    other = FleetData.build(flipped, "patient")
    assert not np.array_equal(
        train(data, membership, "clip", mechanism()).logits, train(other, membership, "clip", mechanism()).logits
    )


def test_curves_ledger_and_shapes(data, membership):
    result = train(data, membership, "eps=8", mechanism(noise_multiplier=1.0))
    assert result.logits.shape == (data.cohort.num_records, 1)
    assert result.steps.tolist() == [2, 4, 6]
    assert result.utility.shape == result.train_loss.shape == (3,)
    assert result.ledger is not None
    assert result.ledger["num_steps"] == 6
    assert result.ledger["num_eligible"] == int(membership[0].sum())
    assert train(data, membership, "none", None).ledger is None


def test_record_units_sample_records(membership):
    records = FleetData.build(small_cohort(), "record")
    result = train(records, membership, "eps=8", mechanism(unit="record", noise_multiplier=1.0))
    assert result.ledger is not None
    assert result.ledger["num_eligible"] == int(records.record_membership(membership[0]).sum())


def test_averaging_is_what_is_evaluated(data, membership):
    config = small_config()
    recipe = dataclasses.replace(config.training.private, averaging=0.9)
    averaged = dataclasses.replace(config, training=dataclasses.replace(config.training, private=recipe))
    plain = train(data, membership, "eps=8", mechanism(noise_multiplier=3.0))
    smooth = train(data, membership, "eps=8", mechanism(noise_multiplier=3.0), config=averaged)
    assert not np.allclose(plain.logits, smooth.logits, atol=1e-3)
    assert smooth.ledger == plain.ledger


def test_arms_of_a_run():
    assert [arm.label for arm in arms_of_run(PrivacyConfig(float("inf"), 1e-3))] == ["none"]
    assert [arm.label for arm in arms_of_run(PrivacyConfig(3.0, 1e-3))] == ["none", "matched", "clip", "eps=3"]
    assert [arm.label for arm in arms_of_run(PrivacyConfig(0.5, 1e-3, controls=False))] == ["none", "eps=0.5"]
    arms = [Arm("private", 1.0), Arm("clip"), Arm("private", 8.0), Arm("none"), Arm("matched")]
    ordered = [arm.label for arm in sorted(arms, key=lambda arm: arm.sort_key)]
    assert ordered == ["none", "matched", "clip", "eps=8", "eps=1"]
    with pytest.raises(ValueError, match="label='x'"):
        arm_from_label("x")


def test_arms_with_a_cap_on_attacks():
    by_tpr = PrivacyConfig(8.0, 1e-3, target="tpr", tpr=0.02, fpr=0.001)
    assert [arm.label for arm in arms_of_run(by_tpr)] == ["none", "matched", "clip", "tpr=0.02@fpr=0.001"]
    by_advantage = PrivacyConfig(8.0, 1e-3, target="advantage", advantage=0.25, controls=False)
    assert [arm.label for arm in arms_of_run(by_advantage)] == ["none", "adv=0.25"]
    mixed = [
        Arm("private", target_advantage=0.1),
        Arm("private", 8.0),
        Arm("private", target_tpr=0.05, target_fpr=0.01),
    ]
    labels = [arm.label for arm in sorted([*mixed, Arm("none")], key=lambda arm: arm.sort_key)]
    assert labels == ["none", "eps=8", "tpr=0.05@fpr=0.01", "adv=0.1"]
    for label in ("tpr=x@fpr=0.1", "tpr=0.1", "adv=", "adv=x"):
        with pytest.raises(ValueError):
            arm_from_label(label)


RISK = st.floats(1e-9, 1 - 1e-9)


@given(RISK, RISK)
def test_a_label_is_a_folder_name_and_is_read_back_exactly(tpr, fpr):
    for arm in (Arm("private", target_tpr=tpr, target_fpr=fpr), Arm("private", target_advantage=tpr)):
        assert arm_from_label(arm.label) == arm
        assert re.fullmatch(r"[-\w.=@]+", arm.label)


@pytest.mark.parametrize(
    ("privacy", "promise"),
    [
        ({"target": "tpr", "tpr": 0.05, "fpr": 0.01}, lambda curve: curve.max_tpr(0.01) / 0.05),
        ({"target": "advantage", "advantage": 0.3}, lambda curve: curve.max_advantage() / 0.3),
    ],
)
def test_the_mechanism_keeps_the_cap_and_knows_its_epsilon(privacy, promise):
    config = small_config(privacy=PrivacyConfig(8.0, 1e-3, **privacy))
    arm = arms_of_run(config.privacy)[-1]
    mechanism, accounting = build_mechanism(config, arm, 22.5)
    assert mechanism is not None
    assert accounting is not None
    assert 0.998 < promise(tradeoff(0.5, mechanism.noise_multiplier, 6)) <= 1
    assert accounting["noise_multiplier"] == mechanism.noise_multiplier
    assert accounting["epsilon"] == account(0.5, mechanism.noise_multiplier, 6, 1e-3).epsilon


def test_a_promise_that_no_noise_keeps_is_refused_by_name():
    config = small_config(privacy=PrivacyConfig(8.0, 1e-3, target="tpr", tpr=0.01 + 1e-12, fpr=0.01))
    with pytest.raises(ConfigError, match=r"Arm tpr=0.010000000001@fpr=0.01: .* is not reached by any noise"):
        build_mechanism(config, arms_of_run(config.privacy)[-1], 22.5)


@pytest.mark.parametrize(("steps", "wanted", "expected"), [(6, 3, [2, 4, 6]), (2, 20, [1, 2]), (100, 1, [100])])
def test_evaluation_steps_end_with_the_last(steps, wanted, expected):
    assert evaluation_steps(steps, wanted).tolist() == expected
