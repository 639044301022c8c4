"""Any table: formats, encoding by hand, and every kind of bad input with its message."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dptrain.cohorts.constants import fit_constants
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError

Make = Callable[..., DataConfig]


def problems_of(data: DataConfig, kind: type[ConfigError] | type[DataError] = DataError) -> tuple[str, ...]:
    with pytest.raises(kind) as caught:
        load_cohort(data, 0)
    return caught.value.problems


def test_every_format_gives_the_same_cohort(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    visits.to_csv(tmp_path / "a.csv.gz", index=False)
    visits.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    visits.to_csv(tmp_path / "c.csv", index=False, sep=";")
    visits.to_csv(tmp_path / "d.csv", index=False, sep="|", encoding="utf-8-sig")
    visits.to_parquet(tmp_path / "e.parquet")
    expected = load_cohort(table_config(), 0).fingerprint()
    for path in sorted(tmp_path.iterdir()):
        assert load_cohort(table_config(path), 0).fingerprint() == expected, path.name


def test_against_the_rows_one_by_one(table_config: Make, visits: pd.DataFrame) -> None:
    cohort = load_cohort(table_config(), 0)
    assert cohort.feature_names == ("age", "lactate", "unit=icu", "unit=ward", "unit=other/missing")
    for row, raw in visits.iterrows():
        lactate = 1.5 if np.isnan(raw["lactate"]) else raw["lactate"]
        expected = [(raw["age"] - 60) / 20, (np.log(lactate + 0.1) - 0.5) / 0.5]
        expected += [raw["unit"] == "icu", raw["unit"] == "ward", raw["unit"] in ("ed", "")]
        np.testing.assert_allclose(cohort.features[row], np.array(expected, dtype=float), rtol=1e-5)
        patient = cohort.patient[row]
        assert cohort.patient_ids[patient] == raw["mrn"]
        assert cohort.groups["sex"][patient] == (raw["sex"] or "unknown")
        assert cohort.labels[row] == raw["died"]
    assert (cohort.task, cohort.label_names) == ("binary", ("died=0", "died=1"))


def test_tasks(table_config: Make, visits: pd.DataFrame) -> None:
    three = load_cohort(table_config(label_columns=["triage"], classes=["low", "mid", "high"]), 0)
    assert (three.task, three.num_outputs) == ("multiclass", 3)
    assert three.labels.tolist() == [["low", "mid", "high"].index(value) for value in visits["triage"]]
    positive = load_cohort(table_config(label_columns=["triage"], positive="high"), 0)
    assert positive.label_names == ("not high", "high")
    assert positive.labels.tolist() == (visits["triage"] == "high").astype(int).tolist()
    several = load_cohort(table_config(label_columns=["died", "sepsis"]), 0)
    assert several.task == "multilabel"
    np.testing.assert_array_equal(np.isnan(several.labels[:, 1]), visits["sepsis"] == "")


def test_own_split(table_config: Make, tmp_path: Path, visits: pd.DataFrame) -> None:
    cohort = load_cohort(table_config(split_column="fold"), 0)
    assert cohort.patient_ids[cohort.is_test].tolist() == [f"MRN{p:05d}" for p in range(60, 80)]
    assert cohort.outside_dp == ()
    (problem,) = problems_of(table_config(split_column="fold", test_values=["held_out"]))
    assert "other values than data.train_values=['train'] and data.test_values=['held_out']: 'test'" in problem
    visits.assign(fold=["train", "test"] * 100).to_csv(tmp_path / "leak.csv", index=False)
    (problem,) = problems_of(table_config(tmp_path / "leak.csv", split_column="fold"))
    assert "patients have records in both training and test" in problem
    assert "MRN" not in problem


def test_integer_identifiers_with_gaps_stay_integers(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    numbered = visits.assign(mrn=[float(int(i[3:])) for i in visits["mrn"]])
    numbered.to_parquet(tmp_path / "f.parquet")
    assert load_cohort(table_config(tmp_path / "f.parquet"), 0).patient_ids[:2].tolist() == ["0", "1"]


def test_id_column_unique_per_row_warns(table_config: Make) -> None:
    (warning,) = (w for w in load_cohort(table_config(patient_column="visit"), 0).warnings if "every row" in w)
    assert warning.startswith("data.patient_column=visit is different in every row, so patients and records are the")
    assert not any("every row" in w for w in load_cohort(table_config(), 0).warnings)


def test_settings_are_all_checked_at_once() -> None:
    data = DataConfig("table", 56, options={"label_columns": ["a", "b"], "classes": ["x"], "delimiter": "::",
                                            "positive": "x", "numeric": {"a": 1}, "constants": "c.yaml"})  # fmt: skip
    problems = problems_of(data, ConfigError)
    for start in ("data.patient_column=null must name", "data.classes and data.positive", "data.classes is for one",
                  "data.classes=['x'] must name at least two", "data.constants and data.numeric", "data.delimiter='::'",
                  "data.path=null must name your table"):  # fmt: skip
        assert any(problem.startswith(start) for problem in problems), start


def test_types_of_settings(table_config: Make) -> None:
    problems = problems_of(table_config(numeric=["age"], patient_column=["mrn"]), ConfigError)
    assert "data.numeric=['age'] must be a mapping of names to values or null." in problems
    assert "data.patient_column=['mrn'] must be text or null." in problems


def test_bad_constants(table_config: Make) -> None:
    numeric = {"age": {"center": 60}, "lactate": {"center": 0, "scale": 0}, "x": 3, "y": {"centre": 1, "scale": "wide"}}
    problems = problems_of(table_config(numeric=numeric, categorical={"unit": ["icu", "icu"], "x": "q"}), ConfigError)
    text = "\n".join(problems)
    for part in ("data.numeric.age.scale is missing", "data.numeric.lactate: scale=0.0 must be > 0",
                 "data.numeric.x=3 must be {center", "(did you mean 'center'?)", "scale='wide' must be a number",
                 "data.categorical.unit: levels=['icu', 'icu'] must name", "data.categorical.x='q' must be a list"):
        assert part in text, part  # fmt: skip


def test_no_features_named_shows_the_helper(table_config: Make, visits_csv: Path) -> None:
    (problem,) = problems_of(table_config(numeric=None, categorical=None), ConfigError)
    assert f"`dptrain constants data=table data.path={visits_csv} data.patient_column=mrn" in problem


def test_missing_file_folder_and_suffix(tmp_path: Path, table_config: Make) -> None:
    assert "does not exist" in problems_of(table_config(tmp_path / "no.csv"))[0]
    assert "is a folder" in problems_of(table_config(tmp_path))[0]
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    assert "must end in one of .csv" in problems_of(table_config(tmp_path / "a.xlsx"))[0]


@pytest.mark.parametrize("name, content, detail", [
    ("a.parquet", b"not parquet", "cannot be read as a table"),
    ("a.csv", "mrn,é\n".encode("latin-1"), "not UTF-8"),
    ("a.csv", b"", "cannot be read as a table"),
    ("a.csv.gz", b"not gzip", "cannot be read as a table"),
    ("a.csv.gz", gzip.compress(b"mrn,age\n" * 1000, mtime=0)[:-20], "cannot be read as a table"),
])  # fmt: skip
def test_broken_files(tmp_path: Path, table_config: Make, name: str, content: bytes, detail: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert detail in problems_of(table_config(tmp_path / name))[0]


def test_every_missing_column_with_what_may_have_been_meant(table_config: Make) -> None:
    problems = problems_of(table_config(patient_column="MRN", group_columns=["Sex", "race"]))
    assert len(problems) == 3
    assert "no column 'MRN' (did you mean 'mrn'?). Its columns: mrn, visit, age" in problems[0]
    assert "no column 'Sex' (did you mean 'sex'?)" in problems[1]


def test_bad_values_all_at_once(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    bad = visits.astype({"age": object, "mrn": object, "died": object})
    bad.loc[:2, "age"] = "old"
    bad.loc[5:8, "mrn"] = ""
    bad.loc[9, "died"] = "?"
    bad.to_csv(tmp_path / "bad.csv", index=False)
    numeric = {"age": {"center": 60, "scale": 20}, "lactate": {"center": 2, "scale": 1}}
    text = "\n".join(problems_of(table_config(tmp_path / "bad.csv", numeric=numeric)))
    assert "column 'age' has 3 of 200 values that are not finite numbers" in text
    assert "values missing (NaN) and no `fill`" in text
    assert "column 'mrn' (data.patient_column) is empty in 4 of 200 rows" in text
    assert "column 'died' (data.label_columns) is empty in 1 of 200 rows" in text


def test_logarithm_of_what_has_none(table_config: Make) -> None:
    numeric = {"age": {"center": 0, "scale": 1, "log_offset": -40}}
    assert "not above -log_offset=40.0" in problems_of(table_config(numeric=numeric))[0]


def test_labels_that_need_words(table_config: Make) -> None:
    (problem,) = problems_of(table_config(label_columns=["triage"]))
    assert "label column 'triage' has values other than 0 and 1: " in problem
    assert "data.positive=..." in problem
    (problem,) = problems_of(table_config(label_columns=["triage"], positive="dead"))
    assert "data.positive='dead' does not occur in column 'triage'" in problem
    (problem,) = problems_of(table_config(label_columns=["triage"], classes=["low", "mid"]))
    assert "values outside data.classes=['low', 'mid']: 'high'" in problem


def test_one_class_only(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    visits.assign(died=0).to_csv(tmp_path / "one.csv", index=False)
    assert "of one class only" in problems_of(table_config(tmp_path / "one.csv"))[0]


def test_empty_table(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    visits[:0].to_csv(tmp_path / "none.csv", index=False)
    assert "a header and no rows" in problems_of(table_config(tmp_path / "none.csv"))[0]


def test_label_among_the_features_is_refused(table_config: Make) -> None:
    problems = problems_of(table_config(categorical={"died": ["0", "1"], "mrn": ["a"]}), ConfigError)
    assert [p.split(",")[0] for p in problems] == [
        "data.label_columns names 'died'", "data.patient_column names 'mrn'"
    ]  # fmt: skip


def test_constants_file_is_fitted_written_used_and_named(tmp_path: Path, table_config: Make, visits_csv: Path) -> None:
    text = fit_constants(table_config(numeric=None, categorical=None))
    raw = yaml.safe_load(text)
    assert raw["source"].startswith("fitted on the private records of visits.csv")
    assert set(raw["numeric"]) == {"age", "lactate", "sepsis"}
    assert raw["categorical"]["unit"] == ["ed", "icu", "ward"]
    assert "died" not in raw["numeric"]
    assert "# left out: visit (a different whole number in every row" in text
    (tmp_path / "constants.yaml").write_text(text)
    options = {"numeric": None, "categorical": None, "constants": str(tmp_path / "constants.yaml")}
    cohort = load_cohort(table_config(**options), 0)
    assert np.abs(cohort.features[:, 0].mean()) < 0.05
    assert cohort.features[:, 0].std() == pytest.approx(1, abs=0.05)
    assert "the file constants.yaml (fitted on the private records of visits.csv" in cohort.outside_dp[0]
    public = text.replace("source: fitted on", "source: public, not from")
    (tmp_path / "constants.yaml").write_text(public)
    assert not any("constants.yaml" in line for line in load_cohort(table_config(**options), 0).outside_dp)


def test_rare_levels_are_not_written_down(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    rare = visits.assign(unit=np.where(visits["mrn"] == "MRN00003", "prison", visits["unit"]))
    rare.to_csv(tmp_path / "rare.csv", index=False)
    text = fit_constants(table_config(tmp_path / "rare.csv", numeric=None, categorical=None))
    assert "prison" not in text
    assert "MRN" not in text


@pytest.mark.parametrize("text, detail", [
    ("numeric: {age: {center: 1, scale: 1}}", "has no `source`"),
    ("source: public\nnumerics: {}", "must have the entries source, numeric, categorical and no others"),
    ("source: public", "names no columns"),
    ("source: [", "is not YAML"),
    ("source: public\nnumeric: [age]", "numeric must be a mapping"),
    ("source: public\nnumeric: {age: {center: 1}}", "data.constants.numeric.age.scale is missing"),
])  # fmt: skip
def test_bad_constants_files(tmp_path: Path, table_config: Make, text: str, detail: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    options = {"numeric": None, "categorical": None, "constants": str(tmp_path / "c.yaml")}
    assert detail in "\n".join(problems_of(table_config(**options), ConfigError))


def test_missing_constants_file(tmp_path: Path, table_config: Make) -> None:
    options = {"numeric": None, "categorical": None, "constants": str(tmp_path / "no.yaml")}
    assert "no.yaml cannot be read: No such file" in problems_of(table_config(**options), ConfigError)[0]
