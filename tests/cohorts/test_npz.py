"""data=npz and data=medmnist: layouts, tasks, exact copies, and the real PneumoniaMNIST."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dptrain.cohorts import npz_arrays
from dptrain.cohorts.registry import load_cohort
from dptrain.config import DataConfig
from dptrain.errors import ConfigError, DataError

NATIVE: dict[str, Any] = {"size": None, "channels": None}


def arrays(shape: tuple[int, ...] = (6, 6), num_labels: int = 1, high: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for part, count in (("train", 30), ("val", 10), ("test", 20)):
        found[f"{part}_images"] = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        found[f"{part}_labels"] = rng.integers(0, high, (count, num_labels)).astype(np.uint8)
    return found


def config(path: Path, content: dict[str, Any], **options: Any) -> DataConfig:
    np.savez(path, **content)
    return DataConfig("npz", 40, path=str(path), options={**NATIVE, **options})


def test_parts_values_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_arrays, "CHUNK_BYTES", 100)  # several images, not all, in a piece
    content = arrays()
    cohort = load_cohort(config(tmp_path / "a.npz", content, mean=0.0, std=1.0), 0)
    stacked = np.concatenate([content[f"{part}_images"] for part in ("train", "val", "test")])
    np.testing.assert_allclose(cohort.features[:, 0], stacked / 255, atol=1e-6)
    np.testing.assert_array_equal(cohort.is_test[cohort.patient], np.repeat([False, True], [40, 20]))
    labels = np.concatenate([content[f"{part}_labels"] for part in ("train", "val", "test")])
    np.testing.assert_array_equal(cohort.labels, labels[:, 0])
    assert "no patient identifiers: the unit of privacy is the image" in cohort.warnings[0]
    assert "number of classes was counted in the labels" in cohort.outside_dp[0]


def test_a_subset_is_taken_from_the_right_rows(tmp_path: Path) -> None:
    data = config(tmp_path / "a.npz", arrays())
    everybody, some = load_cohort(data, 0), load_cohort(dataclasses.replace(data, max_patients=25), 0)
    place = {name: index for index, name in enumerate(everybody.patient_ids.tolist())}
    rows = [np.flatnonzero(everybody.patient == place[some.patient_ids[p]])[0] for p in some.patient]
    np.testing.assert_array_equal(some.features, everybody.features[rows])
    np.testing.assert_array_equal(some.labels, everybody.labels[rows])


def test_tasks(tmp_path: Path) -> None:
    three = load_cohort(config(tmp_path / "a.npz", arrays((6, 6, 3), high=3), classes=["x", "y", "z"]), 0)
    assert (three.task, three.label_names, three.features.shape) == ("multiclass", ("x", "y", "z"), (60, 3, 6, 6))
    assert three.outside_dp == ()
    several = load_cohort(config(tmp_path / "b.npz", arrays(num_labels=2)), 0)
    assert (several.task, several.label_names) == ("multilabel", ("label 0", "label 1"))
    assert several.labels.shape == (60, 2)


def test_copies_are_one_unit_and_never_on_both_sides(tmp_path: Path) -> None:
    content = arrays()
    content["val_images"][0] = content["train_images"][3]
    content["test_images"][:2] = content["train_images"][:2]
    content["test_images"][6] = content["test_images"][5]
    cohort = load_cohort(config(tmp_path / "a.npz", content), 0)
    assert (cohort.num_records, cohort.num_patients) == (58, 56)
    assert cohort.patient[30] == cohort.patient[3]
    assert "2 images are exact copies of others" in cohort.warnings[1]
    assert "2 test images are exact copies of training images and are left out" in cohort.warnings[2]


def test_own_split_and_patient_identifiers(tmp_path: Path) -> None:
    content = arrays()
    content |= {f"{part}_patients": np.arange(len(content[f"{part}_labels"])) // 2 + start
                for part, start in (("train", 0), ("val", 100), ("test", 200))}  # fmt: skip
    data = config(tmp_path / "a.npz", content, patients_key="{part}_patients", test_parts=["test"])
    cohort = load_cohort(data, 0)
    assert (cohort.num_patients, cohort.warnings) == (30, ())
    free = load_cohort(dataclasses.replace(data, options={**data.options, "test_parts": []}), 0)
    assert (free.num_records, free.num_patients, free.is_test.sum()) == (40, 20, 6)


def test_problems(tmp_path: Path) -> None:
    content = arrays()
    del content["val_labels"]
    with pytest.raises(DataError, match=r"has no array 'val_labels'.*Its arrays: train_images"):
        load_cohort(config(tmp_path / "a.npz", content), 0)
    content = arrays()
    content["test_images"] = content["test_images"][:-1, :5]
    with pytest.raises(DataError) as caught:
        load_cohort(config(tmp_path / "a.npz", content), 0)
    assert len(caught.value.problems) == 2
    with pytest.raises(DataError, match=r"has shape \(30, 6, 6, 6, 3\), expected \(N, H, W\)"):
        load_cohort(config(tmp_path / "a.npz", arrays((6, 6, 6, 3))), 0)
    with pytest.raises(ConfigError, match=r"data.classes=\['a'\] must name each of the 2 labels"):
        load_cohort(config(tmp_path / "a.npz", arrays(num_labels=2), classes=["a"]), 0)
    with pytest.raises(ConfigError, match=r"data.images_key='images' must hold \{part\}"):
        load_cohort(config(tmp_path / "a.npz", arrays(), images_key="images"), 0)
    with pytest.raises(ConfigError, match=r"data.frame and data.dicom_window are for DICOM files"):
        load_cohort(config(tmp_path / "a.npz", arrays(), frame=0), 0)
    (tmp_path / "b.npz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        load_cohort(DataConfig("npz", 40, path=str(tmp_path / "b.npz")), 0)
    with pytest.raises(DataError, match="stored in Fortran order"):
        load_cohort(config(tmp_path / "a.npz", {k: np.asfortranarray(v) for k, v in arrays().items()}), 0)
    with pytest.raises(ConfigError, match=r"data.path=null must name an .npz file"):
        load_cohort(DataConfig("npz", 40), 0)


def test_medmnist_finds_its_file_and_checks_its_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".medmnist").mkdir()
    np.savez(tmp_path / ".medmnist" / "retinamnist_64.npz", **arrays((8, 8, 3), high=5))
    options = {**NATIVE, "flag": "retinamnist", "resolution": 64}
    cohort = load_cohort(DataConfig("medmnist", 5232, options=options), 0)
    assert (cohort.task, cohort.num_outputs, cohort.features.shape[1:]) == ("multiclass", 5, (3, 8, 8))
    assert "retinamnist has 1200 published training images" in cohort.warnings[-1]
    with pytest.raises(DataError, match=r"there is no .*retinamnist.npz. Download retinamnist.npz from"):
        load_cohort(DataConfig("medmnist", 1200, options={**NATIVE, "flag": "retinamnist"}), 0)
    with pytest.raises(ConfigError) as caught:
        load_cohort(DataConfig("medmnist", 1200, options={"flag": "retinmnist", "resolution": 32}), 0)
    assert "did you mean 'retinamnist'?" in caught.value.problems[0]
    assert len(caught.value.problems) == 2


@pytest.mark.data
def test_pneumoniamnist(shared_data: Callable[[str], Path]) -> None:
    path = str(shared_data("pneumoniamnist"))
    cohort = load_cohort(DataConfig("medmnist", 5232, path=path, options=NATIVE), 0)
    assert (cohort.num_records, cohort.num_patients, cohort.is_test.sum()) == (5856, 5827, 621)
    assert cohort.label_names == ("normal", "pneumonia")
    assert "29 images are exact copies of others" in cohort.warnings[1]
    test = cohort.is_test[cohort.patient]
    assert test.sum() == 624
    flat = np.asarray(cohort.features).reshape(5856, -1)
    model = LogisticRegression(C=0.01, max_iter=200).fit(flat[~test], cohort.labels[~test])
    assert roc_auc_score(cohort.labels[test], model.decision_function(flat[test])) > 0.88


@pytest.mark.parametrize("images, labels, reason", [
    (np.ones((40, 6, 6)), np.arange(40) % 2, r"an image of 'train_images': its pixels are floating-point numbers"),
    (np.ones((40, 6, 6), "<U3"), np.arange(40) % 2, r"its values have type <U3, expected whole or floating-point"),
    (np.ones((40, 6, 6), np.uint8), np.array(["a", "b"] * 20), r"labels must be numbers, found type <U1"),
    (np.ones((0, 6, 6), np.uint8), np.zeros(0, int), r"there is not one label in train_images, val_images"),
])  # fmt: skip
def test_values_that_are_no_images_or_labels(
    images: np.ndarray, labels: np.ndarray, reason: str, tmp_path: Path
) -> None:
    arrays = {f"{part}_{what}": values for part in ("train", "val", "test")
              for what, values in (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=reason):
        load_cohort(DataConfig("npz", 40, path=str(tmp_path / "a.npz"), options={"size": 4}), 0)


def test_a_damaged_file_is_refused_or_read(tmp_path: Path) -> None:
    """Bytes changed at random: what cannot be read is an error of ours."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (60, 4, 4)).astype(np.uint8), np.arange(60) % 2
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    refused = 0
    for number in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = int(rng.integers(0, 256))
        (tmp_path / "b.npz").write_bytes(data[: len(data) - number // 2])
        options = {"size": 4, "train_parts": ["train"], "test_parts": [], "cache_dir": str(tmp_path / "cache")}
        try:
            load_cohort(DataConfig("npz", 40, path=str(tmp_path / "b.npz"), options=options), 0)
        except DataError:
            refused += 1
    assert refused > 30
