"""Blocks of models: which models they hold, where they lie, how they are written, read and checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dptrain.errors import StudyError
from dptrain.study.sealed import DamagedError, is_sealed, read_sealed, write_sealed

if TYPE_CHECKING:
    from dptrain.training.fleet import ModelResult  # reports read blocks and need no torch


def num_blocks(num_models: int, block_size: int) -> int:
    """Blocks that an arm is cut into."""
    return -(-num_models // block_size)


def block_models(index: int, num_models: int, block_size: int) -> range:
    """Models of a block."""
    return range(index * block_size, min((index + 1) * block_size, num_models))


def block_path(study: Path, label: str, index: int) -> Path:
    """Where a finished block lies."""
    return study / "restricted" / "blocks" / label / f"block-{index:04d}.npz"


def claim_base(study: Path, label: str, index: int) -> Path:
    """What claims of a block are named after (`claims.py`)."""
    return block_path(study, label, index).with_suffix("")


def write_block(study: Path, label: str, index: int, results: list[ModelResult]) -> None:
    """Write a finished block."""
    write_sealed(
        block_path(study, label, index),
        {
            "logits": np.stack([result.logits for result in results]),
            "step": results[0].steps,
            "train_loss": np.stack([result.train_loss for result in results]),
            "utility": np.stack([result.utility for result in results]),
            "ledgers": np.array(json.dumps([result.ledger for result in results if result.ledger is not None])),
        },
    )


def read_block(study: Path, label: str, index: int) -> dict[str, NDArray[Any]]:
    """The arrays of a finished block; raises StudyError if the file is damaged."""
    path = block_path(study, label, index)
    try:
        return read_sealed(path)
    except (OSError, DamagedError) as error:
        raise StudyError(
            f"{path} is missing or damaged ({error}). Run the study's command again: it is trained anew."
        ) from error


def is_sound(study: Path, label: str, index: int) -> bool:
    """Whether a block is finished and every bit of its file is as it was written."""
    try:
        return is_sealed(block_path(study, label, index).read_bytes())
    except OSError:
        return False


def set_aside_if_damaged(study: Path, label: str, index: int) -> None:
    """Rename a damaged file to `*.damaged`. Only for the owner of the block's claim: nobody else may put a
    good file in its place meanwhile."""
    path = block_path(study, label, index)
    if path.exists() and not is_sound(study, label, index):
        os.replace(path, path.with_suffix(".damaged"))
