"""Time per phase of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

PHASES = ("data", "sample", "attack", "reward", "advantage", "update", "evaluate", "samples")
"""Phases of a training step."""


class Stopwatch:
    """Adds up the wall-clock seconds of named phases.

    Args:
        phases: Phases to report even if no time was spent in them.
        on_phase: Called when a phase begins, with its name, and when it ends, with that of the phase around it; None
            where there is none.
    """

    def __init__(self, phases: Sequence[str] = (), on_phase: Callable[[str | None], None] = lambda name: None) -> None:
        self._phases, self._on_phase = phases, on_phase
        self._seconds: dict[str, float] = dict.fromkeys(phases, 0.0)
        self._current: str | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``."""
        around, self._current = self._current, name
        self._on_phase(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self._current = around
            self._on_phase(around)

    def read(self) -> dict[str, float]:
        """Return ``time/<phase>`` in seconds and reset all phases to 0."""
        read = {f"time/{name}": seconds for name, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(self._phases, 0.0)
        return read
