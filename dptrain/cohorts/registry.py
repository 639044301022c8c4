"""Data sets by name. A new one is one file with a reader and one line in `READERS`.

A reader takes the `DataConfig`, parses its own options (`dptrain.options.parse_options`) and returns `Records`; subset,
split and checks are the same for all and happen in `dptrain.cohorts.records`.
"""

from __future__ import annotations

from collections.abc import Callable

from dptrain.cohorts.breast_cancer import read_breast_cancer
from dptrain.cohorts.chexpert import read_chexpert
from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.diabetes130 import read_diabetes130
from dptrain.cohorts.ecg import read_ecg
from dptrain.cohorts.embed import read_embed
from dptrain.cohorts.fairvision import read_fairvision
from dptrain.cohorts.fitzpatrick17k import read_fitzpatrick17k
from dptrain.cohorts.ham10000 import read_ham10000
from dptrain.cohorts.images import read_images
from dptrain.cohorts.medmnist import read_medmnist
from dptrain.cohorts.meds import read_meds
from dptrain.cohorts.mimic_cxr import read_mimic_cxr
from dptrain.cohorts.mimic_iv_ecg import read_mimic_iv_ecg
from dptrain.cohorts.mimic_iv_ed import read_mimic_iv_ed
from dptrain.cohorts.npz import read_npz
from dptrain.cohorts.ptbxl import read_ptbxl
from dptrain.cohorts.records import Records, assemble, num_test_patients
from dptrain.cohorts.sim_ecg import read_sim_ecg
from dptrain.cohorts.sim_ehr import read_sim_ehr
from dptrain.cohorts.sim_imaging import read_sim_imaging
from dptrain.cohorts.table import read_table
from dptrain.config import DataConfig
from dptrain.errors import ConfigError
from dptrain.options import near_miss

READERS: dict[str, Callable[[DataConfig], Records]] = {
    "breast_cancer": read_breast_cancer,
    "chexpert": read_chexpert,
    "diabetes130": read_diabetes130,
    "ecg": read_ecg,
    "embed": read_embed,
    "fairvision": read_fairvision,
    "fitzpatrick17k": read_fitzpatrick17k,
    "ham10000": read_ham10000,
    "images": read_images,
    "medmnist": read_medmnist,
    "meds": read_meds,
    "mimic_cxr": read_mimic_cxr,
    "mimic_iv_ecg": read_mimic_iv_ecg,
    "mimic_iv_ed": read_mimic_iv_ed,
    "npz": read_npz,
    "ptbxl": read_ptbxl,
    "sim_ecg": read_sim_ecg,
    "sim_ehr": read_sim_ehr,
    "sim_imaging": read_sim_imaging,
    "table": read_table,
}


def load_cohort(data: DataConfig, seed: int) -> Cohort:
    """The cohort that `data` describes; subset and split are drawn from the seed tree at `seed`.

    Raises ConfigError for settings and DataError for files, each with every problem found.
    """
    if data.name not in READERS:
        raise ConfigError(
            f"data.name={data.name!r} is not a data set{near_miss(data.name, READERS)}; "
            f"expected one of {', '.join(sorted(READERS))}."
        )
    records = READERS[data.name](data)
    return assemble(data.name, records, seed, data.max_patients, data.test_fraction)


def nominal_train_patients(data: DataConfig) -> int:
    """PUBLIC number of training patients that sets the divisor of private steps; uses the configuration alone.

    The smaller of `data.nominal_patients` and what `data.max_patients` leaves for training after `data.test_fraction`.
    """
    assert data.nominal_patients is not None
    if data.max_patients is None:
        return data.nominal_patients
    return min(data.nominal_patients, data.max_patients - num_test_patients(data.max_patients, data.test_fraction))
