"""Manifests: joins, several files, kept rows, bands and patterns, against tables that are read by eye."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.columns import band_names, records_of
from dptrain.cohorts.constants import fit_constants
from dptrain.cohorts.file_column import FileOptions, file_sources, shared_file_warning
from dptrain.cohorts.manifest import ManifestOptions, open_manifest, read_manifest
from dptrain.cohorts.registry import load_cohort
from dptrain.cohorts.sources import Source
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError

Make = Callable[..., DataConfig]
BASE: dict[str, Any] = {"patient_column": "patient", "label_columns": ("sick",)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Slices of three patients, a table of patients (numbers written as decimals) and one of sites."""
    (tmp_path / "slices.csv").write_text(
        "patient;slice;sick;view\n007;1;1;PA\n007;2;0;LAT\n8;1;1;PA\n9;1;0;AP\n", encoding="utf-8"
    )
    (tmp_path / "patients.tsv").write_text("ID\tsex\tage\tsite\n8.0\tF\t40\tb\n007\tM\t71\ta\n7\tX\t1\ta\n")
    (tmp_path / "sites.csv").write_text("site,city\na,Kiel\nb,Ulm\n")
    return tmp_path


def read(folder: Path, wanted: list[str], **options: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    manifest = open_manifest(str(folder / "slices.csv"), ManifestOptions(**BASE, **options), "a table")
    return read_manifest(manifest, wanted)


PATIENTS = {"file": "patients.tsv", "on": "patient", "key": "ID"}


def test_join_over_two_tables(folder: Path) -> None:
    table, warnings = read(folder, ["slice", "sex", "city"], join=(PATIENTS, {"file": "sites.csv", "on": "site"}))
    assert list(table.columns) == ["slice", "sex", "city"]
    assert table["sex"].tolist()[:3] == ["M", "M", "F"], "007 is not 7, and 8 is 8.0"
    assert table["city"].tolist()[:3] == ["Kiel", "Kiel", "Ulm"]
    assert table["sex"].isna().tolist() == [False, False, False, True]
    assert warnings == (
        "1 of 4 records have no row in patients.tsv: its columns are missing for them.",
        "1 of 4 records have no row in sites.csv: its columns are missing for them.",
    )


def test_join_on_several_columns(folder: Path) -> None:
    (folder / "reads.csv").write_text("patient,slice,reader\n007,2,B\n007,1,A\n8,1,C\n9,1,D\n")
    table, warnings = read(folder, ["reader"], join=({"file": "reads.csv", "on": ["patient", "slice"]},))
    assert (table["reader"].tolist(), warnings) == (["A", "B", "C", "D"], ())


def test_a_join_never_multiplies_records(folder: Path) -> None:
    (folder / "patients.tsv").write_text("ID\tsex\tvisit\n8\tF\t1\n8\tF\t2\n007\tM\t1\n9\tF\t1\n")
    table, _ = read(folder, ["sex"], join=(PATIENTS,))
    assert table["sex"].tolist() == ["M", "M", "F", "F"], "the same in what is asked for: no matter"
    with pytest.raises(DataError, match=r"several rows with the same ID \(1 rows too many\)") as caught:
        read(folder, ["visit"], join=(PATIENTS,))
    assert "007" not in str(caught.value)


def test_join_without_any_match(folder: Path) -> None:
    with pytest.raises(DataError, match="column slice of the manifest and ID there share no value"):
        read(folder, ["sex"], join=({"file": "patients.tsv", "on": "slice", "key": "ID"},))


def test_every_problem_of_joins_at_once(folder: Path) -> None:
    join = ({"file": "no.csv", "on": "patient"}, {"file": "sites.csv", "on": "Site", "key": "town"})
    with pytest.raises(DataError) as caught:
        read(folder, ["sex"], join=join)
    text = "\n".join(caught.value.problems)
    assert "data.join.file" in text
    assert "no.csv does not exist" in text
    assert "has no column 'Site'" in text
    assert "has no column 'town'" in text
    with pytest.raises(ConfigError, match=r"data.join has {'file': 'a.csv'}, expected"):
        ManifestOptions(**BASE, join=({"file": "a.csv"},))


def test_several_manifests_and_their_names(folder: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists" / "valid.csv").write_text("sick,patient,extra\n1,c,\n")
    (folder / "lists" / "train.csv").write_text("patient,sick\na,1\nb,0\n")
    options = ManifestOptions(**BASE, split_column="manifest", test_values=("valid",))
    manifest = open_manifest(str(folder / "lists" / "*.csv"), options, "a table")
    table, _ = read_manifest(manifest, ["patient", "manifest"])
    assert table.to_numpy().tolist() == [["a", "train"], ["b", "train"], ["c", "valid"]]
    (folder / "lists" / "zz.csv").write_text("patient\nd\n")
    with pytest.raises(DataError, match=r"zz.csv has no column 'sick'"):
        open_manifest(str(folder / "lists" / "*.csv"), options, "a table")
    with pytest.raises(DataError, match="matches no file"):
        open_manifest(str(folder / "lists" / "*.tsv"), options, "a table")


def test_keep(folder: Path) -> None:
    table, _ = read(folder, ["slice"], keep={"view": ["PA", "LAT"], "slice": 1})
    assert table["slice"].tolist() == ["1", "1"]
    table, _ = read(folder, ["slice"], keep={"sex": "M"}, join=(PATIENTS,))
    assert table["slice"].tolist() == ["1", "2"]
    with pytest.raises(DataError, match=r"data.keep={view: \['pa'\]} leaves no row; the column has 'PA', 'LAT', 'AP'"):
        read(folder, ["slice"], keep={"view": "pa"})


def test_bands() -> None:
    assert band_names([40, 60]) == ["<40", "40-59", ">=60"]
    assert band_names([0, 1, 18]) == ["<0", "0", "1-17", ">=18"]
    assert band_names([0.5, 1]) == ["<0.5", "0.5 to <1", ">=1"]
    table = pd.DataFrame({"patient": list("abcde"), "sick": list("01010"), "age": ["39.9", "40", "59", "60", ""]})
    options = ManifestOptions(**BASE, group_columns=("age",), group_bands={"age": [40, 60]})
    found = records_of(table, options, "x", np.zeros((5, 1), np.float32), ("f",)).groups["age"]
    assert found.tolist() == ["<40", "40-59", "40-59", ">=60", "unknown"]
    with pytest.raises(DataError, match=r"column 'age' \(data.group_bands\) has 1 values that are not numbers"):
        records_of(table.replace("60", "old"), options, "x", np.zeros((5, 1), np.float32), ("f",))
    with pytest.raises(ConfigError) as caught:
        ManifestOptions(**BASE, group_bands={"age": [60, 40], "sex": 1})
    assert len(caught.value.problems) == 3


def test_data_table_joins_too(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    patients = visits.drop_duplicates("mrn")[["mrn", "sex"]].sample(frac=1, random_state=0)
    patients.rename(columns={"mrn": "id"}).to_csv(tmp_path / "patients.csv", index=False)
    visits.drop(columns="sex").to_csv(tmp_path / "visits.csv", index=False)
    joined = table_config(tmp_path / "visits.csv", join=[{"file": "patients.csv", "on": "mrn", "key": "id"}])
    assert load_cohort(joined, 0).fingerprint() == load_cohort(table_config(), 0).fingerprint()


def test_constants_see_joined_columns(tmp_path: Path, table_config: Make, visits: pd.DataFrame) -> None:
    visits.drop_duplicates("mrn")[["mrn", "sex"]].to_csv(tmp_path / "patients.csv", index=False)
    visits.drop(columns="sex").to_csv(tmp_path / "visits.csv", index=False)
    join = [{"file": "patients.csv", "on": "mrn"}]
    text = fit_constants(table_config(tmp_path / "visits.csv", join=join, numeric=None, categorical=None))
    assert "sex: [F, M]" in text


def test_files_by_column_and_by_pattern(tmp_path: Path) -> None:
    table = pd.DataFrame({"p": ["01", "2"], "s": ["a", "b"]})
    by_pattern = FileOptions(path_pattern="pics.zip/{p}/{s}_{p}.png")
    assert by_pattern.columns == ["p", "s", "p"]
    assert file_sources(table, by_pattern, tmp_path, "images") == [
        Source(tmp_path / "pics.zip", "01/a_01.png"), Source(tmp_path / "pics.zip", "2/b_2.png"),
    ]  # fmt: skip
    by_column = FileOptions(path_column="s", root=str(tmp_path))
    assert file_sources(table, by_column, Path("/nowhere"), "images")[1] == Source(tmp_path / "b")
    with pytest.raises(DataError, match=r"data.root=.*/none does not exist"):
        file_sources(table, FileOptions(path_column="s", root="none"), tmp_path, "images")
    with pytest.raises(DataError, match="column 's', which names the files, is empty in 1 of 2 rows"):
        file_sources(table.replace("b", ""), by_column, tmp_path, "images")


@pytest.mark.parametrize("options", [{}, {"path_column": "a", "path_pattern": "{a}"}, {"path_pattern": "x.png"},
                                     {"path_pattern": "{a"}])  # fmt: skip
def test_exactly_one_way_to_name_files(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.path_"):
        FileOptions(**options)


def test_one_file_of_two_patients_warns() -> None:
    files = [Source(Path("a")), Source(Path("a")), Source(Path("b")), Source(Path("b"))]
    (warning,) = shared_file_warning(files, np.array(["p", "q", "r", "r"]))
    assert warning.startswith("1 files are named for more than one patient")
    assert shared_file_warning(files, np.array(["p", "p", "r", "r"])) == ()
