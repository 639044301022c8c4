"""One seed tree: every random stream of a study is named by a path, and no two paths share a stream.

`stream_seed(root, "noise", "eps=8", 3)` and `stream_seed(root, "init", 3)` are unrelated numbers: the path is hashed
with SHA-256, so streams do not depend on how many others exist or in which order they are asked for. Streams that must
be shared between arms (initial weights, sampling coins) simply leave the arm out of their path.

Fleets are seeded so that a killed study ends with the same bytes. A fleet's models are therefore for auditing only:
whoever knows the root seed can redraw their noise. The model that is released takes its noise seed from the operating
system (`dptrain train`), never from here.
"""

from __future__ import annotations

import hashlib

import numpy as np

PURPOSES = frozenset(
    {
        "split",
        "subset",
        "membership",
        "init",
        "sampling",
        "noise",
        "batches",
        "dropout",
        "augmentation",
        "null",
        "bootstrap",
        "folds",
        "population",
        "canary",
        "baseline",
        "preflight",
    }
)


def stream_seed(root: int, purpose: str, *path: str | int) -> int:
    """A 63-bit seed for the stream `purpose/path` of the tree with this root.

    `purpose` must be one of PURPOSES, so that a typing error cannot silently open (or share) a stream.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose={purpose!r} is not a stream of the seed tree; expected one of {sorted(PURPOSES)}.")
    name = "/".join([str(root), purpose, *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def numpy_stream(root: int, purpose: str, *path: str | int) -> np.random.Generator:
    """A numpy generator on the stream `purpose/path`."""
    return np.random.default_rng(stream_seed(root, purpose, *path))
