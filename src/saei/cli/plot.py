"""``saei plot``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saei.cli.options import FLAG, AsJson
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval
    from saei.report.run_groups import RunGroup


def plot(
    places: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or folders with runs below them.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .png, .svg, .pdf or .csv; repeatable; runs.png if none is named."
        ),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="CONDITION", help="Only such runs, as in `saei runs`.")
    ] = None,
    by_base: Annotated[
        bool, typer.Option("--by-base", metavar=FLAG, help="Keep runs of different models apart.")
    ] = False,
    by_seed: Annotated[
        bool, typer.Option("--by-seed", metavar=FLAG, help="Keep runs of different seeds apart.")
    ] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the picture.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the evaluations of runs: means over seeds and bases, by what their configurations differ in."""
    from saei.errors import ConfigError
    from saei.report.run_groups import FORMATS, group_runs, write
    from saei.report.run_list import find_runs, matching, summarise
    from saei.runtime.files import disk_errors

    files = output or [Path("runs.png")]
    for file in files:
        if file.suffix.lower() not in FORMATS:
            write([], file, "")  # refuses it, before anything is read
    runs = matching([summarise(path, name) for path, name in find_runs(places)], where or [])
    for run in runs:
        if run.problem or run.accuracy is None:
            reason = run.problem or "it has no evaluation of saei's own loop yet."
            say(f"{run.name} is left out: {reason}", error=True)
    runs = [run for run in runs if not run.problem and run.accuracy is not None]
    if not runs:
        raise ConfigError(
            "A plot needs a run that was evaluated.",
            reason=f"There is none in {', '.join(map(str, places))}"
            + (" that meets the conditions." if where else "."),
            remedy="See `saei runs`.",
        )
    apart = [*(["model.path", "model.revision"] if by_base else []), *(["seed"] if by_seed else [])]
    groups = group_runs(runs, apart)
    tasks = dict.fromkeys(str(run.config.get("task.type")) for run in runs)
    for file in files:
        with disk_errors("A plot is written to a file.", file, "Free some space, or give another --output."):
            write(groups, file, title or f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {', '.join(tasks)}")
    if as_json:
        _print_json(groups, files)
        return
    _show(groups)
    say("Written: " + ", ".join(map(str, files)))


def _show(groups: Sequence[RunGroup]) -> None:
    """Print each group's first and last mean of each measure."""
    from rich.table import Table

    from saei.report.run_groups import MEASURES

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("runs", overflow="fold")
    for heading in ("steps", *(name for _, name, _ in MEASURES)):
        table.add_column(heading, overflow="fold")
    for group in groups:
        points = group.points
        if not points:
            table.add_row(group.title, "none in common")
            continue
        first, last = points[0], points[-1]
        changes = [f"{first.values[m].mean:.3f} → {_interval(last.values[m])}" for m, _, _ in MEASURES]
        table.add_row(group.title, f"{first.step} → {last.step}", *changes)
    screen().print(table)


def _interval(value: Interval) -> str:
    bounded = math.isfinite(value.low)
    return f"{value.mean:.3f}" + (f" ({value.low:.3f} to {value.high:.3f})" if bounded else "")


def _print_json(groups: Sequence[RunGroup], files: Sequence[Path]) -> None:
    from saei.report.run_groups import table

    rows = list(csv.DictReader(io.StringIO(table(groups))))
    print(json.dumps({"files": list(map(str, files)), "points": rows}, indent=2))
