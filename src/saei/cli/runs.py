"""``saei runs``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.options import FLAG, AsJson
from saei.console import say, screen
from saei.errors import shown

if TYPE_CHECKING:
    from saei.report.run_list import RunSummary

ROOT = Path("runs")

SHARED = ("model", "task", "sampler", "attack", "selector", "state")
"""Columns that are told once where all runs have the same there."""

NUMBERS = ("steps", "accuracy", "entropy", "size")

NARROW = 80
"""Columns of a terminal below which the headings of sizes take two lines."""

DROPPED_FIRST = ("size", "started", "selector", "attack", "model", "task", "sampler")
"""Columns that a narrow terminal does without, in this order."""


def runs(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Runs, or folders with runs below them; runs/ if none is named."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="CONDITION", help="Only such runs: state=finished, 'accuracy>0.5'; repeatable."
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="FIELD", help="Order by a column or a field of the configuration.")
    ] = "started",
    reverse: Annotated[bool, typer.Option("--reverse", metavar=FLAG, help="Largest or newest first.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", metavar=FLAG, help="Show the fields of the configuration that differ.")
    ] = False,
    sizes: Annotated[
        bool, typer.Option("--sizes", metavar=FLAG, help="Show what each run takes on disk, by what it is for.")
    ] = False,
    delete: Annotated[
        str | None,
        typer.Option(metavar="PART", help="Delete old-checkpoints, checkpoints, samples or run of the runs named."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", metavar=FLAG, help="Delete without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """List runs: what each is, how far it got and what it reached; compare them, and tidy up."""
    from saei.report.run_filter import matching, ordered
    from saei.report.run_list import COLUMNS, find_runs, summarise

    if delete is not None:
        _delete(places or [], delete, yes=yes, listing=compare or sizes or bool(where))
        return
    listed = ordered(
        matching([summarise(path, name) for path, name in find_runs(places or [ROOT])], where or []),
        sort,
        reverse=reverse,
    )
    if as_json:
        print(json.dumps([_plain(run, compare=compare, sizes=sizes, runs=listed) for run in listed], indent=2))
        return
    if not listed:
        say(f"No run in {', '.join(map(str, places or [ROOT]))}" + (" meets that." if where else "."))
        return
    if compare:
        _show_differences(listed)
    elif sizes:
        _show_sizes(listed)
    else:
        _show(listed, COLUMNS)
    for run in listed:
        if run.problem:
            say(f"{run.name}: {run.problem}", error=True)


def _plain(run: RunSummary, *, compare: bool, sizes: bool, runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Return a run for ``--json``."""
    from saei.report.run_disk import costs
    from saei.report.run_list import COLUMNS
    from saei.report.run_settings import differing, setting

    row = {name: run.column(name) for name in COLUMNS} | {"steps": run.step, "of": run.steps, "path": str(run.path)}
    row["started"] = run.started.isoformat(timespec="seconds") if run.started else None
    if run.problem:
        row["problem"] = run.problem
    if compare:
        row["differs"] = {path: setting(run.config, path) for path in differing(runs)}
        row["config"] = dict(run.config)
    if sizes:
        row["sizes"] = costs(run.path)
    return row


def _show(runs: Sequence[RunSummary], columns: Sequence[str]) -> None:
    """Print a table; what all runs have in common stands above it once, and what does not fit is left out."""
    from rich.table import Table

    rows = [{name: _text(run, name) for name in columns} for run in runs]
    shared = {name: rows[0][name] for name in SHARED if len(runs) > 1 and len({row[name] for row in rows}) == 1}
    in_common = ", ".join(f"{name} {text}" for name, text in shared.items() if text)
    console = screen()
    _sentence(f"{len(runs)} run{'s' if len(runs) > 1 else ''}" + (f", all with {in_common}:" if in_common else ":"))
    left = [name for name in columns if name not in shared]
    widths = {name: 2 + max(len(name), *(len(row[name]) for row in rows)) for name in left}
    dropped = []
    for name in DROPPED_FIRST:
        if console.is_terminal and name in left and sum(widths[each] for each in left) > console.width:
            left.remove(name)
            dropped.append(name)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in left))
    if console.is_terminal:
        console.print(table)
    else:  # a file or a pipe has no width
        screen(width=max(80, sum(widths.values()))).print(table)
    if dropped:
        _sentence(f"Not shown on {console.width} columns: {', '.join(dropped)}.")


def _text(run: RunSummary, name: str) -> str:
    value = run.column(name)
    if name == "steps":
        return f"{run.step}/{run.steps or '?'}"
    if name == "size":
        return size_text(run.size)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else shown(str(value), 48)


def size_text(size: int) -> str:
    """Return a number of bytes as one reads it."""
    amount, unit = float(size), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"


