"""Every interval covers, by simulation: the lines of `experiments/interval_coverage.py` with fewer studies."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "experiments" / "interval_coverage.py"
if not FILE.exists():
    pytest.skip("experiments/ is not in this copy of the sources", allow_module_level=True)
SPEC = importlib.util.spec_from_file_location("coverage_experiment", FILE)
coverage = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = coverage
SPEC.loader.exec_module(coverage)

NUM_STUDIES = 400

CAUTIOUS = ("TPR at FPR", "quantile", "paired difference", "patients at", "group: ", "over models")
"""Figures that are numbers of few patients, or steps of few models: their intervals may cover more, never less."""


@pytest.mark.slow
@pytest.mark.parametrize("line", coverage.LINES, ids=lambda line: f"{line.name}, {line.design}")
def test_interval_covers(line):
    found = line.coverage(NUM_STUDIES, seed=1)
    num_studies = max(20, NUM_STUDIES // line.slower)
    slack = 3.5 * np.sqrt(0.95 * 0.05 / num_studies)
    assert found > 0.945 - slack
    if not any(words in line.name for words in CAUTIOUS):
        assert found < 0.975 + slack


@pytest.mark.parametrize("num_models", [16, 32, 64, 128])
def test_without_leakage_nothing_is_found(num_models):
    evidence, attack = coverage.null_means(num_models, 20_000 if num_models == 16 else 10_000)
    assert evidence == pytest.approx(0.5, abs=0.002 if num_models > 32 else 0.004)
    assert attack == pytest.approx(0.5, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("num_models", [16, 32, 64, 128])
def test_without_leakage_the_mean_is_within_two_thousandths(num_models):
    evidence, attack = coverage.null_means(num_models, 60_000)
    assert evidence == pytest.approx(0.5, abs=0.002)
    assert attack == pytest.approx(0.5, abs=0.004)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_false_alarms_on_the_list_stay_at_the_rate(share):
    rate = coverage.false_alarms(32, share, 200)
    assert rate < 0.05 + 3.5 * (np.sqrt(0.05 * 0.95 / 200) if share == 0.0 else 0.006)
