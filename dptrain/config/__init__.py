"""The schema of a run: frozen dataclasses, a docstring under every field, checks in `__post_init__`.

Hydra composes `conf/` into plain dictionaries (only `cli/` knows hydra); `parse_config` turns them into these classes
and collects every problem before it raises one `ConfigError`. Fields that a data set or a model owns beside the common
ones (`data.patient_column`, `model.width`) arrive in `options` and are checked by their owner.
"""

from dptrain.config.fleet import HEADLINES, AttackConfig, AuditConfig, BaselineConfig, FleetConfig
from dptrain.config.one_model import ReleaseConfig, ScreenConfig
from dptrain.config.privacy import PrivacyConfig
from dptrain.config.study import DataConfig, ModelConfig, StudySettings
from dptrain.config.training import AugmentSpec, PrivateRecipe, TrainingConfig
from dptrain.config.whole import Config, parse_config, parse_data, to_dict

__all__ = [
    "Config", "parse_config", "parse_data", "to_dict",
    "StudySettings", "DataConfig", "ModelConfig",
    "AugmentSpec", "PrivateRecipe", "TrainingConfig",
    "PrivacyConfig",
    "HEADLINES", "FleetConfig", "AttackConfig", "AuditConfig", "BaselineConfig",
    "ReleaseConfig", "ScreenConfig",
]  # fmt: skip
