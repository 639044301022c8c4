"""`dptrain account`: its numbers, its two shapes of output, and what it says to bad input."""

from __future__ import annotations

import json
import math
import re

import pytest

from dptrain import account_command, cli
from dptrain.account_command import _up, answer, parse
from dptrain.errors import ConfigError
from dptrain.privacy.accounting import epsilon_gaussian

KNOWN = ("--sampling-rate", "0.01", "--num-steps", "500", "--noise-multiplier", "1.0", "--delta", "1e-5")
FAST = ("--sampling-rate", "1", "--num-steps", "10", "--delta", "1e-5")
"""Full batches have closed forms: fast to account."""
KEYS = {"noise_multiplier", "epsilon", "tpr_at_fpr", "auc", "advantage", "patient_epsilon"}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main(["account", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def known() -> dict:
    return strict(answer([*KNOWN, "--json"]))


@pytest.fixture(scope="module")
def table() -> str:
    return answer(KNOWN)


def test_the_keys_of_the_json(known: dict) -> None:
    assert set(known) == KEYS
    assert set(known["epsilon"]) == {"prv", "pld", "rdp"}
    assert set(known["tpr_at_fpr"]) == {"0.001", "0.01", "0.1"}
    assert set(known["patient_epsilon"]) == {"1", "2", "4", "8", "16"}


def test_the_figures_of_the_literature(known: dict) -> None:
    """sigma 1, q 0.01, T 500, delta 1e-5: Opacus' PRV 1.336, dp-accounting's PLD 1.326 and RDP 1.653; a record epsilon
    of 1.33 is 2.9, 6.2, 14.1 and 34 for patients with 2, 4, 8 and 16 records."""
    assert known["noise_multiplier"] == 1.0
    assert known["epsilon"]["prv"] == pytest.approx(1.336, rel=0.01)
    assert known["epsilon"]["pld"] == pytest.approx(1.326, rel=0.01)
    assert known["epsilon"]["rdp"] == pytest.approx(1.653, rel=0.01)
    expected = {"1": 1.33, "2": 2.9, "4": 6.2, "8": 14.1, "16": 34}
    for records, epsilon in expected.items():
        assert known["patient_epsilon"][records] == pytest.approx(epsilon, rel=0.02)


def test_caps_hold_together(known: dict) -> None:
    tpr = known["tpr_at_fpr"]
    for fpr in ("0.001", "0.01", "0.1"):
        assert float(fpr) < tpr[fpr] <= float(fpr) + known["advantage"]
        assert tpr[fpr] <= math.exp(known["epsilon"]["prv"]) * float(fpr) + 1e-5
    assert 0.5 < known["auc"] <= 0.5 + known["advantage"]


def test_table_and_json_say_the_same(table: str, known: dict) -> None:
    for name in ("prv", "pld", "rdp"):
        shown = re.search(rf"{name.upper()}\s+(\S+)", table)
        assert shown is not None
        assert known["epsilon"][name] <= float(shown[1]) < known["epsilon"][name] * 1.002
    for records, epsilon in known["patient_epsilon"].items():
        shown = re.search(rf"\b{records} records?\s+(\S+)", table)
        assert shown is not None
        assert epsilon <= float(shown[1]) < epsilon * 1.002
    for words in ("reported", "the larger of PRV and PLD", "TPR at FPR 0.001", "advantage", "AUC", "mu-GDP",
                  "not a bound", "prior 0.01 (1%)", "prior 0.1 (10%)", "prior 0.5 (50%)", "16 records"):  # fmt: skip
        assert words in table, words
    assert max(map(len, table.splitlines())) <= 120


def test_json_alone_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *FAST, "--noise-multiplier", "8", "--json")
    assert code == 0
    assert set(strict(out)) == KEYS


def test_full_batches_have_the_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *FAST, "--noise-multiplier", "8")
    assert code == 0
    shown = re.search(r"closed form\s+(\S+)", out)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(epsilon_gaussian(8.0, 10, 1e-5), rel=1e-3)
    assert "approximation" not in out


def test_numbers_that_no_accountant_has_are_null_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ("--sampling-rate", "0.5", "--num-steps", "3", "--noise-multiplier", "4", "--delta", "1e-12")
    code, out, _ = run(capsys, *tiny, "--json")
    assert code == 0
    content = strict(out)
    assert content["epsilon"]["prv"] is None
    assert content["epsilon"]["pld"] is None
    assert content["epsilon"]["rdp"] > 0
    assert content["patient_epsilon"]["1"] == content["epsilon"]["rdp"]
    assert content["patient_epsilon"]["2"] is None
    code, out, _ = run(capsys, *tiny)
    assert code == 0
    assert re.search(r"PLD\s+-\s+delta=1e-12 is below 1e-10", out)
    assert re.search(r"2 records\s+-\s+.*delta=1e-12", out)
    assert "the only one fit to report" in out


