"""Can an attacker recover a withheld count, or find an identifier, in what studies hand out? 1,000 random studies.

    python experiments/red_team.py                            1,000 studies (about ten minutes on an idle core)
    python experiments/red_team.py --first 500 --studies 50   some of them

Every study is made up: 40 to 400 training patients with recognisable identifiers, some of them recognised by the
attack, one to three attributes of two to six groups, most with a few very small ones. It is analysed and reported as
any other; then the release is attacked (`tests/report/attack_release.py`: integer programs over everything that a
release says) and every byte of the release, of the event files and of the log is searched for every identifier.

Outcome: `red_team.md` beside this file.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

from dptrain.report import details, tensorboard
from dptrain.report.analysis import analyse
from dptrain.report.bundle import release_files
from dptrain.report.disclosure import for_release
from dptrain.report.suppression import Rule
from tests.report.attack_release import attack, numbers_in_withheld
from tests.report.fake_study import document_for
from tests.report.random_study import random_study

DRAWN_EVERY = 50
"""Of every so many studies the pages and charts are drawn and searched too: that takes longer than everything else, and
they hold nothing but what report.json holds. As a control, the report for the house is attacked as well."""


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    # What an attacker learns from answers with fewer digits is a third of the work, and those figures hold no counts.
    details.POLICIES = details.POLICIES[:1]
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.DEBUG)
    start, totals = time.monotonic(), Counter()
    narrowest = float("inf")
    for seed in range(given.first, given.first + given.studies):
        study = random_study(seed)
        ids = study.cohort().patient_ids.tolist()
        result = analyse(study, details=True)
        house = document_for(result)
        is_drawn = seed % DRAWN_EVERY == 0
        release = json.loads(for_release(house, Rule()).to_json())
        files = release_files(house, Rule(), ids) if is_drawn else {"report.json": json.dumps(release).encode()}
        found = attack(release, json.loads(house.to_json()))
        totals["studies"] += 1
        totals["small counts to be hidden"] += len(found)
        totals["recovered"] += sum(one.recovered for one in found)
        totals["confined to fewer than 10 values"] += sum(one.confined for one in found)
        totals["withheld leaves that hold a number"] += len(list(numbers_in_withheld(release)))
        narrowest = min([narrowest, *(one.high - one.low + 1 for one in found if one.most == float("inf"))])
        if is_drawn:
            control = attack(json.loads(house.to_json()), json.loads(house.to_json()))
            totals["control: recovered from the house's report"] += sum(one.recovered for one in control)
            totals["control: out of"] += len(control)
        with tempfile.TemporaryDirectory() as folder:
            tensorboard.write_runs(Path(folder), result, tensorboard.pictures if is_drawn else lambda safe: {})
            texts = [*files.values(), *(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())]
        everything = b"\0".join([*texts, log.getvalue().encode(), *(name.encode() for name in files)])
        totals["bytes searched"] += len(everything)
        totals["identifiers searched"] += len(ids)
        totals["identifiers found"] += sum(one.encode() in everything for one in ids)
        log.truncate(0)
        for one in found:
            if one.recovered or one.confined:
                print(f"study {seed}: {one}")
    for name, value in totals.items():
        print(f"{name:50s} {value:12,}")
    print(f"{'fewest values left for a count without a public limit':50s} {narrowest:9g}")
    print(f"{'seconds':50s} {time.monotonic() - start:12.0f}")


if __name__ == "__main__":
    main()
