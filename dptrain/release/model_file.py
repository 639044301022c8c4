"""The released weights: safetensors (no code inside) and a JSON that says how to build the network around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from dptrain import __version__
from dptrain.cohorts.cohort import Cohort
from dptrain.config import Config, ModelConfig, to_dict
from dptrain.errors import StudyError
from dptrain.models.registry import build_model
from dptrain.study.atomic import write_bytes, write_json
from dptrain.study.frozen import options_without_encoder

SCHEMA = 1


def write_model(folder: Path, config: Config, cohort: Cohort, model: nn.Module) -> None:
    """Write `model.safetensors` and `model.json`.

    The JSON names the features in order and the settings that encode a record, but no path and nothing that was
    counted in the training patients. A probe's encoder is not in it; the statement names its file and digest.
    """
    data = to_dict(config.data)
    description = {
        "schema": SCHEMA,
        "dptrain": __version__,
        "model": {"name": config.model.name, "options": options_without_encoder(config.model)},
        "input_shape": list(cohort.features.shape[1:]),
        "num_outputs": cohort.num_outputs,
        "task": cohort.task,
        "label_names": list(cohort.label_names),
        "feature_names": list(cohort.feature_names),
        "data": {"name": data["name"], "options": data["options"]},
        "simulated": cohort.simulated,
    }
    write_json(folder / "model.json", description)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", safetensors.torch.save(weights))


def load_model(folder: str | Path) -> nn.Module:
    """The released network in eval mode: (B, *input_shape) float32 -> (B, num_outputs) logits.

    Raises StudyError if the folder holds no release, or one whose weights do not fit its description.
    """
    folder = Path(folder)
    try:
        description: dict[str, Any] = json.loads((folder / "model.json").read_text())
        weights: dict[str, Tensor] = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    except FileNotFoundError as error:
        raise StudyError(f"{folder} holds no released model: {error.filename} is not there.") from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StudyError(f"The model in {folder} is damaged: {error}.") from error
    if description.get("schema") != SCHEMA:
        raise StudyError(f"{folder}/model.json has schema={description.get('schema')!r}, this dptrain reads {SCHEMA}.")
    settings = ModelConfig(description["model"]["name"], description["model"]["options"])
    model = build_model(settings, tuple(description["input_shape"]), description["num_outputs"])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise StudyError(f"The weights in {folder} do not fit model.json: {error}") from error
    return model.eval()