@pytest.mark.parametrize(
    ("target", "figure", "promised"),
    [
        (("--target-epsilon", "1.5"), lambda found: found["epsilon"]["pld"], 1.5),
        (("--target-tpr", "0.05", "--at-fpr", "0.01"), lambda found: found["tpr_at_fpr"]["0.01"], 0.05),
        (("--target-advantage", "0.1"), lambda found: found["advantage"], 0.1),
    ],
)
def test_targets_are_met_and_not_missed_by_much(capsys, target, figure, promised) -> None:
    code, out, _ = run(capsys, *FAST, *target, "--json")
    assert code == 0
    found = figure(strict(out))
    assert found == pytest.approx(promised, rel=0.002)
    assert found <= promised * (1.001 if "epsilon" in target[0] else 1)
    code, out, _ = run(capsys, *FAST, *target)
    assert code == 0
    assert "smallest with 4 digits for" in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--delta": "0"}, "--delta=0 must be in (0, 1)"),
        ({"--delta": "-1e-5"}, "--delta=-1e-5 must be in (0, 1)"),
        ({"--delta": "abc"}, "--delta=abc must be a fraction in (0, 1)"),
        ({"--delta": "nan"}, "--delta=nan must be a fraction in (0, 1)"),
        ({"--delta": None}, "--delta is missing: give well below 1 / number of patients"),
        ({"--sampling-rate": "0"}, "--sampling-rate=0 must be in (0, 1]"),
        ({"--sampling-rate": "1.5"}, "=1.5 must be in (0, 1]. It is a fraction, not percent: for 1.5% write 0.015"),
        ({"--sampling-rate": "1%"}, "Write 0.01 for 1%"),
        ({"--sampling-rate": None}, "--sampling-rate is missing"),
        ({"--num-steps": "0"}, "--num-steps=0 must be a whole number >= 1"),
        ({"--num-steps": "2.5"}, "--num-steps=2.5 must be a whole number >= 1"),
        ({"--num-steps": "inf"}, "--num-steps=inf must be a whole number of at most 10,000,000"),
        ({"--num-steps": "1e9"}, "--num-steps=1e9 must be a whole number of at most 10,000,000"),
        ({"--num-steps": None}, "--num-steps is missing"),
        ({"--noise-multiplier": "0"}, "--noise-multiplier=0 must be a finite number > 0. Without noise"),
        ({"--noise-multiplier": "-1"}, "--noise-multiplier=-1 must be a finite number > 0"),
        ({"--noise-multiplier": None}, "The noise is missing: give one of --noise-multiplier, --target-epsilon"),
        ({"--target-epsilon": "1"}, "--noise-multiplier=8 and --target-epsilon=1 were given together"),
        ({"--noise-multiplier": None, "--target-epsilon": "inf"}, "--target-epsilon=inf must be a finite number > 0"),
        ({"--noise-multiplier": None, "--target-tpr": "0.05"}, "--target-tpr=0.05 needs the false-positive rate"),
        ({"--at-fpr": "0.01"}, "--at-fpr=0.01 belongs to --target-tpr"),
        ({"--noise-multiplier": None, "--target-tpr": "5", "--at-fpr": "1"}, "for 5% write 0.05"),
        ({"--noise-multiplier": None, "--target-tpr": "0.01", "--at-fpr": "0.01"}, "must be above --at-fpr=0.01"),
        ({"--noise-multiplier": None, "--target-advantage": "1"}, "--target-advantage=1 must be in (0, 1)"),
        ({"--nosuch": "1"}, "unrecognized arguments: --nosuch"),
    ],
)  # fmt: skip
def test_bad_input_is_named(capsys, changes, words) -> None:
    given = dict(zip(FAST[::2], FAST[1::2], strict=True)) | {"--noise-multiplier": "8"} | changes
    arguments = [text for flag, value in given.items() if value is not None for text in (flag, value)]
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert words in err
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(["--sampling-rate", "2", "--num-steps", "x", "--delta", "7"])
    assert len(caught.value.problems) == 4


def test_an_unreachable_target_says_what_to_do(capsys, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("epsilon=1e-09 is not reached by any noise multiplier up to 1e+06.")

    monkeypatch.setattr(account_command, "calibrate_noise", refuse)
    code, out, err = run(capsys, *FAST, "--target-epsilon", "1e-9")
    assert (code, out) == (1, "")
    assert "is not reached by any noise multiplier" in err
    assert "Ask for less" in err


def test_next_to_no_noise_has_no_epsilon(capsys) -> None:
    code, out, err = run(capsys, *FAST, "--noise-multiplier", "1e-6")
    assert (code, out) == (1, "")
    assert "Use more noise" in err


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.32930647, "1.330"), (0.05, "0.05000"), (1.5, "1.500"), (0.99991, "1.0000"), (21244.12, "21250"), (0.0, "0"),
     (1e-9, "1e-09"), (9.9999e8, "1e+09")],
)  # fmt: skip
def test_bounds_are_rounded_up(value: float, shown: str) -> None:
    assert _up(value) == shown
