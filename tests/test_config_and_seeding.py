"""The schema collects every problem; the seed tree shares nothing by accident."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dptrain.cohorts.membership import draw_membership
from dptrain.config import parse_config, to_dict
from dptrain.errors import ConfigError
from dptrain.seeding import PURPOSES, numpy_stream, stream_seed


def raw(**changes: object) -> dict:
    settings: dict = {
        "study": {"name": "s", "dir": "d"},
        "data": {"name": "table", "nominal_patients": 100, "patient_column": "id"},
        "model": {"name": "mlp", "width": 8},
        "training": {},
        "privacy": {"epsilon": "3", "delta": "1e-3"},
        "fleet": {},
        "attack": {},
        "seed": 1,
    }
    for name, value in changes.items():
        group, _, key = name.partition("__")
        if key:
            settings[group][key] = value
        else:
            settings[group] = value
    return settings


def test_round_trip_and_options():
    config = parse_config(raw())
    assert config.privacy.epsilon == 3.0
    assert config.privacy.delta == 1e-3
    assert config.data.options == {"patient_column": "id"}
    assert parse_config(to_dict(config)) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy__epsilon": 0}, "privacy.epsilon=0.0 must be > 0. For a run without DP use privacy.epsilon=inf."),
        ({"privacy__epsilon": -1}, "privacy.epsilon=-1.0 must be > 0"),
        ({"privacy__epsilon": "abc"}, "privacy.epsilon='abc' must be a number > 0, or inf"),
        ({"privacy__epsilon": "nan"}, "privacy.epsilon='nan' must be a number > 0, or inf"),
        ({"privacy__epsilon": None}, "privacy.epsilon=None must be a number > 0"),
        ({"privacy__delta": 0}, "privacy.delta=0.0 must be between 0 and 1"),
        ({"privacy__delta": 1.5}, "privacy.delta=1.5"),
        ({"privacy__unit": "visit"}, "privacy.unit='visit' must be patient or record"),
        ({"privacy__clipping_norm": 0}, "privacy.clipping_norm=0.0 must be a finite number > 0"),
        ({"privacy__controls": "perhaps"}, "privacy.controls='perhaps' must be true or false"),
        ({"privacy__target": "risk"}, "privacy.target='risk' must be epsilon, tpr or advantage"),
        ({"privacy__tpr": 5}, "privacy.tpr=5.0 must be in (0, 1). It is a fraction, not percent. For 5% write 0.05."),
        ({"privacy__fpr": 0}, "privacy.fpr=0.0 must be in (0, 1)"),
        ({"privacy__advantage": 1.5}, "privacy.advantage=1.5 must be in (0, 1)"),
        ({"privacy__advantage": "5%"}, "privacy.advantage='5%' must be a number"),
        ({"privacy__target": "tpr", "privacy__tpr": 0.01}, "privacy.tpr=0.01 must be above privacy.fpr=0.01"),
        ({"privacy__target": "advantage", "privacy__epsilon": "inf"}, "privacy.epsilon=inf asks for no privacy and"),
        ({"fleet__num_models": 2}, "fleet.num_models=2 must be even and at least 4"),
        ({"fleet__num_models": 7}, "fleet.num_models=7 must be even and at least 4"),
        ({"fleet__num_models": 6.5}, "fleet.num_models=6.5 must be a whole number"),
        ({"fleet__block_size": 0}, "fleet.block_size=0"),
        ({"fleet__workers": -1}, "fleet.workers=-1"),
        ({"data__nominal_patients": None}, "data.nominal_patients=None must be a public"),
        ({"data__test_fraction": 1}, "data.test_fraction=1.0"),
        ({"data__max_patients": 3}, "data.max_patients=3 must be at least 20"),
        ({"training__optimizer": "lion"}, "training.optimizer='lion' must be sgd or adam"),
        ({"training__private": {"sampling_rate": 0}}, "training.private.sampling_rate=0.0 must be in (0, 1]"),
        ({"training__private": {"num_steps": 0}}, "training.private.num_steps=0 must be >= 1"),
        ({"training__private": {"nosuch": 1}}, "training.private.nosuch=1 is not a setting"),
        ({"training": 5}, "training=5 must be a group of settings"),
        ({"attack__num_permutations": 1}, "attack.num_permutations=1"),
        ({"nosuch": 1}, "nosuch=1 is not a setting"),
    ],
)
def test_bad_values_are_named(changes, words):
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(**changes))
    assert words in str(caught.value)


def test_caps_on_attacks_have_defaults_that_do_not_matter_for_an_epsilon():
    privacy = parse_config(raw()).privacy
    assert (privacy.target, privacy.tpr, privacy.fpr, privacy.advantage) == ("epsilon", 0.05, 0.01, 0.1)
    assert parse_config(raw(privacy__tpr=0.005)).privacy.target == "epsilon"
    assert parse_config(raw(privacy__target="tpr", privacy__tpr="1e-2", privacy__fpr=1e-3)).privacy.tpr == 0.01


def test_all_problems_are_collected_before_stopping():
    with pytest.raises(ConfigError) as caught:
        parse_config(
            raw(privacy__epsilon=0, fleet__num_models=3, training__private={"num_steps": -1}, data__test_fraction=2)
        )
    assert len(caught.value.problems) == 4


def test_streams_differ_and_repeat():
    paths = [(), ("eps=8", 0), ("eps=8", 1), ("eps=3", 0), (0,), (1,), ("0",)]
    seeds = {
        (root, purpose, path): stream_seed(root, purpose, *path)
        for root, purpose, path in itertools.product((0, 1), sorted(PURPOSES), paths)
    }
    assert len(set(seeds.values())) == len(seeds)
    assert seeds == {key: stream_seed(key[0], key[1], *key[2]) for key in seeds}
    with pytest.raises(ValueError, match="purpose='nois'"):
        stream_seed(0, "nois")


def test_streams_look_independent():
    draws = np.array(
        [
            numpy_stream(0, purpose, index).standard_normal(2000)
            for purpose in ("init", "noise", "sampling")
            for index in range(4)
        ]
    )
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)


def test_membership_comes_in_twins_and_grows_without_change():
    small, large = draw_membership(3, 8, 500), draw_membership(3, 32, 500)
    assert np.array_equal(small, large[:8])
    assert (large[0::2] != large[1::2]).all()
    assert large.sum(0).tolist() == [16] * 500
    assert abs(large[0].mean() - 0.5) < 0.12
    pairs = np.corrcoef(large[0::2].astype(float)) - np.eye(16)
    assert np.abs(pairs).max() < 5 / np.sqrt(500)
    with pytest.raises(ValueError, match="num_models=5"):
        draw_membership(0, 5, 10)