def _show_differences(runs: Sequence[RunSummary]) -> None:
    """Print the fields that differ; of fields and runs, the more numerous go down the page."""
    from rich.table import Table

    from saei.report.run_settings import differing, of_some_strategies, short

    paths = differing(runs)
    if not paths:
        say(f"The configurations of {len(runs)} run{'s do' if len(runs) > 1 else ' does'} not differ.")
        return
    rows = [
        ["", *(run.name for run in runs)],
        *([short(path), *(_setting(run, path) for run in runs)] for path in paths),
        *([name, *(_text(run, name) for run in runs)] for name in ("steps", "accuracy", "entropy")),
    ]
    if len(runs) > len(rows):
        rows = [list(column) for column in zip(*rows, strict=True)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, overflow="fold", no_wrap=number == 0)
    for row in rows[1:]:
        table.add_row(*row)
    screen().print(table)
    hidden = of_some_strategies(runs)
    if hidden:
        _sentence(f"{hidden} more fields belong to strategies that only some of them have; --json has all.")
    if len(runs) == 2 and not any(run.problem for run in runs):
        _show_accuracy_difference(runs)


def _show_accuracy_difference(runs: Sequence[RunSummary]) -> None:
    """Print how far apart two runs ended, and whether that is paired by example."""
    from saei.report.accuracy_difference import last_difference
    from saei.report.page.folder import read_folder

    difference = last_difference([read_folder(run.path) for run in runs])
    if difference is None:
        return
    change = difference.interval
    how = (
        f"paired by {difference.examples} examples ({difference.test})"
        if difference.examples is not None
        else f"not paired by example. {difference.unpaired}"
    )
    _sentence(
        f"\nAccuracy of {shown(runs[1].name)} minus that of {shown(runs[0].name)} at their last evaluations: "
        f"{change.mean:+.3f}, 95 % interval {change.low:+.3f} to {change.high:+.3f}, {how}."
    )


def _setting(run: RunSummary, path: str) -> str:
    from saei.report.run_settings import setting

    value = setting(run.config, path)
    return "" if value is None else shown(str(value), 40)


def _sentence(text: str) -> None:
    """Print a sentence, on a terminal in lines that end between words."""
    from rich.text import Text

    console = screen()
    if console.is_terminal:
        console.print(Text(text))
    else:
        say(text)


def _show_sizes(runs: Sequence[RunSummary]) -> None:
    from rich.table import Table

    from saei.report.run_disk import costs

    of_runs = [costs(run.path) for run in runs]
    console = screen()
    narrow = console.is_terminal and console.width < NARROW
    table = Table(box=None, padding=(0, 1 if narrow else 2, 0, 0))
    table.add_column("run", overflow="fold")
    for name in (*of_runs[0], "all"):
        # Whole, since --delete takes these names.
        table.add_column(re.sub("([ -])", r"\1\n", name) if narrow else name, justify="right", no_wrap=True)
    for run, sizes in zip(runs, of_runs, strict=True):
        table.add_row(run.name, *(size_text(size) if size else "" for size in sizes.values()), size_text(run.size))
    if len(runs) > 1:
        totals = [sum(column) for column in zip(*(sizes.values() for sizes in of_runs), strict=True)]
        table.add_row("all runs", *map(size_text, totals), size_text(sum(totals)))
    screen().print(table)
    _sentence("`saei runs --delete old-checkpoints RUN...` frees what a run does not need to go on.")


def _delete(places: Sequence[Path], part: str, *, yes: bool, listing: bool) -> None:
    """Delete a part of the runs that were named, after showing what that is.

    Raises:
        SaeiError: If no run is named, something else is, or a process writes it.
    """
    from saei.errors import ConfigError
    from saei.report.run_disk import PARTS, delete, paths_of

    if not places or listing:
        raise ConfigError(
            "Only runs that are named are deleted.",
            reason="--where, --compare and --sizes list runs." if places else "None is named.",
            remedy=f"saei runs --delete {part} runs/first runs/second",
        )
    paths = [place.expanduser() for place in places]
    for path in paths:
        if not (path / "config.yaml").is_file():
            raise ConfigError(
                "Only runs that are named are deleted.",
                reason=f"{path} is no run: it has no config.yaml.",
                remedy="Name each run, not the folder that they are in.",
            )
    named = {path: paths_of(path, part) for path in paths}
    say(f"To be deleted, {part}: {PARTS[part]}.")
    for each in named.values():
        for path in each:
            say(f"  {path}")
    if not any(named.values()):
        say("There is nothing to delete.")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                "Nothing is deleted unasked.",
                reason="Nobody can be asked here.",
                remedy="Add --yes, or use a terminal.",
            )
        if not typer.confirm("Delete?", default=False):
            say("Nothing was deleted.")
            return
    say(f"Freed {size_text(sum(delete(path, part) for path in paths))}.")
