"""Showing how far several runs are: a live table on a terminal, otherwise plain lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from saei.console import say, screen
from saei.runtime.pace import readable_s
from saei.studies.scheduler import RunStatus, State

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

EVERY_S = 30.0
"""Seconds between plain lines while no run begins or ends."""

MOST_ROWS = 24
"""Rows of the table."""


class RunsDisplay:
    """Says which run of how many is under way, how far each is, and about how long all take.

    Args:
        jobs: Runs at a time.
        console: A terminal; None for standard error, if that is one.
        outcomes: Show the accuracy of each run. A study does not, until all its runs have ended.
    """

    def __init__(self, jobs: int, console: Console | None = None, *, outcomes: bool = True) -> None:
        self._jobs, self._outcomes = jobs, outcomes
        self._console = console or (screen(stderr=True) if sys.stderr.isatty() else None)
        self._statuses: Sequence[RunStatus] = ()
        self._said: dict[int, State] = {}
        self._last = time.monotonic()

    @contextmanager
    def open(self, statuses: Sequence[RunStatus]) -> Iterator[None]:
        """Show the runs while they are done."""
        self._statuses = statuses
        for status in statuses:
            if status.already and self._outcomes:
                say(f"Complete already: {status.folder}", error=True)
        if self._console is None:
            yield
            return
        from rich.live import Live

        with Live(get_renderable=self.panel, console=self._console, refresh_per_second=2):
            yield

    def change(self, statuses: Sequence[RunStatus]) -> None:
        """Print a line for each run that began or ended, and one in a while for all."""
        if self._console is not None:  # the table draws itself
            return
        for number, status in enumerate(statuses):
            if self._said.get(number, State.waiting) is not status.state and not status.already:
                self._say(f"Run {number + 1} of {len(statuses)} is {status.state}: {self._described(status)}")
            self._said[number] = status.state
        if time.monotonic() - self._last > EVERY_S:
            under_way = [self._described(status) for status in statuses if status.state is State.running]
            self._say("; ".join((*under_way, self.summary())))

    def note(self, text: str) -> None:
        """Print a sentence."""
        if self._console is None:
            self._say(text)
        else:
            self._console.print(text)

    def panel(self) -> RenderableType:
        """Return the table of all runs as they are now, above how many are complete and the time left."""
        from rich.console import Group
        from rich.table import Table

        headings = ["run", "step", *(["accuracy"] if self._outcomes else []), ""]
        table = Table(*headings, box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for status in self._rows():
            step = f"{status.step}/{status.steps}"
            outcome = [_accuracy(status)] if self._outcomes else []
            table.add_row(status.planned.label, step, *outcome, str(status.state))
        return Group(table, self.summary())

    def _rows(self) -> Sequence[RunStatus]:
        """Return the runs that have a row: all, or those worth one where a study has more than a screen takes."""
        if len(self._statuses) <= MOST_ROWS:
            return self._statuses
        told = (State.running, State.failed, State.elsewhere, State.stopped)
        return [status for status in self._statuses if status.state in told][-MOST_ROWS:]

    def summary(self) -> str:
        """Return how many runs are complete, and about how long the others take."""
        counts = Counter(status.state for status in self._statuses)
        parts = [f"{counts[State.complete]} of {len(self._statuses)} runs complete"]
        left = left_s(self._statuses, self._jobs)
        if left is not None:
            parts.append(f"about {readable_s(left)} left")
        elif counts[State.running]:
            parts.append("the time left is known once a run has done some steps")
        return ", ".join(parts)

    def _described(self, status: RunStatus) -> str:
        accuracy = _accuracy(status) if self._outcomes else ""
        told = f", accuracy {accuracy}" if accuracy else ""
        return f"{status.planned.label}, step {status.step}/{status.steps}{told}"

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        say(text, error=True)


def left_s(statuses: Sequence[RunStatus], jobs: int) -> float | None:
    """Return about how many seconds all runs still take, None where that is not known yet or nothing is left.

    Work is counted in responses drawn, since steps of different runs take unequal time.
    """
    seconds = sum(status.timed_s for status in statuses)
    done = sum(status.timed_steps * _per_step(status) for status in statuses)
    left = [
        (status.steps - status.step) * _per_step(status)
        for status in statuses
        if status.state in (State.waiting, State.running, State.elsewhere)
    ]
    if not left or done <= 0:
        return None
    # Runs at the end have no other beside them.
    return max(sum(left) / jobs, max(left)) * seconds / done


def _per_step(status: RunStatus) -> float:
    return status.planned.responses / status.steps


def _accuracy(status: RunStatus) -> str:
    accuracy = status.evaluation.get("eval/accuracy")
    return "" if accuracy is None else f"{accuracy:.2f}"
