import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.attacks import (
    POLICIES,
    Access,
    access_named,
    compute_label_signals,
    compute_log_probabilities,
    compute_signals,
    lira_online,
    seen_log_probabilities,
    seen_signals,
    signals,
)
from dptrain.audit import auc
from tests.oracles import attack_oracles
from tests.oracles.simulate import twin_membership

CASES = [("binary", 1), ("multiclass", 2), ("multiclass", 3), ("multiclass", 5), ("multilabel", 3)]
SEEN = [*POLICIES, Access("probabilities", 1), Access("top1", 1)]


def draw(task, num_outputs, seed=0, num_models=3, num_records=40, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(num_models, num_records, num_outputs))
    logits[0, :4] = 0.0  # exact ties between classes and at one half
    if task == "multilabel":
        labels = rng.choice([0.0, 1.0, np.nan], size=(num_records, num_outputs), p=[0.4, 0.4, 0.2])
        labels[5] = np.nan
    else:
        labels = rng.integers(0, max(2, num_outputs), size=num_records)
    return logits, labels


@pytest.mark.parametrize(("task", "num_outputs"), CASES)
@pytest.mark.parametrize("access", SEEN, ids=lambda access: access.name)
def test_equals_the_slow_twin(task, num_outputs, access, monkeypatch):
    logits, labels = draw(task, num_outputs)
    before = logits.copy(), labels.copy()
    expected = [
        [attack_oracles.seen(logits[m, n], labels[n], task, access.answer, access.digits) for n in range(40)]
        for m in range(3)
    ]
    odds, log_p = np.moveaxis(np.array(expected), -1, 0)
    found = seen_signals(logits, labels, task, access)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, odds, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(seen_log_probabilities(logits, labels, task, access), log_p, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(signals, "_CHUNK_VALUES", 4)
    np.testing.assert_array_equal(seen_signals(logits, labels, task, access), found)
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize(("task", "num_outputs"), CASES)
def test_many_digits_are_the_probabilities(task, num_outputs):
    logits, labels = draw(task, num_outputs, 1, scale=1.5)
    access = Access("probabilities", 15)
    np.testing.assert_allclose(
        seen_signals(logits, labels, task, access), compute_signals(logits, labels, task), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        seen_log_probabilities(logits, labels, task, access),
        compute_log_probabilities(logits, labels, task),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_an_unrounded_top1_of_yes_no_outputs_says_all(task):
    logits, labels = draw(task, 1 if task == "binary" else 4, 2)
    np.testing.assert_allclose(
        seen_signals(logits, labels, task, Access("top1")), compute_signals(logits, labels, task), rtol=1e-9, atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    digits=st.integers(1, 15),
    scale=st.sampled_from([0.5, 3.0, 30.0, 300.0]),
    answer=st.sampled_from(["probabilities", "top1"]),
    case=st.sampled_from(CASES[:4]),
)
def test_rounding_never_reverses_and_ties_are_exact(seed, digits, scale, answer, case):
    """A rounded answer is a rising function of the unrounded one: it can only tie."""
    logits, labels = draw(*case, seed, num_records=60, scale=scale)
    task = case[0]
    whole = (
        compute_signals(logits, labels, task)
        if answer == "probabilities"
        else (seen_signals(logits, labels, task, Access("top1")))
    )
    rounded = seen_signals(logits, labels, task, Access(answer, digits))
    assert np.isfinite(rounded).all()
    order = np.argsort(whole.ravel())
    # Right and wrong top1 answers are rounded from two sides; each side rises.
    right = seen_signals(logits, labels, task, Access("label")).ravel()[order] == 1.0
    for side in (right, ~right):
        assert (np.diff(rounded.ravel()[order][side]) >= -1e-12).all()
    assert np.unique(rounded).size <= 2 * (10**digits + 1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), digits=st.sampled_from([None, 1, 2, 6]), case=st.sampled_from(CASES[:4]))
def test_the_label_is_a_function_of_top1(seed, digits, case):
    logits, labels = draw(*case, seed)
    top1 = seen_signals(logits, labels, case[0], Access("top1", digits))
    right = seen_signals(logits, labels, case[0], Access("label"))
    assert np.isin(right, (0.0, 1.0)).all()
    assert top1[right == 0.0].max() <= top1[right == 1.0].min() + 1e-9


def test_labels_of_a_multilabel_model_are_counted():
    logits, labels = draw("multilabel", 4, 3)
    right = seen_signals(logits, labels, "multilabel", Access("label"))
    expected = np.nansum(compute_label_signals(logits, labels) > 0.0, axis=2)
    expected[0, :4] = (labels[:4] == 0.0).sum(axis=1)  # a logit of exactly 0 predicts "no"
    np.testing.assert_array_equal(right, expected)
    assert (right[:, 5] == 0.0).all()
    assert (seen_log_probabilities(logits, labels, "multilabel", Access("label"))[:, 5] == 0.0).all()


def test_saturated_answers_tie_at_a_quarter_of_a_step():
    logits = np.array([[[40.0], [50.0], [-40.0], [800.0], [-800.0]]])
    found = seen_signals(logits, [1, 1, 1, 1, 1], "binary", Access("probabilities", 2))[0]
    high = math.log(99.75 / 0.25)
    np.testing.assert_allclose(found, [high, high, -high, high, -high], rtol=1e-12)
    assert found[0] == found[1] == found[3]
    assert found[2] == found[4]


def test_seeing_less_helps_the_attacker_less():
    rng = np.random.default_rng(4)
    membership = twin_membership(16, 1500, rng)
    logits = (2.0 + 2.0 * rng.normal(size=1500) + rng.normal(size=membership.shape) + 1.5 * membership)[:, :, None]
    power = {}
    for access in SEEN:
        seen = seen_signals(logits, np.ones(1500), "binary", access)
        scores = lira_online(seen, membership)
        power[access.name] = np.mean([auc(row, member) for row, member in zip(scores, membership, strict=True)])
    assert power["logits"] == pytest.approx(power["top1"], abs=1e-9)
    assert power["logits"] > power["probabilities_2"] > power["probabilities_1"] > power["label"] + 0.01 > 0.53
    assert abs(power["logits"] - power["probabilities_3"]) < 0.02


def test_names():
    for access in SEEN:
        assert access_named(access.name) == access
    assert access_named("probabilities_7") == Access("probabilities", 7)
    for name, words in (
        ("probabilities", "need digits"),
        ("label_2", "only probabilities and top1"),
        ("logits_1", "only probabilities and top1"),
        ("probabilities_0", "1 to 15"),
        ("top1_16", "1 to 15"),
        ("loss", "must be logits"),
        ("", "must be logits"),
    ):
        with pytest.raises(ValueError, match=words):
            access_named(name)
    with pytest.raises(ValueError, match="answer='odds'"):
        Access("odds")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="needs 1 output"):
        seen_signals(np.zeros((2, 3, 2)), [0, 1, 1], "binary", Access("label"))
    logits = np.zeros((2, 3, 1))
    logits[1, 2] = np.inf
    with pytest.raises(ValueError, match="model 1"):
        seen_log_probabilities(logits, [0, 1, 1], "binary", Access("top1"))
