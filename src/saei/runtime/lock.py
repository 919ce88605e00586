"""One writer at a time in a folder: a file that names the writer's host and process, with a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from saei.errors import CheckpointError, ConfigError

LOCK = "lock"
HEARTBEAT = 10.0
"""Seconds between heartbeats; each sets the file's time of modification."""

PATIENCE = 120.0
"""Seconds without a heartbeat after which a writer counts as gone, where its process cannot be looked up."""

_TOKENS: set[str] = set()
"""Tokens of all locks that this process has taken."""


class FolderLock:
    """The right of this process to write into a folder.

    The lock is a file that the operating system creates for one process only, also on network file systems. A lock
    whose process is gone is stale and gets removed: on the same machine the process is looked up, elsewhere the lock
    is stale when its heartbeat stops. A process that locks a folder twice takes over from itself.

    Args:
        folder: The folder, which is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / LOCK
        self._token: str | None = None
        self._stop = threading.Event()
        self._release: weakref.finalize[Any, Any] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, without checking the file."""
        return self._token is not None

    def acquire(self) -> None:
        """Take the lock; nothing happens where it is held already.

        Raises:
            ConfigError: If another process writes here, or the folder is not writable.
        """
        if self.held:
            return
        token = uuid.uuid4().hex
        content = json.dumps({**_this_process(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "token": token})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while not self._create(content):
                self._remove_stale()
        except OSError as error:
            raise ConfigError(
                "A folder has to be writable for the process that locks it.",
                reason=f"{self._folder}: {error.strerror or error}.",
                remedy="Choose another folder, or free some space.",
            ) from error
        _TOKENS.add(token)
        self._token, self._stop = token, threading.Event()
        # Neither may hold the lock object itself: a lock that nobody holds any more is given back.
        self._release = weakref.finalize(self, _release, self._file, token, self._stop, os.getpid())
        threading.Thread(target=_beat, args=(self._file, token, self._stop), daemon=True).start()

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._release is not None:
            self._release()
        self._token = self._release = None

    def check(self) -> None:
        """Check that a lock that is held is still this object's.

        Raises:
            CheckpointError: If another writer took it, because this one was asleep for long or its file was removed.
        """
        if self._token is not None and _lost(self._file, self._token):
            self.release()
            raise CheckpointError(
                "A folder has one writer at a time.",
                reason=f"{self._file} is no longer this process's: it was removed, or another took over.",
                remedy="See which one writes there; this one stops and has changed nothing since.",
            )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _create(self, content: str) -> bool:
        try:
            with self._file.open("x", encoding="utf-8") as opened:
                opened.write(content)
        except FileExistsError:
            return False
        except OSError:
            self._file.unlink(missing_ok=True)  # created, but the disk had no room for the content
            raise
        return True

    def _remove_stale(self) -> None:
        """Remove the lock of a process that is gone.

        Raises:
            ConfigError: If it is not gone.
        """
        try:
            stale = self._file.stat()
            owner = _read(self._file)
            age = self._age()
        except FileNotFoundError:  # given back meanwhile
            return
        runs = _runs(owner)
        if runs or (runs is None and age < PATIENCE):
            raise self._busy(owner, age)
        self._remove(stale)

    def _remove(self, stale: os.stat_result) -> None:
        """Remove a stale lock, unless it is gone already; one process at a time does so, since it looks before."""
        guard = self._file.with_name(f".{LOCK}-removal")
        try:
            guard.open("x").close()
        except FileExistsError:
            if time.time() - _modified(guard) > PATIENCE:  # the process that made it died in between
                guard.unlink(missing_ok=True)
            time.sleep(0.01)
            return
        try:
            if _same(stale, self._file):
                self._file.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)

    def _age(self) -> float:
        """Return seconds since the last heartbeat, by the clock of the file system, which all machines share."""
        probe = self._file.with_name(f".{LOCK}-{uuid.uuid4().hex}")
        probe.touch()
        try:
            return probe.stat().st_mtime - self._file.stat().st_mtime
        finally:
            probe.unlink()

    def _busy(self, owner: Mapping[str, Any], age: float) -> ConfigError:
        who = f"process {owner['process']} on {owner['host']} since {owner['since']}" if owner else "another process"
        return ConfigError(
            "A folder has one writer at a time.",
            reason=f"{who[0].upper()}{who[1:]} writes into {self._folder}; its last heartbeat was {age:.0f} s ago.",
            remedy=f"Wait for its end, or stop it. If you know that it is gone, remove {self._file}.",
        )


def is_written(folder: Path) -> bool:
    """Return whether a process writes into a folder now, as far as that can be told without writing there."""
    file = folder / LOCK
    try:
        age = time.time() - file.stat().st_mtime
    except OSError:
        return False
    owner = _read(file)
    if owner.get("token") in _TOKENS and owner["process"] == os.getpid():
        return True
    runs = _runs(owner)
    return age < PATIENCE if runs is None else runs


def _beat(file: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        if _lost(file, token):
            return
        try:
            os.utime(file)
        except OSError:  # a network file system that is away for a moment; the next beat may reach it
            continue


def _release(file: Path, token: str, stop: threading.Event, process: int) -> None:
    if os.getpid() != process:  # a fork's copy of the lock
        return
    stop.set()
    if not _lost(file, token):
        try:
            file.unlink()
        except OSError:  # stale now, and recognised as that
            return


def _same(before: os.stat_result, file: Path) -> bool:
    """Return whether a file is still the one that it was, without a heartbeat since."""
    try:
        now = file.stat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino, now.st_mtime_ns) == (before.st_dev, before.st_ino, before.st_mtime_ns)


def _modified(file: Path) -> float:
    """Return when a file was modified last, in seconds since the epoch; now if it is gone."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _lost(file: Path, token: str) -> bool:
    """Return whether a lock is another's or gone; one that cannot be read for the moment is not."""
    try:
        return token.encode() not in file.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _read(file: Path) -> dict[str, Any]:
    """Return the content of a lock, empty if there is no lock or it is incomplete or damaged."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(content, dict) and {"host", "since", "token"} <= content.keys()
    process = content.get("process") if whole else None
    return content if isinstance(process, int) and 0 < process < 2**31 else {}


def _this_process() -> dict[str, Any]:
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "started": _started(process), "machine": _machine()}


def _runs(owner: Mapping[str, Any]) -> bool | None:
    """Return whether a lock's process still runs, None where that cannot be known from here."""
    machine = _machine()
    if owner.get("token") in _TOKENS and owner["process"] == os.getpid():
        return False  # an earlier lock of this very process, which takes over from itself
    if machine is None or owner.get("machine") != machine or owner.get("started") is None:
        return None
    process = int(owner["process"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs as another user; the system may show nothing more
        pass
    started = _started(process)
    return None if started is None else started == owner["started"]


def _started(process: int) -> str | None:
    """Return when a process started, in ticks since the machine did; empty if it has ended, None where it is unknown.

    Process numbers are reused, within seconds when containers restart; number and start together are not.
    """
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = status.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def _machine() -> str | None:
    """Return an identifier of this machine, its last boot and its container; None on systems other than Linux.

    Host names are not enough: containers may share one and still not see each other's processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
