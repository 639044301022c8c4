"""Simulated chest films: anatomy where it belongs, lesions that can be learned, planted patients."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dptrain.cohorts.sim_chest import Anatomy, lungs, pixel_grid, tissue
from dptrain.cohorts.sim_imaging import SimImagingOptions, read_sim_imaging, simulate_films
from dptrain.cohorts.sim_patients import Patients
from dptrain.config import DataConfig
from dptrain.errors import ConfigError


@cache
def films(num_patients: int = 900, **options: Any) -> tuple[np.ndarray, np.ndarray, Patients]:
    return simulate_films(SimImagingOptions(num_patients=num_patients, image_size=32, **options), 1.8)


def average(**changes: float) -> Anatomy:
    """One film of an average adult, with some of its geometry changed."""
    values = {"shift_x": 0, "shift_y": 0, "turn": 0, "scale": 1, "width": 1, "length": 1, "heart_size": 1,
              "heart_side": 1, "diaphragm": 0, "rib_slope": 1, "rib_phase": 0, "fat": 0.3, "breast": 0, "bone": 1,
              **changes}  # fmt: skip
    fields = {name: np.full((1, 1, 1), value, dtype=np.float32) for name, value in values.items()}
    return Anatomy(**fields, vessels=np.zeros((1, 6, 1), dtype=np.float32))


def region(film: np.ndarray, x: tuple[float, float], y: tuple[float, float]) -> float:
    """Mean of a film (size, size) in a box of coordinates from -1 to 1."""
    size = film.shape[-1]
    columns, rows = (slice(round((low + 1) / 2 * size), round((high + 1) / 2 * size)) for low, high in (x, y))
    return float(film[rows, columns].mean())


def test_anatomy_is_where_it_belongs() -> None:
    film = tissue(average(), 128)[0][0]
    left_lung, right_lung = region(film, (0.35, 0.6), (-0.4, -0.1)), region(film, (-0.6, -0.35), (-0.4, -0.1))
    assert left_lung == pytest.approx(right_lung, abs=0.05)
    spine, belly = region(film, (-0.06, 0.06), (0.0, 0.3)), region(film, (-0.5, 0.5), (0.7, 0.95))
    assert region(film, (0.95, 1.0), (0.8, 1.0)) < 0.1 < right_lung < belly < spine, "air around, lung, tissue, bone"
    heart, mirror = region(film, (0.15, 0.35), (0.15, 0.35)), region(film, (-0.4, -0.3), (0.05, 0.25))
    assert heart > mirror + 0.2, "the heart is on the patient's left, the right of the film"
    shade = film[:, 64 - 34]
    ribs = np.diff(np.sign(np.diff(shade[30:80])))
    assert 3 <= (ribs < 0).sum() <= 9, "ribs cross the lung"


def test_geometry_follows_its_parameters() -> None:
    x, y = pixel_grid(64)
    right, left = (field[0] for field in lungs(average(), x, y))
    assert right.shape == (64, 64)
    assert right[:, 32:].max() == 0 == left[:, :32].max()
    assert np.flatnonzero(right.max(axis=1) > 0.5)[-1] < np.flatnonzero(left.max(axis=1) > 0.5)[-1], "liver below it"
    deep = lungs(average(length=1.15), x, y)[0]
    assert deep.sum() > right.sum()
    plain, large, mirrored = (tissue(average(**change), 64)[0][0] for change in ({}, {"heart_size": 1.3},
                                                                                  {"heart_side": -1}))
    assert large[28:50].sum() > plain[28:50].sum() + 5
    side = (0.15, 0.35), (0.15, 0.35)
    assert region(mirrored, *side) < region(plain, *side) - 0.15
    assert region(mirrored[:, ::-1], *side) == pytest.approx(region(plain, *side), abs=0.06)
    shifted = tissue(average(shift_x=0.125), 64)[0][0]
    np.testing.assert_allclose(shifted[:, 8:56], plain[:, 4:52], atol=1e-3)


def test_shapes_scale_and_labels() -> None:
    options = {"num_patients": 40, "image_size": 32}
    records = read_sim_imaging(DataConfig("sim_imaging", 28, records_per_patient=1.5, options=options))
    assert records.features.shape[1:] == (1, 32, 32)
    assert records.features.dtype == np.float32
    assert np.abs(records.features).max() <= 2
    multi = read_sim_imaging(
        DataConfig("sim_imaging", 28, records_per_patient=1.5, options={**options, "labels": "multilabel"})
    )
    assert multi.label_names == ("nodule", "consolidation")
    np.testing.assert_array_equal(multi.labels.max(axis=1), records.labels)
    default = read_sim_imaging(DataConfig("sim_imaging", 28, options={"num_patients": 20}))
    assert default.features.shape == (20, 1, 64, 64)
    with pytest.raises(ConfigError) as caught:
        read_sim_imaging(DataConfig("sim_imaging", 28, options={"image_size": 50, "labels": "x", "rare_share": 2}))
    assert [problem.split("=")[0] for problem in caught.value.problems[-2:]] == ["data.labels", "data.image_size"]


def test_films_of_a_patient_are_alike_but_not_the_same() -> None:
    pictures, _, people = films()
    smooth = np.stack([gaussian_filter(film, 1) for film in pictures]).reshape(len(pictures), -1)
    second = np.flatnonzero(people.visit == 1)
    own = np.square(smooth[second] - smooth[second - 1]).mean(axis=1)
    other = np.square(smooth[second] - np.roll(smooth[second], 1, axis=0)).mean(axis=1)
    assert (own > 1e-4).all()
    assert np.mean(own < other) > 0.7


def spots(pictures: np.ndarray) -> np.ndarray:
    """(N, 64) in a 4 x 4 mosaic: largest and standard deviation of the film between two blurs, at two scales."""
    found = []
    for fine, coarse in ((0.7, 2.0), (1.5, 4.0)):
        band = np.stack([gaussian_filter(film, fine) - gaussian_filter(film, coarse) for film in pictures])
        tiles = band.reshape(len(band), 4, 8, 4, 8).transpose(0, 1, 3, 2, 4).reshape(len(band), 16, 64)
        found += [tiles.max(axis=2), tiles.std(axis=2)]
    return np.concatenate(found, axis=1)


def test_lesions_can_be_seen_but_not_all_of_them() -> None:
    pictures, lesions, people = films(rare_share=0.05, outlier_share=0.0)
    features, planted, label = spots(pictures), people.planted[people.patient], lesions.any(axis=1)
    usual, train = planted == "none", people.patient < 600
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    score = model.fit(features[train & usual], label[train & usual]).decision_function(features)
    assert 0.7 < roc_auc_score(label[~train & usual], score[~train & usual]) < 0.95
    assert roc_auc_score(label[~usual], score[~usual]) < 0.45, "the rare group's own rule is the opposite"


def test_contrast_makes_lesions_denser_and_nothing_else() -> None:
    (plain, lesions, people), (bold, same, _) = films(300), films(300, lesion_contrast=2.0)
    np.testing.assert_array_equal(lesions, same)
    ordinary = people.planted[people.patient] == "none"
    change = (bold - plain)[ordinary]
    ill = lesions[ordinary].any(axis=1)
    assert not change[~ill].any()
    assert np.median(change[ill].max(axis=(1, 2))) > 0.15
    with pytest.raises(ConfigError, match=r"data.lesion_contrast=0.0 must be above 0"):
        films(20, lesion_contrast=0.0)


def test_nodules_stay_and_consolidations_come_and_go() -> None:
    _, lesions, people = films(outlier_share=0.0, rare_share=0.0)
    for index, stays in ((0, True), (1, False)):
        share = np.bincount(people.patient, lesions[:, index]) / np.bincount(people.patient)
        assert np.isin(share, (0, 1)).all() == stays
    assert 0.15 < lesions[:, 0].mean() < 0.35
    assert 0.12 < lesions[:, 1].mean() < 0.35


def test_outliers_wear_a_device_and_contradict() -> None:
    plain, _, _ = films(300, outlier_share=0.0, rare_share=0.0)
    alike, findings, people = films(300, outlier_share=0.2, rare_share=0.0, outlier_labels="same")
    pictures, labels, _ = films(300, outlier_share=0.2, rare_share=0.0)
    np.testing.assert_array_equal(pictures, alike)
    outlier = people.is_outlier[people.patient]
    np.testing.assert_array_equal(pictures[~outlier], plain[~outlier])
    changed = (np.abs(pictures - plain) > 0.15).mean(axis=(1, 2))
    assert (changed[outlier] > 0.01).all()
    for patient in np.flatnonzero(people.is_outlier):
        rows = people.patient == patient
        assert labels[rows].any(axis=1).all() != findings[rows].any()


def test_rare_group_is_mirrored_by_degrees() -> None:
    plain = films(300, rare_share=0.0)
    for strength, expected in ((1.0, 0.9), (0.0, 0.0)):
        pictures, _, people = films(300, rare_share=0.2, rare_strength=strength)
        rare = people.is_rare[people.patient]
        moved = np.abs(pictures[rare] - plain[0][rare])[:, 12:24, 16:24].mean(axis=(1, 2)) > 0.03
        assert moved.mean() == pytest.approx(expected, abs=0.1)


def test_a_part_of_the_records_is_drawn_as_in_the_whole() -> None:
    people = films()[2]
    part = people.records(slice(5, 9))
    assert dataclasses.asdict(part)["ids"].shape == people.ids.shape
    np.testing.assert_array_equal(part.patient, people.patient[5:9])
