"""The outcome of a study is drawn once, by the last of the runs that share the work.

Every run ends with `draw_once`. The first to come claims the drawing; the others wait until it is there, or until the
one who draws is dead, and then take it over. A note in the folder says from which models the outcome was drawn.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dptrain import __version__
from dptrain.study.atomic import write_json
from dptrain.study.blocks import block_path
from dptrain.study.claims import Watch, claim
from dptrain.study.folder import StudyFolder

POLL_S = 0.5
LONGEST_DRAWING_S = 4 * 3600.0
_DIGEST_BYTES = 64
log = logging.getLogger(__name__)


def last_drawing(study: Path) -> dict[str, Any]:
    """The note of the last drawing; empty if there is none."""
    try:
        note = json.loads((study / "restricted" / "drawn.json").read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def draw_once(study: StudyFolder, before: dict[str, Any], draw: Callable[[], object], is_shard: bool) -> bool:
    """Call `draw` unless another run does it for the same models; returns whether it was called here.

    `before` is `last_drawing` at the start of this run: what was drawn since then is not drawn again. A shard does not
    even repeat what was drawn earlier. What `draw` raises is raised here, and in the other runs as well.
    """
    models, watch = models_key(study), Watch()

    def is_done() -> bool:
        note = last_drawing(study.path)
        is_new = note.get("token") != before.get("token") or is_shard
        return is_new and note.get("models") == models and (study.path / "tradeoff.json").exists()

    while not is_done():
        with claim(study.path / "restricted" / "drawing", watch, LONGEST_DRAWING_S) as ours:
            if ours and not is_done():
                draw()
                note = {"models": models, "token": secrets.token_hex(8), "by": f"{socket.gethostname()} {os.getpid()}"}
                write_json(study.path / "restricted" / "drawn.json", note)
                return True
        time.sleep(POLL_S)
    log.info("The chart of these models was drawn by another run (%s).", last_drawing(study.path).get("by"))
    return False


def models_key(study: StudyFolder) -> str:
    """Names what an outcome is drawn from: the version and the checksums of all blocks of complete arms."""
    digest = hashlib.sha256(__version__.encode())
    for arm in study.arms():
        digest.update(f"\n{arm.label}".encode())
        for index in study.blocks(arm.label):
            with block_path(study.path, arm.label, index).open("rb") as stream:
                stream.seek(-_DIGEST_BYTES, os.SEEK_END)
                digest.update(stream.read())
    return digest.hexdigest()
