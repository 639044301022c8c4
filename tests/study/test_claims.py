"""Claims: the living keep theirs, the dead and the hung lose them, clocks decide nothing, and nobody is robbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dptrain import progress
from dptrain.study import claims
from dptrain.study.claims import Watch, claim, newest_claim


@pytest.fixture
def base(tmp_path) -> Path:
    return tmp_path / "restricted" / "block-0000"


def put(base: Path, generation: int = 0, **owner: object) -> Path:
    """A claim of somebody else."""
    base.parent.mkdir(exist_ok=True)
    path = base.with_name(f"{base.name}.claim-{generation}")
    whole = {"host": "elsewhere", "place": "elsewhere", "pid": 1, "started": "1", "token": "x", **owner}
    path.write_text(f"{0:012d} {json.dumps(whole)}\n")
    return path


def rests(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.parent.iterdir())


class Clock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def look_for(watch: Watch, clock: Clock, path: Path, seconds: float, every: float = 1.0) -> bool:
    """Whether a claim is stale after it was looked at for so long."""
    stale = watch.is_stale(path)
    for _ in range(int(seconds / every)):
        clock.now += every
        stale = watch.is_stale(path)
    return stale


def test_a_claim_excludes_others_and_leaves_nothing(base):
    other_base = base.with_name("other")
    with claim(base, Watch()) as first, claim(base, Watch()) as second, claim(other_base, Watch()) as other:
        assert (first, second, other) == (True, False, True)
    assert rests(base) == []


def test_the_dead_lose_their_claim_at_once(base):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    put(base, place=claims.place(), pid=dead.pid, started="1")
    with claim(base, Watch()) as ours:
        assert ours
        assert newest_claim(base)[0] == 1
    assert rests(base) == []


def test_a_process_number_that_was_used_again_is_another_process(base):
    path = put(base, place=claims.place(), pid=os.getpid(), started="1")
    assert Watch().is_stale(path)


def test_the_same_process_number_on_another_machine_or_in_another_container_says_nothing(base):
    path = put(base, host=claims.socket.gethostname(), place="same name, other boot", pid=2**22 + 1)
    assert not Watch().is_stale(path)


def test_a_claim_is_stale_after_it_was_watched_and_not_before(base):
    path, clock = put(base), Clock()
    watch = Watch(clock)
    assert not look_for(watch, clock, path, claims.STALE_S - 1)
    assert look_for(watch, clock, path, 3)


def test_a_heartbeat_starts_the_watch_anew(base):
    path, clock = put(base), Clock()
    watch = Watch(clock)
    assert not look_for(watch, clock, path, claims.STALE_S - 1)
    path.write_text(path.read_text().replace("0" * 12, f"{1:012d}", 1))
    assert not look_for(watch, clock, path, claims.STALE_S - 1)
    assert look_for(watch, clock, path, 3)


@pytest.mark.parametrize("jump_s", [-1e9, -3600, 3600, 1e9])
def test_wall_clocks_that_jump_or_differ_decide_nothing(base, monkeypatch, jump_s):
    path, clock = put(base), Clock()
    watch = Watch(clock)
    watch.is_stale(path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump_s)
    os.utime(path, (max(now - jump_s, 0), max(now - jump_s, 0)))
    assert not look_for(watch, clock, path, 10)
    assert look_for(watch, clock, path, claims.STALE_S)


def test_a_watcher_that_was_suspended_has_not_watched(base):
    path, clock = put(base), Clock()
    watch = Watch(clock)
    watch.is_stale(path)
    clock.now += 10 * claims.STALE_S
    assert not watch.is_stale(path)


def test_a_claim_without_an_owner_is_stale_only_after_it_was_watched(base):
    path, clock = put(base), Clock()
    path.write_text("")
    watch = Watch(clock)
    assert not look_for(watch, clock, path, claims.STALE_S - 1)
    assert look_for(watch, clock, path, 3)


def test_two_that_find_the_same_stale_claim_cannot_take_it_from_each_other(base, monkeypatch):
    """The second has judged the claim stale, is then overtaken by the first, and goes on."""
    put(base, place=claims.place(), pid=2**22 + 1)
    real, overtaken = Watch.is_stale, []

    def slow(self, path):
        stale = real(self, path)
        if not overtaken:
            overtaken.append(claim(base, Watch()))
            assert overtaken[0].__enter__()
        return stale

    monkeypatch.setattr(Watch, "is_stale", slow)
    with claim(base, Watch()) as second:
        assert not second
        with claim(base, Watch()) as third:
            assert not third
    overtaken[0].__exit__(None, None, None)
    assert rests(base) == []


def test_one_who_looked_before_there_was_any_claim_is_not_fooled_by_a_later_generation(base, monkeypatch):
    real, once = claims.newest_claim, []

    def early(asked):
        if not once:
            once.append(put(base, generation=1))
            return None
        return real(asked)

    monkeypatch.setattr(claims, "newest_claim", early)
    with claim(base, Watch()) as ours:
        assert not ours
    assert rests(base) == ["block-0000.claim-1"]


def _race(base: Path, start, wins) -> None:
    start.wait()
    with claim(base, Watch()) as ours:
        if ours:
            wins.put(os.getpid())
            time.sleep(0.3)


@pytest.mark.parametrize("is_retaken", [False, True])
def test_many_race_and_one_wins(base, is_retaken):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        if is_retaken:
            put(base, place=claims.place(), pid=2**22 + 1)
        start, wins = context.Event(), context.Queue()
        racers = [context.Process(target=_race, args=(base, start, wins)) for _ in range(8)]
        for racer in racers:
            racer.start()
        start.set()
        for racer in racers:
            racer.join()
        assert wins.get(timeout=5)
        assert wins.empty()
        assert rests(base) == []


def beats(base: Path, seconds: float, body) -> int:
    """Heartbeats of a claim while `body` runs again and again for so long."""
    with claim(base, Watch()) as ours:
        assert ours
        path = newest_claim(base)[1]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            body()
        return int(path.read_bytes()[:12])


def burn() -> None:
    sum(range(100_000))


def test_the_heart_beats_with_progress_and_not_with_time(base, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.1)

    def step() -> None:
        progress.step_done()
        time.sleep(0.02)

    assert beats(base, 1.0, step) >= 2
    assert beats(base, 1.0, burn) >= 2
    assert beats(base, 1.0, lambda: time.sleep(0.1)) <= 1
    monkeypatch.setattr(claims, "LONGEST_STEP_S", 0.0)
    with claim(base, Watch(), longest_step_s=0.0):
        threading.Event().wait(0.3)
        burn()
        assert int(newest_claim(base)[1].read_bytes()[:12]) == 0


def test_a_claim_that_was_succeeded_is_not_made_again_by_its_old_heart(base, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    with claim(base, Watch()):
        newest_claim(base)[1].unlink()
        progress.step_done()
        time.sleep(0.3)
        assert newest_claim(base) is None


def test_without_links_a_claim_is_exclusive_all_the_same(base, monkeypatch):
    def link(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(claims.os, "link", link)
    with claim(base, Watch()) as first, claim(base, Watch()) as second:
        assert (first, second) == (True, False)
    assert rests(base) == []
