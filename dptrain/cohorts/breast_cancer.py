"""`data=breast_cancer`: 569 real patients bundled with scikit-learn (Wisconsin diagnostic, Street et al. 1993).

One fine needle aspirate per patient, 30 measurements of cell nuclei, malignant (1) against benign (0). The data have
no patient identifiers and no protected groups.

Scaling is public: each feature's published minimum and maximum (table "Summary Statistics" of the data set's
documentation, copied below) are mapped to -3 and 3 on a logarithmic scale; nothing is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dptrain.cohorts.records import Records
from dptrain.config import DataConfig
from dptrain.options import parse_options

PUBLISHED_RANGE: dict[str, tuple[float, float]] = {
    "mean radius": (6.981, 28.11),
    "mean texture": (9.71, 39.28),
    "mean perimeter": (43.79, 188.5),
    "mean area": (143.5, 2501.0),
    "mean smoothness": (0.053, 0.163),
    "mean compactness": (0.019, 0.345),
    "mean concavity": (0.0, 0.427),
    "mean concave points": (0.0, 0.201),
    "mean symmetry": (0.106, 0.304),
    "mean fractal dimension": (0.05, 0.097),
    "radius error": (0.112, 2.873),
    "texture error": (0.36, 4.885),
    "perimeter error": (0.757, 21.98),
    "area error": (6.802, 542.2),
    "smoothness error": (0.002, 0.031),
    "compactness error": (0.002, 0.135),
    "concavity error": (0.0, 0.396),
    "concave points error": (0.0, 0.053),
    "symmetry error": (0.008, 0.079),
    "fractal dimension error": (0.001, 0.03),
    "worst radius": (7.93, 36.04),
    "worst texture": (12.02, 49.54),
    "worst perimeter": (50.41, 251.2),
    "worst area": (185.2, 4254.0),
    "worst smoothness": (0.071, 0.223),
    "worst compactness": (0.027, 1.058),
    "worst concavity": (0.0, 1.252),
    "worst concave points": (0.0, 0.291),
    "worst symmetry": (0.156, 0.664),
    "worst fractal dimension": (0.055, 0.208),
}
"""Smallest and largest value of each feature, as printed in the documentation (three decimals)."""
SMALLEST_FRACTION = 0.02
"""A logarithm needs a positive minimum: where the published one is below this fraction of the maximum, the feature is
shifted by that fraction of the maximum first."""


@dataclass(frozen=True)
class BreastCancerOptions:
    """breast_cancer has no settings of its own."""


def read_breast_cancer(data: DataConfig) -> Records:
    """569 records of 569 patients, 30 features."""
    from sklearn.datasets import load_breast_cancer  # slow to import, and other data sets do not need it

    parse_options(BreastCancerOptions, data.options, "data")
    bundled = load_breast_cancer()
    names = tuple(str(name) for name in bundled.feature_names)
    low, high = np.array([PUBLISHED_RANGE[name] for name in names]).T
    shift = np.where(low < SMALLEST_FRACTION * high, SMALLEST_FRACTION * high, 0.0)
    start, stop = np.log(low + shift), np.log(high + shift)
    features = (np.log(bundled.data + shift) - (start + stop) / 2) / ((stop - start) / 6)
    warnings: tuple[str, ...] = ()
    if data.path is not None:
        warnings = (f"data.path={data.path} is ignored: breast_cancer comes with scikit-learn.",)
    return Records(
        task="binary",
        features=features.astype(np.float32),
        labels=(1 - bundled.target).astype(np.int64),
        patient_ids=np.array([f"{row:03d}" for row in range(len(features))]),
        label_names=("benign", "malignant"),
        feature_names=names,
        warnings=warnings,
    )
