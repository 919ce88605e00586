"""Progress of a long job: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saei.console import screen

EVERY_S = 10.0


@contextmanager
def progress(label: str, unit: str = "examples") -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the number of items done and the total."""
    if not sys.stderr.isatty():
        yield _Lines(label, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Prints a line every ten seconds."""

    def __init__(self, label: str, unit: str) -> None:
        self._label, self._unit = label, unit
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY_S:
            self._last = now
            print(f"{self._label}: {done} of {total} {self._unit}", file=sys.stderr, flush=True)
