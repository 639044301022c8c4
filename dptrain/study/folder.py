"""`StudyFolder`: what lies where in a study, how it is created, opened and read.

    study.json                       schema, frozen configuration, cohort summary, fingerprints
    fleet.json                       only with fleet.num_models=auto: how many models there are, and why
    arms/<label>/arm.json            mechanism and accounting of an arm, written before it is trained
    arms/<label>/refuted.txt         only where an attack did better than the arm's guarantee allows: how
    restricted/cohort/*.npy          the cohort's arrays (memory-mapped by workers and reports)
    restricted/membership.npy        (M, P_train) bool
    restricted/blocks/<label>/*.npz  logits, curves and ledgers of finished blocks of models
    tradeoff.*, tensorboard/         the outcome (written by `report/`, may be deleted and redrawn)

Everything below `restricted/` has mode 0600.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dptrain import __version__
from dptrain.cohorts.cohort import Cohort
from dptrain.cohorts.membership import draw_membership
from dptrain.config import Config, parse_config
from dptrain.errors import StudyError
from dptrain.study import growth
from dptrain.study.arm_record import BASELINE, ArmRecord, Canaries
from dptrain.study.atomic import remove_rests, write_array, write_json
from dptrain.study.blocks import block_models, block_path, num_blocks, read_block
from dptrain.study.claims import Watch, claim, remove_dead
from dptrain.study.cohort_files import cohort_summary, read_cohort, write_cohort
from dptrain.study.frozen import difference, fingerprint, freeze
from dptrain.training.arms import arm_from_label

SCHEMA = 1
POLL_S = 0.5
log = logging.getLogger(__name__)
OWN_ENTRIES = {
    "study.json",
    "fleet.json",
    "arms",
    "restricted",
    "release",
    "report",
    "hydra",
    "tensorboard",
    "dptrain.log",
}


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk."""

    path: Path
    settings: dict[str, Any]
    """Frozen configuration."""
    info: dict[str, Any]
    """The whole of study.json."""

    @classmethod
    def open(cls, path: str | Path) -> StudyFolder:
        """Open an existing study; raises StudyError if there is none."""
        path = Path(path)
        file = path / "study.json"
        try:
            info = json.loads(file.read_text())
        except FileNotFoundError:
            raise StudyError(
                f"{path} is not a study: it has no study.json. Expected a folder made by dptrain."
            ) from None
        except (OSError, ValueError) as error:
            raise StudyError(
                f"Cannot read {file}: {error}. Restore it from a backup, or choose another study.dir."
            ) from error
        if info.get("schema") != SCHEMA:
            raise StudyError(
                f"{file} has schema={info.get('schema')!r}, this dptrain reads {SCHEMA}. Use the version that made it "
                f"({info.get('dptrain')})."
            )
        return cls(path, info["settings"], _with_fleet(path, info))

    @classmethod
    def create_or_open(cls, path: str | Path, config: Config, cohort: Cohort) -> StudyFolder:
        """The study of this configuration and cohort; refuses a folder that holds anything else.

        Raises StudyError with every difference printed; the folder is then left as it is.
        """
        path = Path(path)
        settings = json.loads(json.dumps(freeze(config)))
        watch = Watch()
        while not (path / "study.json").exists():
            _check_unused(path)
            with claim(path / "restricted" / "study", watch, longest_step_s=3600) as ours:
                if ours and not (path / "study.json").exists():
                    return cls._create(path, settings, config, cohort)
            time.sleep(POLL_S)
        remove_dead(path / "restricted" / "study")
        study = cls.open(path)
        lines = difference(study.settings, settings)
        if lines:
            raise StudyError(
                [
                    f"study.dir={path} holds a study with another configuration; nothing was changed.",
                    *(f"  {line}" for line in lines),
                    "Take the study's settings, or choose another study.name or study.dir.",
                ]
            )
        if study.info["cohort"]["fingerprint"] != cohort.fingerprint():
            raise StudyError(
                f"study.dir={path} was made from other data than {cohort.name} as it is read now "
                f"({study.info['cohort']['num_records']} records then, {cohort.num_records} now; contents differ). "
                "Point data.path at the same data, or choose another study.name or study.dir."
            )
        study._warn_of_ignored(config)
        return study

    @classmethod
    def _create(cls, path: Path, settings: dict[str, Any], config: Config, cohort: Cohort) -> StudyFolder:
        """Write a new study; `study.json` comes last and makes it one."""
        from dptrain.training.choose_speed import choose_speed  # brings torch, which reading a study does not need

        speed = choose_speed(config, cohort)
        remove_rests(path, "study.json")
        remove_rests(path / "restricted", "membership.npy")
        write_cohort(path, cohort)
        num_models = config.fleet.num_models
        if not num_models:
            block_size = config.fleet.block_size
            growth.begin(
                path,
                growth.models_at_first(block_size, config.baseline.num_models, config.fleet.max_models),
            )
            num_models = growth.largest_fleet(block_size, config.fleet.max_models)
        membership = draw_membership(config.seed, num_models, len(cohort.train_patients))
        write_array(path / "restricted" / "membership.npy", membership)
        info = {
            "schema": SCHEMA,
            "dptrain": __version__,
            "name": config.study.name,
            "settings": settings,
            "fingerprint": fingerprint(settings),
            "block_size": config.fleet.block_size,
            "speed": speed.to_dict(),
            "cohort": cohort_summary(cohort),
        }
        write_json(path / "study.json", info)
        return cls(path, settings, _with_fleet(path, info))

    def _warn_of_ignored(self, config: Config) -> None:
        """Say what of this run's settings and software has no say in a study that is there already."""
        if config.fleet.block_size != self.block_size:
            log.warning(
                "fleet.block_size=%d has no effect: this study was created with %d.",
                config.fleet.block_size,
                self.block_size,
            )
        if self.info["dptrain"] != __version__:
            log.warning(
                "This study was created by dptrain %s and is continued by %s: models may differ in rounding or more. "
                "For one comparison from one version choose another study.name.",
                self.info["dptrain"],
                __version__,
            )

    @property
    def block_size(self) -> int:
        """Models per block, fixed when the study was created."""
        return int(self.info["block_size"])

    @property
    def num_models(self) -> int:
        """M; with `fleet.num_models=auto` as many as there were when this object was made: a study that grows while it
        is read stays as it was for the reader."""
        return int(self.info["fleet"]["num_models"] if self.is_growing else self.settings["fleet"]["num_models"])

    @property
    def is_growing(self) -> bool:
        """Whether the number of models was left to the study."""
        return bool(self.settings["fleet"]["num_models"] == growth.AUTO)

    def growth(self) -> dict[str, Any] | None:
        """What was asked of a growing study and what it did; None for a fixed number of models."""
        if not self.is_growing:
            return None
        asked = {name: self.settings["fleet"][name] for name in ("headline", "headline_width", "max_models")}
        return {**asked, **self.info["fleet"]}

    def config(self) -> Config:
        """The frozen configuration as a `Config` (the free settings have neutral values)."""
        raw = json.loads(json.dumps(self.settings))
        raw["study"] = {"name": self.info["name"], "dir": str(self.path)}
        raw["privacy"]["epsilon"] = float("inf")
        return parse_config(raw)

    def cohort(self) -> Cohort:
        """The patients, without canaries; large arrays are memory-mapped read-only."""
        return self.training_cohort().without_canaries()

    def training_cohort(self) -> Cohort:
        """What models are trained on: the patients, then the canaries."""
        return read_cohort(self.path)

    def membership(self) -> NDArray[np.bool_]:
        """(M, P_train); columns are `cohort().train_patients`."""
        whole = self.training_membership()
        return whole[:, : whole.shape[1] - self.num_canaries]

    def training_membership(self) -> NDArray[np.bool_]:
        """(M, P_train + C); columns are `training_cohort().train_patients`, canaries last."""
        array: NDArray[np.bool_] = np.load(self.path / "restricted" / "membership.npy", mmap_mode="r")
        return np.array(array[: self.num_models])

    @property
    def num_canaries(self) -> int:
        """C."""
        return int(self.settings.get("audit", {}).get("canaries", 0))

    def canaries(self, label: str) -> Canaries | None:
        """What the models of an arm answer on the canaries; None if none were planted."""
        if not self.num_canaries:
            return None
        cohort = self.training_cohort()
        start = cohort.num_records - self.num_canaries
        labels = np.asarray(cohort.labels)[start:]
        return Canaries(self._logits(label)[:, start:], labels, self.training_membership()[:, -self.num_canaries :])

    def arm_labels(self) -> list[str]:
        """Labels of every arm that was begun, in the order of every table: none, matched, clip, epsilon falling."""
        found = [file.parent.name for file in (self.path / "arms").glob("*/arm.json")]

        def place(label: str) -> tuple[int, float, tuple[float, ...]]:
            key = arm_from_label(label).sort_key
            return key[0], -(self.arm(label).epsilon or 0.0), key

        return sorted(found, key=place)

    def models(self, label: str, index: int) -> range:
        """Models of a block of an arm or of a baseline."""
        return block_models(index, self._num_models_of(label), self.block_size)

    def blocks(self, label: str) -> range:
        """Indices of all blocks of an arm or of a baseline."""
        return range(num_blocks(self._num_models_of(label), self.block_size))

    def _num_models_of(self, label: str) -> int:
        if label.startswith(BASELINE):
            return min(self.num_models, int(self.settings["baseline"]["num_models"]))
        return self.num_models

    def finished_blocks(self, label: str) -> list[int]:
        """Indices of the finished blocks of an arm or of a baseline."""
        return [index for index in self.blocks(label) if block_path(self.path, label, index).exists()]

    def is_complete(self, label: str) -> bool:
        """Whether every model of the arm is there."""
        return len(self.finished_blocks(label)) == len(self.blocks(label))

    def arm(self, label: str) -> ArmRecord:
        """The record of an arm, or of a baseline, that was begun."""
        return ArmRecord(**json.loads(self.arm_path(label).read_text()))

    def baseline(self, label: str) -> ArmRecord | None:
        """The logistic regressions beside an arm; None if there are none or not all of them are there."""
        name = f"{BASELINE}{label}"
        if not self.arm_path(name).exists() or not self.blocks(name) or not self.is_complete(name):
            return None
        return self.arm(name)

    def arm_path(self, label: str) -> Path:
        """Where the record of an arm, or of a baseline, lies."""
        if label.startswith(BASELINE):
            return self.path / "arms" / label.removeprefix(BASELINE) / "baseline.json"
        return self.path / "arms" / label / "arm.json"

    def arms(self) -> list[ArmRecord]:
        """Complete arms."""
        return [self.arm(label) for label in self.arm_labels() if self.is_complete(label)]

    def logits(self, label: str) -> NDArray[np.float32]:
        """(M, N, K) logits of every model of an arm or a baseline on every record of every patient."""
        whole = self._logits(label)
        return whole[:, : whole.shape[1] - self.num_canaries]

    def _logits(self, label: str) -> NDArray[np.float32]:
        return np.concatenate([self._block(label, index)["logits"] for index in self.blocks(label)])

    def curves(self, label: str) -> dict[str, NDArray[np.float64]]:
        """`step` (E,), `train_loss` and `utility` (M, E), and `epsilon` (E,) for private arms."""
        blocks = [self._block(label, index) for index in self.blocks(label)]
        curves = {name: np.concatenate([block[name] for block in blocks]) for name in ("train_loss", "utility")}
        curves["step"] = blocks[0]["step"]
        epsilon = self.path / "arms" / label / "epsilon.npy"
        if epsilon.exists():
            curves["epsilon"] = np.load(epsilon)
        return curves

    def ledgers(self, label: str) -> list[dict[str, Any]]:
        """What ran, model by model; empty for arms without clipping."""
        blocks = [self._block(label, index) for index in self.blocks(label)]
        return [ledger for block in blocks for ledger in json.loads(str(block["ledgers"]))]

    def _block(self, label: str, index: int) -> dict[str, NDArray[Any]]:
        return read_block(self.path, label, index)


def _with_fleet(path: Path, info: dict[str, Any]) -> dict[str, Any]:
    """study.json, and how far a growing study has grown."""
    return {**info, "fleet": growth.state(path)} if info["settings"]["fleet"]["num_models"] == growth.AUTO else info


def _check_unused(path: Path) -> None:
    """Raise StudyError if the folder holds something that is not ours."""
    if path.exists() and not path.is_dir():
        raise StudyError(f"study.dir={path} is a file. Expected a folder; choose another study.dir.")
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    # Temporary files: another run is starting in the same folder.
    foreign = [name for name in names if name not in OWN_ENTRIES and not (name[0] == "." and name.endswith(".tmp"))]
    if foreign and not (path / "study.json").exists():
        raise StudyError(
            f"study.dir={path} is not empty and not a study (it holds {', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}). Choose an empty or new folder with study.dir=DIR."
        )
