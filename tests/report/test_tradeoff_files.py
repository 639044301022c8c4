"""tradeoff.json is a contract: its keys, its bytes, and what never appears in it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

from dptrain.report.results import ArmResult, StudyResult
from dptrain.report.table import MAX_WIDTH, markdown_table, summary_table
from dptrain.report.tradeoff import as_dict, tradeoff_csv, tradeoff_json

STUDY_KEYS = {"schema", "cohort", "unit", "num_models", "num_patients", "arms"}
ARM_KEYS = {
    "label", "target_epsilon", "epsilon", "delta", "noise_multiplier", "sampling_rate", "num_steps", "clipping_norm",
    "utility", "attack", "risk", "paired", "cap",
}  # fmt: skip
INNER_KEYS = {
    "utility": {"metric", "mean", "sd", "per_model", "mean_low", "mean_high"},
    "attack": {"name", "auc", "auc_sd", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"},
    "risk": {"patient_auc_median", "patient_auc_p99", "patient_auc_max", "at_least"},
}


def _strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_contract_of_tradeoff_json(result: StudyResult) -> None:
    content = _strict(tradeoff_json(result))
    assert set(content) >= STUDY_KEYS
    assert content["schema"] == 1
    for arm in content["arms"]:
        assert set(arm) >= ARM_KEYS
        for name, keys in INNER_KEYS.items():
            assert set(arm[name]) >= keys
        assert len(arm["utility"]["per_model"]) == content["num_models"]
        assert list(arm["risk"]["at_least"]) == ["0.6", "0.7", "0.8", "0.9", "0.95"]
        for count in arm["risk"]["at_least"].values():
            assert set(count) >= {"count", "null_expected", "low", "high", "resolvable"}
            assert count["low"] <= count["count"] <= count["high"]
    none, private = content["arms"][0], content["arms"][-1]
    assert (none["target_epsilon"], none["epsilon"], none["paired"], none["cap"]) == (None, None, None, None)
    assert set(private["cap"]) == {"auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}
    assert private["epsilon"] == 2.999
    assert none["attack"]["tpr_at_fpr_0.001"] is None


def test_every_key_is_documented(result: StudyResult, repo_root: Path) -> None:
    words = (repo_root / "docs" / "study.md").read_text("utf-8")
    content = as_dict(result)
    arm = content["arms"][-1]
    names = {*content, *arm, *arm["utility"], *arm["attack"], *arm["paired"], *arm["risk"]["at_least"]["0.9"]}
    names |= {key for key in arm["risk"] if not key.endswith(("_low", "_high"))} - {
        "patient_attack_auc_p99",
        "patient_attack_auc_max",
    }
    missing = sorted(name for name in names if name not in words and not name.endswith(("_low", "_high")))
    assert not missing


def test_caps_are_rounded_up_and_infinite_figures_are_null(result: StudyResult) -> None:
    arm = result.arm("eps=3")
    assert arm.cap is not None
    odd = replace(
        arm,
        cap=replace(arm.cap, auc=0.70000001, tpr_at_fpr={0.01: 0.1, 0.001: 0.99999999}),
        risk=replace(arm.risk, median=float("nan"), max=float("inf")),
    )
    content = _strict(tradeoff_json(replace(result, arms=(odd,))))["arms"][0]
    assert content["cap"] == {"auc": 0.700001, "tpr_at_fpr_0.01": 0.1, "tpr_at_fpr_0.001": 1.0}
    assert content["risk"]["patient_auc_median"] is None
    assert content["risk"]["patient_auc_max"] is None


def test_no_identity_is_in_the_outcome(result: StudyResult) -> None:
    for text in (tradeoff_json(result), tradeoff_csv(result), summary_table(result), markdown_table(result)):
        assert "SECRET" not in text


def test_the_csv_says_what_the_json_says(result: StudyResult) -> None:
    rows = list(csv.DictReader(io.StringIO(tradeoff_csv(result))))
    content = as_dict(result)
    assert [row["label"] for row in rows] == [arm["label"] for arm in content["arms"]]
    for row, arm in zip(rows, content["arms"], strict=True):
        assert float(row["utility.mean"]) == arm["utility"]["mean"]
        assert float(row["risk.at_least.0.9.count"]) == arm["risk"]["at_least"]["0.9"]["count"]
    assert rows[0]["cap.auc"] == ""


def test_the_table_fits_a_terminal_and_marks_what_chance_shows(result: StudyResult) -> None:
    text = summary_table(result)
    assert all(len(line) <= MAX_WIDTH for line in text.splitlines())
    assert "SIMULATED" in text
    blurred = replace(result, arms=tuple(_not_resolvable(arm) for arm in result.arms))
    assert "n/r" in summary_table(blurred)
    assert "not resolvable with 16 models" in summary_table(blurred)


def _not_resolvable(arm: ArmResult) -> ArmResult:
    counts = tuple(replace(one, resolvable=False) for one in arm.risk.at_least)
    return replace(arm, risk=replace(arm.risk, at_least=counts))
