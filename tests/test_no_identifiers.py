"""No patient's identifier gets out: not into a file outside `restricted/`, a file name, a log, or an error.

Patients get identifiers that occur nowhere by chance; then every byte is searched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dptrain import cli

MARK = "ZQPATIENT"
NUM_PATIENTS = 120
FAST = (
    "fleet.num_models=4", "fleet.workers=1", "training.num_steps=5", "training.num_evaluations=1",
    "training.private.num_steps=3", "attack.num_permutations=20", "attack.num_bootstrap=20", "baseline.num_models=2",
    "data.nominal_patients=80", "data.delta=1e-3",
)  # fmt: skip
TABLE = (
    "data=table", "data.patient_column=mrn", "data.label_columns=[sick]", "data.group_columns=[sex]",
    "data.numeric={age: {center: 50, scale: 20, fill: 50}}",
)  # fmt: skip


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patient = np.r_[np.arange(NUM_PATIENTS), rng.integers(0, NUM_PATIENTS, 40)]
    sex = rng.choice(["f", "m", "x"], NUM_PATIENTS, p=[0.5, 0.47, 0.03])[patient]
    sex[::50] = "f"
    return pd.DataFrame({
        "mrn": [f"{MARK}{one:05d}" for one in patient],
        "age": rng.integers(20, 90, len(patient)),
        "sex": sex,
        "sick": rng.integers(0, 2, len(patient)),
        "part": np.where(patient % 3 == 0, "test", "train"),
    })  # fmt: skip


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and everything that was printed or logged."""
    cli._failures.clear()
    code = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capfd.readouterr()
    return code, captured.out + captured.err


@pytest.mark.slow
def test_a_whole_study_names_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    table().to_csv(tmp_path / "visits.csv", index=False)
    study = tmp_path / "study"
    code, text = run(
        capfd, "-m", *TABLE, *FAST, f"data.path={tmp_path}/visits.csv", f"study.dir={study}", "privacy.epsilon=8,inf"
    )
    assert code == 0, text
    for command in (("report", str(study)), ("status", str(study))):
        code, more = run(capfd, *command)
        assert code == 0, more
        text += more
    assert MARK not in text
    assert MARK not in caplog.text
    searched = 0
    for path in study.rglob("*"):
        inside = path.relative_to(study)
        assert MARK not in str(inside)
        if path.is_file() and inside.parts[0] != "restricted":
            assert MARK.encode() not in path.read_bytes(), inside
            searched += 1
    assert searched > 15
    assert (study / "release" / "report.json").exists()
    assert any(MARK.encode() in path.read_bytes() for path in (study / "restricted").rglob("*.npy")) or any(
        MARK.encode("utf-32-le") in path.read_bytes() for path in (study / "restricted").rglob("*.npy")
    ), "the search itself works: identifiers are where they belong"
    assert MARK.encode() not in (study / "restricted" / "patient_risk.csv").read_bytes()


def _spoil(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def spoiled(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return spoiled


def _same(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


@pytest.mark.parametrize(
    ("spoil", "settings"),
    [
        pytest.param(_spoil("part", NUM_PATIENTS, "neither"), ("data.split_column=part",), id="neither part"),
        pytest.param(
            lambda frame: frame.assign(part=np.where(np.arange(len(frame)) % 2, "test", "train")),
            ("data.split_column=part",),
            id="patients in both parts",
        ),
        pytest.param(_spoil("mrn", 3, ""), (), id="no identifier"),
        pytest.param(_spoil("age", 3, "young"), (), id="not a number"),
        pytest.param(_spoil("sick", 3, "maybe"), (), id="not a label"),
        pytest.param(_same, ("data.label_columns=[mrn]",), id="identifiers as labels"),
        pytest.param(_same, ("data.label_columns=[mrn]", "data.positive=yes"), id="identifiers as labels, positive"),
        pytest.param(_same, ("data.label_columns=[mrn]", "data.classes=[a,b]"), id="identifiers as classes"),
        pytest.param(_same, ("data.split_column=mrn",), id="identifiers as parts"),
        pytest.param(_same, ("data.numeric={mrn: {center: 0, scale: 1, fill: 0}}",), id="identifiers as numbers"),
        pytest.param(_same, ("data.categorical={mrn: [a, b]}",), id="identifiers as categories"),
        pytest.param(_same, ("data.keep={mrn: [a]}",), id="identifiers kept"),
        pytest.param(_same, ("data.patient_column=nrm",), id="another column"),
        pytest.param(lambda frame: frame.set_axis(["age", *frame.columns[1:]], axis=1), (), id="two columns alike"),
    ],
)
def test_bad_input_is_explained_without_naming_anybody(
    spoil: Callable[[pd.DataFrame], pd.DataFrame],
    settings: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    spoil(table()).to_csv(tmp_path / "visits.csv", index=False)
    code, text = run(
        capfd, *TABLE, *FAST, *settings, f"data.path={tmp_path}/visits.csv", f"study.dir={tmp_path}/study",
        "privacy.epsilon=inf",
    )  # fmt: skip
    assert MARK not in text
    assert MARK not in caplog.text
    assert "Traceback" not in text
    assert code != 0
    for path in (tmp_path / "study").rglob("*"):
        if path.is_file() and "restricted" not in path.parts:
            assert MARK.encode() not in path.read_bytes()
