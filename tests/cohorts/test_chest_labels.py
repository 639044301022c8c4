"""Label policies of CheXpert and MIMIC-CXR against what Irvin et al. describe, value by value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dptrain.cohorts.chest_labels import ChestLabelOptions, chest_labels
from dptrain.errors import ConfigError, DataError

TABLE = pd.DataFrame({
    "Edema": ["1.0", "0.0", "-1.0", "", "-1"], "Fracture": ["", "-1.0", "1", "", "0"],
}, dtype=object)  # fmt: skip
N = np.nan


@pytest.mark.parametrize("options, edema, fracture", [
    ({}, [1, 0, 1, 0, 1], [0, 1, 1, 0, 0]),
    ({"uncertain": "zeros"}, [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]),
    ({"uncertain": "ignore"}, [1, 0, N, 0, N], [0, N, 1, 0, 0]),
    ({"blank": "ignore"}, [1, 0, 1, N, 1], [N, 1, 1, N, 0]),
    ({"uncertain": "zeros", "uncertain_by_label": {"Fracture": "ones"}}, [1, 0, 0, 0, 0], [0, 1, 1, 0, 0]),
])  # fmt: skip
def test_policies(options: dict, edema: list[float], fracture: list[float]) -> None:
    found = chest_labels(TABLE, ChestLabelOptions(labels=("Fracture", "Edema"), **options), "x.csv")
    np.testing.assert_array_equal(found.values, np.array([fracture, edema], dtype=np.float32).T)
    assert found.task == "multilabel"
    assert found.label_names == ("Fracture", "Edema")
    np.testing.assert_array_equal(found.usable, ~(np.isnan(fracture) & np.isnan(edema)))


def test_one_label_is_binary_and_unknown_ones_are_not_usable() -> None:
    found = chest_labels(TABLE, ChestLabelOptions(labels=("Edema",), uncertain="ignore"), "x.csv")
    assert found.task == "binary"
    assert found.label_names == ("no Edema", "Edema")
    assert found.usable.tolist() == [True, True, False, True, False]
    labels = found.take(np.flatnonzero(found.usable))
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0, 0]


def test_other_values_are_all_named() -> None:
    table = pd.DataFrame({"Edema": ["2", "yes", "1"], "Fracture": ["0.5", "", "1"]}, dtype=object)
    with pytest.raises(DataError) as caught:
        chest_labels(table, ChestLabelOptions(labels=("Edema", "Fracture")), "labels.csv")
    assert [p.split(": ")[1].split(" that")[0] for p in caught.value.problems] == [
        "labels.csv has 2 values in column 'Edema'", "labels.csv has 1 values in column 'Fracture'",
    ]  # fmt: skip


def test_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ChestLabelOptions(labels=("Edma",), uncertain="one", blank="ones", uncertain_by_label={"Edema": "maybe"})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "data.labels='Edma' is not known (did you mean 'Edema'?)" in text
    assert "data.uncertain_by_label.Edema='maybe'" in text
