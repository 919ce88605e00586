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
from saei.runtime.pace import Pace, readable_s

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

COLUMNS = (
    ("accuracy", "eval/accuracy", "{:.2f}"),
    ("entropy", "probe/entropy", "{:.3f}"),
    ("answers", "probe/distinct_answers", "{:.1f}"),
    ("zero var.", "probe/zero_variance", "{:.0%}"),
    ("reward", "train/reward", "{:.2f}"),
    ("length", "train/length", "{:.0f}"),
)
"""Heading, metric and format of what an evaluation shows; the first four are measured on the clean view of held-out
examples, the others are of the step before it."""

STEP_COLUMNS = (
    ("reward", "train/reward", "{:.2f}"),
    ("length", "train/length", "{:.0f} tokens"),
    ("entropy", "train/entropy", "{:.3f} nats"),
)
"""Name, metric and format of what the newest step shows, all on the responses that it trained on."""

ACTIVITIES = {
    "data": "reading data",
    "sample": "sampling",
    "attack": "attacking",
    "reward": "grading",
    "update": "updating",
    "evaluate": "evaluating",
    "control": "control probe",
    "checkpoint": "saving",
}
"""What a run does in each phase, in words; a phase that is not here has its name."""


class Display(Protocol):
    """Where a trainer shows its progress."""

    def open(self, config: RunConfig, run: Path) -> AbstractContextManager[None]:
        """Return a context manager that is open while training."""

    def phase(self, name: str | None) -> None:
        """Show which phase of a step has begun; None between phases."""

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

    def phase(self, name: str | None) -> None:
        """Show nothing."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class PlainDisplay:
    """One line per evaluation, one every ten seconds in between, and one for a phase that begins long after the last.

    Args:
        stream: Where lines go; None for standard error.
    """

    STEP_EVERY_S, PHASE_EVERY_S = 10.0, 30.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._steps, self._done = 0, 0
        self._last, self._last_of_any = 0.0, 0.0

    @contextmanager
    def open(self, config: RunConfig, run: Path) -> Iterator[None]:
        """Print where the run writes."""
        self._steps = config.training.steps
        self._pace = Pace(config.training.steps, config.evaluation.every)
        self.note(f"{title(config)}\nWriting to {run}")
        yield

    def phase(self, name: str | None) -> None:
        """Print a line if the last one is old: a step may take minutes."""
        if name is not None and time.monotonic() - self._last_of_any > self.PHASE_EVERY_S:
            self.note(f"step {self._done:>4}/{self._steps}  {ACTIVITIES.get(name, name)}")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print a line if there was an evaluation or the last line is old."""
        self._done = step
        self._pace.note(step, _evaluation_s(metrics))
        now = time.monotonic()
        if "eval/accuracy" in metrics or now - self._last > self.STEP_EVERY_S:
            self._last = now
            shown = [f"{name} {form.format(metrics[key])}" for name, key, form in COLUMNS if key in metrics]
            left = self._pace.left_s()
            if left is not None and step < self._steps:
                shown.append(f"{readable_s(left)} left")
            self.note(f"step {step:>4}/{self._steps}  " + "  ".join(shown))

    def note(self, text: str) -> None:
        """Print a line."""
        self._last_of_any = time.monotonic()
        print(printable(text), file=self._stream, flush=True)


SHOWN = 10
"""Newest evaluations in the live table; the first is always there to compare with."""


class LiveDisplay:
    """A table of the first and the newest evaluations, the newest step's numbers, and a bar with phase and time left.

    Args:
        console: Where it is drawn; None for standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or screen(stderr=True)
        self._rows: list[tuple[str, ...]] = []
        self._newest: Mapping[str, float] = {}
        self._steps, self._done = 0, 0
        self._activity, self._since = "starting", time.monotonic()

    @contextmanager
    def open(self, config: RunConfig, run: Path) -> Iterator[None]:
        """Show the panel while training."""
        from rich.live import Live

        self._steps = config.training.steps
        self._pace = Pace(config.training.steps, config.evaluation.every)
        self.note(f"{title(config)}\nWriting to {run}")
        # The panel is made anew each time it is drawn, since seconds go on between steps.
        with Live(get_renderable=self.panel, console=self._console, refresh_per_second=4):
            yield

    def phase(self, name: str | None) -> None:
        """Note which phase the bar names."""
        self._activity, self._since = ACTIVITIES.get(name, name) if name else "between phases", time.monotonic()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar and, after an evaluation, add a row."""
        self._done, self._newest = step, metrics
        self._pace.note(step, _evaluation_s(metrics))
        if "eval/accuracy" in metrics:
            self._rows.append((str(step), *_cells(metrics)))

    def note(self, text: str) -> None:
        """Print above the panel."""
        self._console.print(text)

    def panel(self) -> RenderableType:
        """Return what is shown now, for the console's width."""
        from rich.console import Group

        parts: list[RenderableType] = [self._table()] if self._rows else []
        shown = [f"{name} {form.format(self._newest[key])}" for name, key, form in STEP_COLUMNS if key in self._newest]
        if shown:
            parts.append(f"step {self._done}: {', '.join(shown)}")
        return Group(*parts, self._bar())

    def _table(self) -> Table:
        from rich.table import Table

        # Columns that do not fit are left out, the last first: cells that are cut say nothing.
        headings, room = ["step"], self._console.width - len("step")
        for name, _, _ in COLUMNS:
            room -= len(name) + 2
            if room < 0:
                break
            headings.append(name)
        table = Table(*headings, box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for row in self._rows if len(self._rows) <= SHOWN + 1 else [self._rows[0], ("…",), *self._rows[-SHOWN:]]:
            table.add_row(*row[: len(headings)])
        return table

    def _bar(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        left = None if self._done >= self._steps else self._pace.left_s()
        bar = Table.grid(padding=(0, 1, 0, 0), expand=True)
        # The words have a width of their own, so that the bar stays where it is.
        bar.add_column(width=24, no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_column(no_wrap=True)
        bar.add_row(
            f"{self._activity}, {readable_s(time.monotonic() - self._since)}",
            ProgressBar(total=self._steps, completed=self._done),
            f"{self._done}/{self._steps}",
            "" if left is None else f"{readable_s(left)} left",
        )
        return bar


def _cells(metrics: Mapping[str, float]) -> list[str]:
    return [form.format(metrics[key]) if key in metrics else "" for _, key, form in COLUMNS]


def _evaluation_s(metrics: Mapping[str, float]) -> float | None:
    """Return the seconds of the evaluation that a step's metrics hold, None where they hold none."""
    return metrics.get("time/evaluate", 0.0) if "eval/accuracy" in metrics else None


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
