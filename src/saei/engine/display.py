"""Showing a run's progress: plain lines, or a live panel where output is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from saei.config.run import RunConfig
from saei.console import screen
from saei.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    ("accuracy", "eval/accuracy", "{:.2f}"),
    ("entropy", "probe/entropy", "{:.3f}"),
    ("answers", "probe/distinct_answers", "{:.1f}"),
    ("zero var.", "probe/zero_variance", "{:.0%}"),
    ("reward", "train/reward", "{:.2f}"),
    ("length", "train/length", "{:.0f}"),
)
"""Heading, metric and format of what is shown; the first four are measured on the clean view of held-out examples."""


class Display(Protocol):
    """Where a trainer shows its progress."""

    def open(self, config: RunConfig, run: Path) -> AbstractContextManager[None]:
        """Return a context manager that is open while training."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step's metrics."""

    def note(self, text: str) -> None:
        """Show a sentence."""


class SilentDisplay:
    """Shows nothing: the display of every process but the first."""

    @contextmanager
    def open(self, config: RunConfig, run: Path) -> Iterator[None]:
        """Show nothing while training."""
        yield

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class PlainDisplay:
    """One line per evaluation, and one every ten seconds in between."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._steps = 0
        self._last = 0.0

    @contextmanager
    def open(self, config: RunConfig, run: Path) -> Iterator[None]:
        """Print where the run writes."""
        self._steps = config.training.steps
        self.note(f"{title(config)}\nWriting to {run}")
        yield

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print a line if there was an evaluation or the last line is old."""
        now = time.monotonic()
        if "eval/accuracy" in metrics or now - self._last > 10:
            self._last = now
            shown = [f"{name} {form.format(metrics[key])}" for name, key, form in COLUMNS if key in metrics]
            self.note(f"step {step:>4}/{self._steps}  " + "  ".join(shown))

    def note(self, text: str) -> None:
        """Print a line."""
        print(printable(text), file=self._stream, flush=True)


SHOWN = 10
"""Newest evaluations in the live table; the first is always there to compare with."""


class LiveDisplay:
    """A table of the first and the newest evaluations above a progress bar."""

    def __init__(self) -> None:
        self._console = screen(stderr=True)
        self._rows: list[tuple[str, ...]] = []

    @contextmanager
    def open(self, config: RunConfig, run: Path) -> Iterator[None]:
        """Show the panel while training."""
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.note(f"{title(config)}\nWriting to {run}")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("measuring the start", total=config.training.steps)
        self._group = Group
        with Live(self._progress, console=self._console, refresh_per_second=4) as self._live:
            yield

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar and, after an evaluation, add a row."""
        if "eval/accuracy" in metrics:
            self._rows.append((str(step), *_cells(metrics)))
        self._progress.update(self._task, completed=step, description="training")
        self._live.update(self._group(self._table(), self._progress))

    def note(self, text: str) -> None:
        """Print above the panel."""
        self._console.print(text)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table("step", *(name for name, _, _ in COLUMNS), box=None, padding=(0, 2, 0, 0))
        for row in self._rows if len(self._rows) <= SHOWN + 1 else [self._rows[0], ("…",), *self._rows[-SHOWN:]]:
            table.add_row(*row)
        return table


def _cells(metrics: Mapping[str, float]) -> list[str]:
    return [form.format(metrics[key]) if key in metrics else "" for _, key, form in COLUMNS]


def title(config: RunConfig) -> str:
    """Return two lines: what is trained on which task, and how."""
    arms = config.sampler.build().plan().intervening
    interventions = [arm.intervention for arm in arms if arm.intervention is not None]
    slots = ", ".join(f"{each.selector.type} + {each.attack.type}" for each in interventions)
    how = f" ({slots})" if slots else ""
    return (
        f"Training {config.model.path} on {config.task.type}: {config.training.steps} steps of "
        f"{config.training.prompts_per_step} prompts, seed {config.seed}\n"
        f"Sampler {config.sampler.type}{how}, objective {config.objective.type}"
    )
