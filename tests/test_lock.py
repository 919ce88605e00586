"""Locks of folders: one writer at a time, and a writer that is gone is recognised."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from saei.errors import CheckpointError, ConfigError
from saei.runtime import lock as locks
from saei.runtime.lock import LOCK, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from saei.runtime.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def holder(folder: Path, seconds: float = 60.0) -> subprocess.Popen[str]:
    """Return a process that holds a folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def forge(folder: Path, *, age: float = 0.0, **changes: Any) -> None:
    """Write the lock of another process."""
    folder.mkdir(exist_ok=True)
    owner = {"host": "elsewhere", "process": 4711, "started": "1", "machine": "another", "since": "noon", "token": "x"}
    (folder / LOCK).write_text(json.dumps(owner | changes))
    os.utime(folder / LOCK, (time.time() - age, time.time() - age))


def test_a_second_process_is_told_who_writes(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(ConfigError, match=rf"one writer at a time\. Process {process.pid} on \S+ since ") as raised:
            FolderLock(tmp_path).acquire()
        assert f"remove {tmp_path / LOCK}" in raised.value.remedy
    finally:
        process.kill()
    # Killed, and not yet collected by its parent, it still has a number.
    time.sleep(0.2)
    with FolderLock(tmp_path) as taken:
        assert taken.held
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    process.wait()


def test_a_process_that_ends_gives_back_what_it_holds(tmp_path: Path) -> None:
    holder(tmp_path, 0).wait()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_now_is_stale(tmp_path: Path) -> None:
    """As where a container restarts and counts its processes from 1 again."""
    forge(tmp_path, process=os.getppid(), machine=locks._machine(), started="1")
    FolderLock(tmp_path).acquire()


def test_elsewhere_the_heartbeat_decides(tmp_path: Path) -> None:
    forge(tmp_path, age=locks.PATIENCE / 2)
    with pytest.raises(ConfigError, match=r"Process 4711 on elsewhere since noon .* heartbeat was 60 s ago"):
        FolderLock(tmp_path).acquire()
    forge(tmp_path, age=2 * locks.PATIENCE)
    with FolderLock(tmp_path):
        pass


def test_a_lock_that_is_being_written_is_one(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with pytest.raises(ConfigError, match="Another process writes into"):
        FolderLock(tmp_path).acquire()
    os.utime(tmp_path / LOCK, (1.0, 1.0))  # its writer died there
    FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("process", ["abc", None, 0, -1, 10**30, [1]])
def test_a_damaged_lock_is_judged_by_its_heartbeat(tmp_path: Path, process: Any) -> None:
    forge(tmp_path, process=process, machine=locks._machine())
    with pytest.raises(ConfigError, match="Another process writes into"):
        FolderLock(tmp_path).acquire()
    forge(tmp_path, age=2 * locks.PATIENCE, process=process, machine=locks._machine())
    FolderLock(tmp_path).acquire()


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with FolderLock(tmp_path):
        os.utime(tmp_path / LOCK, (1.0, 1.0))
        deadline = time.monotonic() + 5
        while (tmp_path / LOCK).stat().st_mtime == 1.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lost_lock_is_noticed_and_left_to_its_new_owner(tmp_path: Path) -> None:
    mine = FolderLock(tmp_path)
    mine.acquire()
    mine.check()
    forge(tmp_path)
    with pytest.raises(CheckpointError, match="no longer this process's"):
        mine.check()
    mine.release()
    assert (tmp_path / LOCK).exists()


def test_a_process_takes_over_from_itself(tmp_path: Path) -> None:
    """A trainer that failed and is still referred to, say by a traceback, keeps no notebook from going on."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    second.acquire()
    second.acquire()
    first.release()
    second.check()
    assert (tmp_path / LOCK).exists()
    del second
    assert not (tmp_path / LOCK).exists()  # nobody holds it any more


def test_a_fork_gives_back_nothing(tmp_path: Path) -> None:
    mine = FolderLock(tmp_path)
    mine.acquire()
    child = multiprocessing.get_context("fork").Process(target=mine.release)
    child.start()
    child.join()
    assert (tmp_path / LOCK).exists()


def test_what_was_stale_is_looked_at_again_before_it_is_removed(tmp_path: Path) -> None:
    """A latecomer saw the stale lock, too, which another process has replaced by its own since."""
    forge(tmp_path, age=2 * locks.PATIENCE)
    late, seen = FolderLock(tmp_path), (tmp_path / LOCK).stat()
    lock = FolderLock(tmp_path)
    lock.acquire()
    late._remove(seen)
    lock.check()
    assert [file.name for file in tmp_path.iterdir()] == [LOCK]


def test_a_removal_that_was_cut_short_does_not_bar_the_next(tmp_path: Path) -> None:
    forge(tmp_path, age=2 * locks.PATIENCE)
    guard = tmp_path / f".{LOCK}-removal"
    guard.touch()
    os.utime(guard, (0, 0))
    FolderLock(tmp_path).acquire()
    assert not guard.exists()


def _compete(folder: Path, start: Any, results: Any) -> None:
    mine = FolderLock(folder)
    start.wait()
    try:
        mine.acquire()
    except ConfigError:
        results.put(0)
    else:
        results.put(1)
        time.sleep(1)


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_one_gets_it(tmp_path: Path, stale: bool) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        if stale:
            forge(folder, age=2 * locks.PATIENCE)
        start, results = context.Event(), context.Queue()
        racers = [context.Process(target=_compete, args=(folder, start, results)) for _ in range(6)]
        for racer in racers:
            racer.start()
        start.set()
        assert sum(results.get(timeout=20) for _ in racers) == 1
        for racer in racers:
            racer.kill()
            racer.join()
