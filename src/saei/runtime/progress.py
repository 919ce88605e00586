"""Progress of a long job: a bar or its seconds on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from saei.console import say, screen
from saei.errors import printable
from saei.runtime.launcher import first_process
from saei.runtime.pace import readable_s

if TYPE_CHECKING:
    from rich.live import Live

EVERY_S = 10.0

_waiting: list[Live] = []
"""What ``seconds`` shows at the moment; two lives on one terminal would write over each other."""


@contextmanager
def progress(label: str, unit: str = "examples") -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the number of items done and the total."""
    if not sys.stderr.isatty():
        yield _Lines(label, unit)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    while _waiting:
        _waiting.pop().stop()
    columns = (
        TextColumn(label, markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, since"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def seconds(label: str, *, still: bool = False) -> Iterator[None]:
    """Show that something goes on whose length nobody knows, such as ``Loading builtin``, and for how long it does.

    Args:
        label: What goes on.
        still: Plain lines also on a terminal: for what has bars of its own there, such as a download.
    """
    if not first_process():
        yield
        return
    begun = time.monotonic()
    if sys.stderr.isatty() and not still:
        with _live(label, begun):
            yield
        return
    say(f"{label} ...", error=True)
    ended = threading.Event()
    threading.Thread(target=_say_seconds, args=(label, begun, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _live(label: str, begun: float) -> Iterator[None]:
    from rich.live import Live
    from rich.text import Text

    def line() -> Text:
        return Text(printable(f"{label} ... {readable_s(time.monotonic() - begun)}"), no_wrap=True, overflow="ellipsis")

    live = Live(get_renderable=line, console=screen(stderr=True), refresh_per_second=4)
    with live:
        _waiting.append(live)
        try:
            yield
        finally:
            if live in _waiting:
                _waiting.remove(live)


def _say_seconds(label: str, begun: float, ended: threading.Event) -> None:
    while not ended.wait(EVERY_S):
        say(f"{label}: {readable_s(time.monotonic() - begun)}", error=True)


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
