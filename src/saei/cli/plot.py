"""``saei plot``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saei.cli.options import FLAG, AsJson
from saei.cli.study import ROOT, Keep, QuickStudy, StudyRoot, check_of_a_study, open_study
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval
    from saei.report.run_groups import RunGroup


class By(StrEnum):
    """What makes the curves."""

    arm = "arm"


def plot(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Runs, or folders with runs below them; with --by arm a study."),
    ],
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
    by: Annotated[
        By | None, typer.Option("--by", help="The curves of a study's arms, when all of its runs have ended.")
    ] = None,
    quick: QuickStudy = False,
    studies: StudyRoot = ROOT,
    keep: Keep = None,
    as_json: AsJson = False,
) -> None:
    """Draw the evaluations of runs: means over seeds and bases, by what their configurations differ in, or by arm."""
    from saei.report.run_groups import FORMATS, write
    from saei.runtime.files import disk_errors

    files = output or [Path("runs.png")]
    for file in files:
        if file.suffix.lower() not in FORMATS:
            write([], file, "")  # refuses it, before anything is read
    if by is By.arm:
        groups, what = _arms(places, quick, studies, keep, chosen=bool(where or by_base or by_seed))
    else:
        check_of_a_study(quick, studies, keep)
        groups, what = _methods(places, where or [], by_base=by_base, by_seed=by_seed)
    for file in files:
        with disk_errors("A plot is written to a file.", file, "Free some space, or give another --output."):
            write(groups, file, title or what)
    if as_json:
        _print_json(groups, files)
        return
    _show(groups)
    say("Written: " + ", ".join(map(str, files)))


def _arms(
    places: Sequence[Path], quick: bool, studies: Path, keep: Path | None, *, chosen: bool
) -> tuple[list[RunGroup], str]:
    """Return the runs of a study by arm, and what they are.

    Raises:
        ConfigError: If it is not one study, or some of its runs are to be chosen, or not all have ended.
    """
    from saei.errors import ConfigError
    from saei.report.study_arms import arm_groups
    from saei.studies.outcome import outcome_of

    if len(places) != 1 or chosen:
        raise ConfigError(
            "--by arm draws all runs of one study.",
            reason=f"Got {len(places)} places." if len(places) != 1 else "Some of them are chosen, or kept apart.",
            remedy="Give its name or file, without --where, --by-base and --by-seed.",
        )
    execution = open_study(str(places[0]), studies, keep, quick=quick)
    study = execution.read.study
    return arm_groups(execution, outcome_of(execution)), f"{study.name}: {study.question}"


def _methods(places: Sequence[Path], where: list[str], *, by_base: bool, by_seed: bool) -> tuple[list[RunGroup], str]:
    """Return runs by what their configurations differ in, and what they are.

    Raises:
        ConfigError: If there is no run that was evaluated.
    """
    from saei.errors import ConfigError
    from saei.report.run_filter import matching
    from saei.report.run_groups import group_runs
    from saei.report.run_list import find_runs, summarise

    runs = matching([summarise(path, name) for path, name in find_runs(places)], where)
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
    tasks = dict.fromkeys(str(run.config.get("task.type")) for run in runs)
    return group_runs(runs, apart), f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {', '.join(tasks)}"


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
