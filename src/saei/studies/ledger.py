"""The ledger of a study: a line for every base built and every run begun, whatever became of it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from saei.errors import ConfigError
from saei.runtime.files import disk_errors, read_jsonl
from saei.runtime.lock import FolderLock

FILE = "ledger.jsonl"
PATIENCE_S = 60.0
STARTED, FINISHED, FAILED, ABORTED = "started", "finished", "failed", "aborted"
ACCEPTED, REJECTED = "accepted", "rejected"


class Ledger:
    """Adds lines to a study's ledger and never changes one.

    A run that was killed with the process that scheduled it has no line for its end: ``started`` without a later line
    means aborted, or under way.

    Args:
        folder: Where the study is kept.
        lock: A folder that all machines share, to write one after another.
    """

    def __init__(self, folder: Path, lock: Path) -> None:
        self.file = folder / FILE
        self._lock = lock

    def add(self, event: str, **facts: Any) -> None:
        """Add a line.

        Raises:
            CheckpointError: If the disk refuses.
        """
        line = {"time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z", "event": event, "machine": _machine(), **facts}
        with disk_errors(
            "A study notes every run in its ledger.", self.file, "Free some space, or give another --keep."
        ):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with _one_writer(self._lock), self.file.open("ab") as stream:
                stream.write(json.dumps(line).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines, the oldest first."""
        return read_jsonl(self.file)

    def last_events(self) -> dict[str, str]:
        """Return the last event of each run that was begun."""
        return {line["run"]: line["event"] for line in self.lines() if "run" in line}

    def verdicts(self) -> dict[str, bool]:
        """Return of each base that was built, by what it is known as, whether its gate accepted it."""
        verdicts: dict[str, bool] = {}
        for line in self.lines():
            if line["event"] in (ACCEPTED, REJECTED):  # the first stands, though it may be built again elsewhere
                verdicts.setdefault(line["base"], line["event"] == ACCEPTED)
        return verdicts


def _machine() -> str:
    """Return what tells machines apart without naming them."""
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes."""
    lock, until = FolderLock(folder), time.monotonic() + PATIENCE_S
    while True:
        try:
            lock.acquire()
            break
        except ConfigError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()
