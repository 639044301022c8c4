"""Records to features, once: a frozen encoder runs over all records of a cohort, and a probe is trained on the result.

A record's features must depend on that record alone, or clipping would no longer bound one patient's influence; an
encoder in which the records of a batch see each other is refused.

Features are computed in batches and kept in a memory-mapped file with mode 0600, keyed by the contents of the weights,
the architecture's settings, the contents of the records and the version of this code.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dptrain.config import ModelConfig
from dptrain.errors import ConfigError
from dptrain.models.encoder import MONAI, Encoder, as_seen, file_digest, first_line, load_encoder
from dptrain.progress import Progress

VERSION = 1
"""Raise it whenever the same weights and records give other features: the cache then encodes anew."""
ALONE = 8
"""Records that are encoded alone and in a batch, to see whether they see each other."""
SAME = 1e-3
"""Allowed difference between the two, relative to the norm of a record's features."""
HASH_ROWS = 4096
log = logging.getLogger(__name__)


def encoded_features(
    features: NDArray[np.float32], model: ModelConfig, device: str = "cpu"
) -> tuple[NDArray[np.float32], str] | None:
    """What `model` is trained on instead of `features` (N, ...): features (N, D) of its frozen encoder, and the
    sentence that the privacy statement must say about it. None if the model has no encoder.
    """
    encoder = Encoder.of(model)
    if encoder is None:
        return None
    return encode(features, encoder, device=device), encoder.statement()


def encode(
    features: NDArray[np.float32], encoder: Encoder, cache_dir: Path | None = None, device: str = "cpu"
) -> NDArray[np.float32]:
    """(N, ...) records -> (N, D) float32 features, read-only and memory-mapped; from the cache if it has them.

    `cache_dir` None takes the encoder's own, or `dptrain/encoded` in $XDG_CACHE_HOME (~/.cache). Raises ConfigError if
    the weights do not fit the architecture or the records, if the records of a batch see each other, or if features
    are not finite.
    """
    root = cache_dir or encoder.cache_dir or _default_cache()
    path = root / f"{_key(features, encoder)}.npy"
    found = _cached(path, len(features))
    if found is not None:
        return found
    network = load_encoder(encoder, tuple(features.shape[1:]), device)
    first = _run(network, features[:ALONE], encoder, device)
    _check_alone(network, features, first, encoder, device)
    _make_cache(root)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    progress = Progress(len(features), "records encoded")
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(features), first.shape[1])}
    try:
        # Written, not mapped: a full disk is then an error with a message and not the end of the process.
        with open(temporary, "wb", opener=_private) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(features), encoder.batch):
                part = _run(network, features[start : start + encoder.batch], encoder, device)
                file.write(part.astype("<f4").tobytes())
                progress.update(len(part), "")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(
            f"model.encoder={encoder.weights}: features cannot be written below {root} ({error.strerror}). Set "
            "model.cache_dir to a folder on a disk with room."
        ) from error
    finally:
        progress.close()
        with suppress(FileNotFoundError):
            temporary.unlink()
    result = _cached(path, len(features))
    assert result is not None
    return result


@torch.inference_mode()
def _run(network: nn.Module, records: NDArray[np.float32], encoder: Encoder, device: str) -> NDArray[np.float32]:
    """(B, ...) records -> (B, D) features."""
    where = f"model.encoder={encoder.weights}"
    inputs = as_seen(torch.from_numpy(np.array(records, dtype=np.float32)).to(device), encoder)
    try:
        out = network(inputs)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{where} cannot take records of shape {tuple(inputs.shape[1:])}: {first_line(error)}. Check the size and "
            "channels of the data, model.repeat_channels and model.size."
        ) from error
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(inputs):
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise ConfigError(
            f"{where} gives {got} for {len(inputs)} records, expected features of shape ({len(inputs)}, D). Let it end "
            "with pooling and flattening."
        )
    result: NDArray[np.float32] = out.float().cpu().numpy()
    if not np.isfinite(result).all():
        raise ConfigError(
            f"{where} gives features that are NaN or infinite. Check that the records are scaled as in its training."
        )
    return result


def _check_alone(
    network: nn.Module,
    features: NDArray[np.float32],
    together: NDArray[np.float32],
    encoder: Encoder,
    device: str,
) -> None:
    for index in range(min(ALONE, len(features))):
        alone = _run(network, features[index : index + 1], encoder, device)[0]
        scale = max(float(np.linalg.norm(alone)), float(np.linalg.norm(together[index])))
        if not float(np.linalg.norm(alone - together[index])) <= SAME * scale:
            raise ConfigError(
                f"model.encoder={encoder.weights} gives a record other features alone than inside a batch. Features of "
                "one patient would then depend on other patients, and epsilon would not hold. Save the encoder in eval "
                "mode, without operations over the batch or random numbers."
            )


def _key(features: NDArray[np.float32], encoder: Encoder) -> str:
    """SHA-256 over all that the features depend on, but for the rounding of a machine."""
    digest = hashlib.sha256()
    settings = {
        "version": VERSION,
        "torch": torch.__version__,
        "weights": file_digest(encoder.weights),
        "network": encoder.network,
        "source": _source_digest(encoder.network),
        "options": encoder.network_options,
        "head": encoder.head,
        "repeat_channels": encoder.repeat_channels,
        "size": encoder.size,
        "batch": encoder.batch,
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{features.dtype.str}{features.shape}".encode())
    for start in range(0, len(features), HASH_ROWS):
        digest.update(np.ascontiguousarray(features[start : start + HASH_ROWS]).tobytes())
    return digest.hexdigest()


def _source_digest(network: str | None) -> str | None:
    """The code of a user's own class, which can change while its name stays."""
    if network is None or ":" not in network or network.startswith(MONAI):
        return None
    try:
        source = inspect.getsource(importlib.import_module(network.partition(":")[0]))
    except (ImportError, OSError, TypeError, ValueError):
        return None  # building it gives the better error
    return hashlib.sha256(source.encode()).hexdigest()


def _cached(path: Path, num_records: int) -> NDArray[np.float32] | None:
    """The finished features at `path`, or None; a file that cannot be read is made anew."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s); the records are encoded again.", path, error)
        return None
    fits = array.dtype == np.float32 and array.ndim == 2 and len(array) == num_records
    return array if fits else None


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dptrain" / "encoded"


def _make_cache(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"model.cache_dir={root} cannot be created ({error.strerror}). Name a folder that you can write to."
        ) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
