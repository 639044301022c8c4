"""MEDS: small shards in the standard's schema against a slow twin that reads them row by row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from dptrain.cohorts.meds_constants import fit_meds_constants
from dptrain.cohorts.meds_features import counts_and_last
from dptrain.cohorts.meds_files import Events, code_names, read_events
from dptrain.cohorts.registry import READERS, load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError

MORTALITY = "task_labels/mortality/in_icu/first_24h"
LAB = "LAB//50912//mg/dL"
DAY = np.timedelta64(1, "D")


@pytest.fixture
def folder(hospital_folder: Callable[[str], Path]) -> Path:
    return hospital_folder("meds")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "meds"))


def config(path: Path | None, **options: Any) -> DataConfig:
    options = {"label_files": MORTALITY, "counts": ["ICD10CM/I50", "DIAGNOSIS//*", "GENDER//F"],
               "values": {LAB: {"center": 1, "scale": 0.5, "fill": 1}}, **options}  # fmt: skip
    return DataConfig("meds", 40, path=None if path is None else str(path), options=options)


def all_events(folder: Path) -> pd.DataFrame:
    return pd.concat([pq.read_table(file).to_pandas() for file in sorted((folder / "data").rglob("*.parquet"))])


def all_labels(folder: Path, task: str = MORTALITY) -> pd.DataFrame:
    table = pd.concat([pq.read_table(file).to_pandas() for file in sorted((folder / task).glob("*.parquet"))])
    return table[table["subject_id"] != 77].reset_index(drop=True)


def rows_before(events: pd.DataFrame, label: Any, window_days: float | None = None) -> pd.DataFrame:
    """The slow twin's events of one prediction: its patient's, not later, perhaps not too old, or without a time."""
    own = events[events["subject_id"] == label.subject_id]
    near = own["time"] <= label.prediction_time
    if window_days is not None:
        near &= own["time"] >= label.prediction_time - pd.Timedelta(days=window_days)
    return own[near | own["time"].isna()]


@pytest.mark.parametrize("window_days", [None, 45.0, 0.7])
def test_against_the_rows_one_by_one(folder: Path, window_days: float | None) -> None:
    cohort = load_cohort(config(folder, window_days=window_days), 0)
    events, labels = all_events(folder), all_labels(folder)
    assert cohort.num_records == len(labels)
    column = {name: values.tolist() for name, values in zip(cohort.feature_names, cohort.features.T, strict=True)}
    order = ["age", "count ICD10CM/I50", "count DIAGNOSIS//*", "count GENDER//F", f"last {LAB}"]
    assert list(cohort.feature_names) == order
    for row, label in enumerate(labels.itertuples()):
        mine = rows_before(events, label, window_days)
        assert cohort.patient_ids[cohort.patient[row]] == str(label.subject_id)
        assert cohort.labels[row] == label.boolean_value
        failure = mine["code"].isin(["DIAGNOSIS//ICD//10//I501", "DIAGNOSIS//ICD//10//I509"]).sum()
        for name, count in (("ICD10CM/I50", failure), ("DIAGNOSIS//*", mine["code"].str.startswith("DIAG").sum()),
                            ("GENDER//F", (mine["code"] == "GENDER//F").sum())):  # fmt: skip
            assert column[f"count {name}"][row] == pytest.approx((np.log(1 + count) - 0.5) / 0.5, abs=1e-6)
        known = mine[(mine["code"] == LAB) & mine["numeric_value"].notna()]
        latest = known[known["time"] == known["time"].max()]["numeric_value"]
        expected = (latest.iloc[-1] - 1) / 0.5 if len(latest) else 0
        assert column[f"last {LAB}"][row] == pytest.approx(expected, abs=1e-5)
        born = events[(events["subject_id"] == label.subject_id) & (events["code"] == "MEDS_BIRTH")]["time"]
        years = (label.prediction_time - born.iloc[0]) / DAY / 365.25 if len(born) else 55
        assert column["age"][row] == pytest.approx((years - 55) / 20, abs=1e-5)


def test_groups_and_split(folder: Path) -> None:
    cohort = load_cohort(config(folder), 0)
    splits = pq.read_table(folder / "metadata/subject_splits.parquet").to_pandas().set_index("subject_id")["split"]
    assert cohort.is_test.tolist() == [splits[int(subject)] == "held_out" for subject in cohort.patient_ids]
    number = [(int(subject) - 10_000_032) // 603 for subject in cohort.patient_ids]
    assert cohort.groups["sex"].tolist() == ["FM"[n % 2] for n in number]
    races = ("WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN - CHINESE", "unknown")
    assert cohort.groups["race"].tolist() == [races[n % 4] for n in number], "number 5 has one OTHER, outvoted"
    assert cohort.groups["age"][number.index(3)] == "unknown"
    assert set(cohort.groups["age"]) == {"<40", "40-59", "60-79", ">=80", "unknown"}
    text = " ".join(cohort.warnings)
    assert "Group 'race': 1 patients have several codes" in text
    assert f"1 of {cohort.num_records + 1} predictions are left out: their patients are in neither" in text
    assert "'excluded'" in text


def test_no_event_after_the_prediction_changes_anything(copied: Path) -> None:
    """A leak would make every risk and every performance of a study wrong."""
    before = load_cohort(config(copied), 0)
    last = all_labels(copied).groupby("subject_id")["prediction_time"].max()
    for file in (copied / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        events = table.to_pandas()
        late = events["time"] > events["subject_id"].map(last)
        assert late.any()
        keep = table.filter(pa.array(~late.to_numpy()))
        pq.write_table(keep, file)
    assert load_cohort(config(copied), 0).fingerprint() == before.fingerprint()
    for file in (copied / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.filter(pa.array(np.arange(len(table)) % 3 > 0)), file)
    assert load_cohort(config(copied), 0).fingerprint() != before.fingerprint()


def test_classes_splits_of_dptrain_and_several_labels(folder: Path) -> None:
    places = {"label_files": "task_labels/place", "classes": ["home", "ward", "icu"]}
    cohort = load_cohort(config(folder, test_splits=[], **places), 0)
    assert cohort.label_names == ("home", "ward", "icu")
    assert cohort.is_test.sum() == int(cohort.num_patients * 0.3)
    expected = all_labels(folder, "task_labels/place")["categorical_value"]
    assert [cohort.label_names[label] for label in cohort.labels] == expected.tolist()
    one = load_cohort(config(folder, label_files="task_labels/place", positive="icu"), 0)
    assert one.labels.tolist() == (expected == "icu").tolist()
    both = load_cohort(config(folder, label_files=[MORTALITY, f"{MORTALITY}/1.parquet"], test_splits=[]), 0)
    assert (both.task, both.label_names) == ("multilabel", ("first_24h", "1"))
    assert not np.isnan(both.labels[:, 0]).any()
    known = ~np.isnan(both.labels[:, 1])
    assert known.sum() == len(all_labels(folder)) + 1 - 70
    assert any("1 of 71 patients with labels have none of the events" in warning for warning in both.warnings)
    np.testing.assert_array_equal(both.labels[known, 0], both.labels[known, 1])


def test_other_writers_types(copied: Path) -> None:
    """Dictionary codes, nanoseconds, time zones, 64-bit values, no metadata, a patient in two shards, rows mixed."""
    before = load_cohort(config(copied, counts=["DIAGNOSIS//*"], test_splits=[]), 0)
    shutil.rmtree(copied / "metadata")
    for number, file in enumerate(sorted((copied / "data").rglob("*.parquet"))):
        table = pq.read_table(file)
        kind = pa.timestamp("ns") if number % 2 else pa.timestamp("us", "UTC")
        table = table.set_column(1, "time", table["time"].cast(kind))
        table = table.set_column(2, "code", table["code"].dictionary_encode())
        table = table.set_column(3, "numeric_value", table["numeric_value"].cast(pa.float64()))
        codes = table["code"].to_pandas().astype(str)
        for part, rows in enumerate(np.array_split(np.arange(len(table)), 2)):
            mixed = rows[np.argsort(codes[rows], kind="stable")]
            pq.write_table(table.take(mixed), file.with_name(f"{number}-{part}.parquet"))
        file.unlink()
    after = load_cohort(config(copied, counts=["DIAGNOSIS//*"]), 0)
    assert any("There is no metadata/subject_splits.parquet" in warning for warning in after.warnings)
    assert after.fingerprint() == before.fingerprint()


def test_random_events_against_the_slow_twin() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        size = int(rng.integers(0, 60))
        time = rng.integers(0, 12, size) * 86_400_000_000
        time[rng.random(size) < 0.2] = np.iinfo(np.int64).min
        value = np.where(rng.random(size) < 0.5, np.nan, rng.normal(size=size))
        zero = np.zeros(size, dtype=np.int64)
        events = Events(rng.integers(0, 4, size), time, rng.integers(0, 2, size), zero, value, ("x",))
        subject, when = rng.integers(0, 5, 20), rng.integers(0, 12, 20) * 86_400_000_000
        for window in (None, 3.0):
            counts, last = counts_and_last(events, 1, subject, when, window)
            for row in range(20):
                own = [(t, v) for s, t, n, v in zip(events.subject, time, events.name, value, strict=True)
                       if n == 1 and s == subject[row]]  # fmt: skip
                static = [pair for pair in own if pair[0] == np.iinfo(np.int64).min]
                old = -1 if window is None else when[row] - 3 * 86_400_000_000
                dated = [pair for pair in own if pair not in static and old <= pair[0] <= when[row]]
                assert counts[row] == len(static) + len(dated)
                known = [v for _, v in [*static, *sorted(dated, key=lambda pair: pair[0])] if np.isfinite(v)]
                np.testing.assert_equal(last[row], known[-1] if known else np.nan)


def test_names_of_codes() -> None:
    parents = {"a": ["b", "c"], "b": ["d"], "d": ["a"]}
    names = code_names(["a", "d", "x*", "", "d"], parents)
    assert (names("a"), names("b"), names("xyz"), names("c")) == ([0, 1, 4], [0, 1, 4], [2], [])


def test_constants_are_written_down_and_named_in_the_statement(folder: Path, tmp_path: Path) -> None:
    text = fit_meds_constants(config(folder))
    (tmp_path / "constants.yaml").write_text(text)
    assert "count DIAGNOSIS//ICD//10//I501" in text
    assert f"last {LAB}" in text
    assert "MEDS_DEATH" not in text.replace(text.split("source")[0], "")
    assert "HOSPITAL_DISCHARGE//HOME" in text, "of earlier stays"
    own = {"counts": [], "values": None, "constants": str(tmp_path / "constants.yaml")}
    cohort = load_cohort(config(folder, **own), 0)
    assert any("fitted on the private records of" in text for text in cohort.outside_dp)
    assert not any("fitted" in text for text in load_cohort(config(folder), 0).outside_dp)
    assert cohort.features.shape[1] == text.count("{center")
    (tmp_path / "constants.yaml").write_text("source: public, x\nnumeric: {sodium: {center: 1, scale: 1}}")
    with pytest.raises(ConfigError, match=r"has 'sodium'; its names must be age, `count CODE` or `last CODE`"):
        load_cohort(config(folder, **own), 0)


def test_what_is_missing_is_named(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=null must name the folder with data/ and metadata/"):
        load_cohort(config(None), 0)
    with pytest.raises(DataError, match=r"label_files=labels=.*labels does not exist\. A relative name starts in"):
        load_cohort(config(copied, label_files="labels"), 0)
    with pytest.raises(DataError, match=r"None of the codes .* occurs: 'I50', 'LAB//x'"):
        load_cohort(config(copied, counts=["I50"], values={"LAB//x": {"center": 1, "scale": 1, "fill": 1}}), 0)
    cohort = load_cohort(config(copied, counts=["I50"]), 0)
    assert any("1 of 2 named codes do not occur, so their features say nothing: 'I50'" in w for w in cohort.warnings)
    with pytest.raises(DataError, match=r"data\.group_codes\.site: no code of these patients begins with SITE//"):
        load_cohort(config(copied, group_codes={"site": "SITE"}), 0)
    with pytest.raises(DataError, match=r"data\.label_value=float_value, but .* has values in boolean_value"):
        load_cohort(config(copied, label_value="float_value"), 0)
    with pytest.raises(DataError, match=r"label column 'place' has values other than 0 and 1"):
        load_cohort(config(copied, label_files="task_labels/place"), 0)
    with pytest.raises(DataError, match=r"column 'last LAB//50912//mg/dL' has .* values missing"):
        load_cohort(config(copied, values={LAB: {"center": 1, "scale": 1}}), 0)


def test_all_broken_shards_are_listed(copied: Path) -> None:
    files = sorted((copied / "data").rglob("*.parquet"))
    files[0].write_bytes(files[0].read_bytes()[:100])
    older = pq.read_table(files[1])
    pq.write_table(older.rename_columns(["patient_id", *older.column_names[1:]]), files[1])
    files[2].write_text("text")
    with pytest.raises(DataError) as caught:
        load_cohort(config(copied), 0)
    assert caught.value.problems[0].startswith("data.path: 3 of 4 shards cannot be read")
    assert len(caught.value.problems) == 4
    assert "has no column subject_id: patient_id, time" in str(caught.value)
    shutil.rmtree(copied / "data")
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        load_cohort(config(copied), 0)


def test_labels_that_contradict_themselves(copied: Path) -> None:
    file = copied / MORTALITY / "0.parquet"
    table = pq.read_table(file)
    again = table.slice(0, 3)
    again = again.set_column(2, "boolean_value", pa.compute.invert(again["boolean_value"]))
    pq.write_table(pa.concat_tables([table, table.slice(0, 5)]), file)
    assert load_cohort(config(copied), 0).num_records == len(all_labels(copied)) - 5, "the same twice counts once"
    pq.write_table(pa.concat_tables([table, again.select(table.column_names)]), file)
    with pytest.raises(DataError, match=r"has 3 predictions of the same patient and time with different values"):
        load_cohort(config(copied), 0)
    nothing = pa.nulls(len(table), pa.timestamp("us"))
    pq.write_table(table.set_column(table.column_names.index("prediction_time"), "prediction_time", nothing), file)
    with pytest.raises(DataError, match=r"\d+ labels have no subject_id or no prediction_time"):
        load_cohort(config(copied), 0)


def test_settings_with_all_their_problems(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cohort(config(folder, label_files=[], window_days=0, age_bands=[60, 40], group_codes={"age": "A"},
                           test_splits=["train"], classes=["a", "b"], positive="a"), 0)  # fmt: skip
    assert len(caught.value.problems) == 6
    with pytest.raises(ConfigError, match="no features"):
        READERS["meds"](config(folder, counts=[], values=None, age=False))


def test_events_of_a_batch_are_matched_to_their_own_names(tmp_path: Path) -> None:
    codes = ["x", "b", "a", "x", "ab", "a"]
    table = pa.table({"subject_id": [1, 1, 2, 2, 3, 1], "time": pa.array(range(6), pa.timestamp("us")), "code": codes,
                      "numeric_value": pa.array(range(6), pa.float32())})  # fmt: skip
    pq.write_table(table, tmp_path / "0.parquet")
    events = read_events([tmp_path / "0.parquet"], np.array([1, 3]), code_names(["a*", "b", "a", "x"], {}))
    found = [(int(s), int(t), int(n), events.codes[c], float(v)) for s, t, n, c, v in
             zip(events.subject, events.time, events.name, events.code, events.value, strict=True)]  # fmt: skip
    assert found == [(0, 0, 3, "x", 0), (0, 1, 1, "b", 1), (1, 4, 0, "ab", 4), (0, 5, 0, "a", 5), (0, 5, 2, "a", 5)]
