"""One run of a sweep: what is missing is trained, and the chart drawn."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from dptrain.config import Config

log = logging.getLogger(__name__)


def run_job(config: Config) -> None:
    """The whole job of one configuration."""
    from dptrain.plan_command import opening_line
    from dptrain.progress import format_duration
    from dptrain.report.enough import headline_widths
    from dptrain.report.write import write_report
    from dptrain.study.drawing import draw_once, last_drawing
    from dptrain.study.runner import run_study

    start, drawn = time.monotonic(), last_drawing(Path(config.study.dir))
    study = run_study(config, headline_widths, lambda study, missing: log.info(opening_line(study, config, missing)))
    key_file = None if config.study.key_file is None else Path(config.study.key_file)

    def draw() -> None:
        write_report(study.path, tensorboard_runs=config.study.tensorboard, key_file=key_file)

    draw_once(study, drawn, draw, is_shard=config.fleet.shards > 1)

    log.info(
        "Study %s is up to date after %s. Chart: %s",
        config.study.name,
        format_duration(time.monotonic() - start),
        study.path / "tradeoff.png",
    )
