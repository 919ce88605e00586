"""SIGINT and SIGTERM: the first finishes the step, a second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):  # noqa: N818  # it is an outcome, not an error
    """A run that was asked to stop and wrote a checkpoint."""


class StopRequest:
    """While open, turns the first signal into a request that the training loop reads.

    A second signal raises ``KeyboardInterrupt`` where the program is. Outside of the main thread, where Python
    delivers no signals, nothing is installed.

    Args:
        on_signal: Called at the first signal, to tell the user that it arrived.
    """

    def __init__(self, on_signal: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._on_signal = on_signal
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._on_signal()
