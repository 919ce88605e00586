"""Who does which part of a study: a claim per run or base, so that several machines share one folder."""

from __future__ import annotations

from pathlib import Path

from saei.errors import ConfigError
from saei.runtime.files import check_folder
from saei.runtime.lock import FolderLock


class Claims:
    """The claims that this process holds.

    A claim is a folder's lock, with host, process and heartbeat. It says who schedules a run; the lock in the run's own
    folder says who writes it. The claim of a process that is gone is taken over: at once on the same machine, after two
    minutes without a heartbeat from another one.

    Args:
        root: The folder of all claims, which the machines share.

    Raises:
        ConfigError: If the folder is not writable.
    """

    def __init__(self, root: Path) -> None:
        check_folder(root)
        self._root = root
        self._held: dict[str, FolderLock] = {}

    def take(self, name: str) -> bool:
        """Return whether the claim is this process's now; not, if another process holds it."""
        if name in self._held:
            return True
        lock = FolderLock(self._root / name)
        try:
            lock.acquire()
        except ConfigError:
            return False
        self._held[name] = lock
        return True

    def release(self, name: str) -> None:
        """Give a claim back; nothing happens where it is not held."""
        lock = self._held.pop(name, None)
        if lock is not None:
            lock.release()

    def release_all(self) -> None:
        """Give all claims back."""
        for name in list(self._held):
            self.release(name)
