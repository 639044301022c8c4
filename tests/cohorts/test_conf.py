"""conf/data: every file is read by its reader's own options, with values from the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dptrain.cohorts import (
    chexpert,
    ecg,
    embed,
    fairvision,
    fitzpatrick17k,
    ham10000,
    images,
    medmnist,
    mimic_cxr,
    mimic_iv_ecg,
    npz,
    ptbxl,
)
from dptrain.cohorts.breast_cancer import BreastCancerOptions
from dptrain.cohorts.decode_cache import DecodeOptions
from dptrain.cohorts.diabetes130 import Diabetes130Options
from dptrain.cohorts.ecg_decode import EcgSpec
from dptrain.cohorts.image_decode import ImageSpec
from dptrain.cohorts.manifest import ManifestOptions
from dptrain.cohorts.meds import MedsOptions
from dptrain.cohorts.mimic_iv_ed import MimicIvEdOptions
from dptrain.cohorts.registry import READERS
from dptrain.cohorts.sim_ecg import SimEcgOptions
from dptrain.cohorts.sim_ehr import SimEhrOptions
from dptrain.cohorts.sim_imaging import SimImagingOptions
from dptrain.cohorts.table import TableOptions
from dptrain.config import DataConfig
from dptrain.options import parse_options

OPTIONS: dict[str, type | tuple[type, ...]] = {
    "breast_cancer": BreastCancerOptions,
    "chexpert": chexpert.OPTIONS,
    "diabetes130": Diabetes130Options,
    "ecg": ecg.OPTIONS,
    "embed": embed.OPTIONS,
    "fairvision": fairvision.OPTIONS,
    "fitzpatrick17k": fitzpatrick17k.OPTIONS,
    "ham10000": ham10000.OPTIONS,
    "images": images.OPTIONS,
    "medmnist": medmnist.OPTIONS,
    "meds": MedsOptions,
    "mimic_cxr": mimic_cxr.OPTIONS,
    "mimic_iv_ecg": mimic_iv_ecg.OPTIONS,
    "mimic_iv_ed": MimicIvEdOptions,
    "npz": npz.OPTIONS,
    "ptbxl": ptbxl.OPTIONS,
    "sim_ecg": SimEcgOptions,
    "sim_ehr": SimEhrOptions,
    "sim_imaging": SimImagingOptions,
    "table": (ManifestOptions, TableOptions),
}
SHARED = (ImageSpec, EcgSpec, DecodeOptions)
"""Owners of settings whose defaults are those of the generic readers."""
GENERIC = ("images", "ecg")
COMMON = {f.name for f in dataclasses.fields(DataConfig)} - {"options"}


def test_every_data_set_has_a_file(repo_root: Path) -> None:
    assert {path.stem for path in (repo_root / "conf" / "data").glob("*.yaml")} >= set(READERS)


@pytest.mark.parametrize("name", sorted(READERS))
def test_file_names_every_setting_with_its_default(repo_root: Path, name: str) -> None:
    raw = yaml.safe_load((repo_root / "conf" / "data" / f"{name}.yaml").read_text())
    raw = raw.get("data", raw)  # a data set with a recipe of its own is a package _global_
    entry = OPTIONS[name]
    owners = entry if isinstance(entry, tuple) else (entry,)
    own = {field.name: (owner, field) for owner in owners for field in dataclasses.fields(owner)}
    assert raw["name"] == name
    assert set(raw) == COMMON | set(own)
    for key, (owner, field) in own.items():
        if owner in SHARED and name not in GENERIC:  # a data set may have another size or rate than the generic reader
            parse_options(owner, {key: raw[key]}, "data")
            continue
        assert raw[key] == (list(field.default) if isinstance(field.default, tuple) else field.default)


def test_mappings_and_lists_can_be_set_on_the_command_line(repo_root: Path) -> None:
    overrides = ["numeric={age:{center:60,scale:20}}", "categorical={unit:[icu,ward]}", "label_columns=[died]"]
    with initialize_config_dir(str(repo_root / "conf" / "data"), version_base=None):
        raw = OmegaConf.to_container(compose("table", overrides))
    assert isinstance(raw, dict)
    assert raw["numeric"] == {"age": {"center": 60, "scale": 20}}
    assert raw["categorical"] == {"unit": ["icu", "ward"]}
