"""``saei study``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from saei.cli.options import FLAG, AsJson, Assignments
from saei.cli.study_outcome import print_json, say_standing, show_headlines, show_outcome
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.studies.execution import Execution
    from saei.studies.plan import StudyRun
    from saei.studies.scheduler import RunStatus

Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study that comes with saei, or the path of a YAML file.")
]
Output: TypeAlias = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder of the runs and bases of all studies; machines may share it.")
]
Keep: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Ledger and records; by default docs/studies/STUDY.")
]
StudyRoot: TypeAlias = Annotated[
    Path, typer.Option("--studies", metavar="FOLDER", help="Of a study: the --output that it ran with.")
]
QuickStudy: TypeAlias = Annotated[
    bool, typer.Option("--quick", metavar=FLAG, help="Of a study: what it did with --quick.")
]
ROOT = Path("runs/studies")


def list_() -> None:
    """List the studies that come with saei, with their questions."""
    from rich.table import Table

    from saei.config.yaml import read_yaml
    from saei.studies.catalogue import shipped

    table = Table("study", "question", box=None, padding=(0, 2, 0, 0))
    for name, file in shipped().items():
        table.add_row(name, str(read_yaml(file)["question"]))
    screen().print(table)


def show(name: Name, output: Output = ROOT, keep: Keep = None, as_json: AsJson = False) -> None:
    """Show what a study asks, its arms and contrasts, how far it is, and its outcome once all its runs have ended."""
    from saei.config.yaml import write_yaml
    from saei.studies.outcome import outcome_of

    execution = open_study(name, output, keep)
    study, outcome = execution.read.study, outcome_of(execution)
    if as_json:
        print_json(execution, outcome)
        return
    say(f"{study.name}: {study.question}\nRefuted by: {study.refuted_by}\n")
    for arm, settings in study.arms.items():
        told = write_yaml(settings, flow=True).strip() if settings else "the shared settings alone"
        say(f"  {arm}: {told}")
    for contrast in study.contrasts:
        say(
            f"Primary: {contrast.arm} - {contrast.against} in {contrast.measure}, smallest effect "
            f"{contrast.smallest_effect:g}, margin {contrast.margin:g}"
        )
    say(f"{study.bases.number} bases, {study.seeds} seed{'s' if study.seeds > 1 else ''} each.")
    say_standing(execution)
    show_outcome(outcome)


def page(name: Name, output: Output = ROOT, keep: Keep = None) -> None:
    """Write a study's page beside the folder that it is kept in: question, verdict, numbers, how to repeat it."""
    from saei.runtime.files import disk_errors, write_whole
    from saei.studies.outcome import outcome_of
    from saei.studies.page import page as text_of

    execution = open_study(name, output, keep)
    file = execution.places.page
    with disk_errors("A study's page is a file.", file, "Free some space, or give another --keep."):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text_of(execution, outcome_of(execution)))
    say(f"Wrote {file}.")


def headlines(output: Output = ROOT) -> None:
    """Show the headline answers of the studies that come with saei, their p values adjusted over all of them."""
    from saei.studies.catalogue import shipped
    from saei.studies.headlines import headline_answers
    from saei.studies.outcome import outcome_of

    executions = [open_study(name, output, None) for name in shipped()]
    show_headlines(headline_answers([(each.read.study, outcome_of(each)) for each in executions]))


def new(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the study, or of its new file.")]) -> None:
    """Write the file of a study to begin with."""
    from saei.errors import ConfigError
    from saei.studies.catalogue import TEMPLATE

    file = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    try:
        with file.open("x", encoding="utf-8") as opened:  # never overwrites, even if the file appears meanwhile
            opened.write(TEMPLATE.read_text(encoding="utf-8").replace("NAME", file.stem, 1))
    except OSError as error:
        raise ConfigError(
            "A new study is a new file.", reason=f"{file}: {error.strerror}.", remedy="Give another name."
        ) from error
    say(f"Wrote {file}. Try it with:\n  saei study run {shlex.quote(str(file))} --quick")


def freeze(name: Name, output: Output = ROOT, keep: Keep = None) -> None:
    """Fix a study at the newest commit, from whose hash the seeds of its bases and runs then derive."""
    from saei.studies.freeze import freeze as fix

    execution = open_study(name, output, keep)
    frozen = fix(execution.read, execution.places.keep, execution.ledger)
    say(f"Frozen at {frozen.commit}. Commit {execution.places.keep} as well, and run it.")


def run(
    name: Name,
    quick: Annotated[
        bool, typer.Option("--quick", metavar=FLAG, help="One base and few steps, to see whether everything works.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar=FLAG, help="Print the runs and CPU-hours, and do nothing.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs at a time; by default one per device, or 2.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="One value of CUDA_VISIBLE_DEVICES for each job.")
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="What starts a run, such as 'accelerate launch'.")
    ] = None,
    list_jobs: Annotated[
        bool, typer.Option("--list-jobs", metavar=FLAG, help="Print one command per run, for Slurm or Ray.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="HASH", help="Only this run; --list-jobs prints such commands.")
    ] = None,
    output: Output = ROOT,
    keep: Keep = None,
    set_: Assignments = None,
) -> None:
    """Do a study's runs: those that are missing, whoever did the others.

    The same command goes on after any interrupt, and on several machines that share the folder.
    """
    from saei.studies.scheduler import State

    execution = open_study(name, output, keep, quick=quick, assignments=set_ or [])
    chosen = [execution.run_of(only)] if only else None
    if list_jobs:
        from saei.studies.execution import job_command

        options = _options(quick, output, keep, launcher, set_ or [])
        for each in execution.left():
            say(shlex.join(job_command(execution, each, options)))
        return
    at_a_time = jobs or (len(devices.split(",")) if devices else min(2, os.cpu_count() or 1))
    if dry_run:
        _show_plan(execution)
        return
    if not only:
        say_standing(execution)
    base = chosen[0].base if chosen else None
    try:
        built = execution.build_bases(jobs=at_a_time, say=lambda text: say(text, error=True), only=base)
    except KeyboardInterrupt:
        built = False
    if not built:
        _leave_stopped()
    statuses = _train(execution, chosen or execution.runs(), at_a_time, devices, launcher)
    failed = [status for status in statuses if status.state is State.failed]
    for status in failed:
        _say_failure(status)
    if any(status.state in (State.stopped, State.waiting, State.elsewhere) for status in statuses):
        _leave_stopped()
    if not only:
        from saei.studies.outcome import outcome_of

        show_outcome(outcome_of(execution))
    if failed:
        sys.exit(1)


def _train(
    execution: Execution, runs: Sequence[StudyRun], jobs: int, devices: str | None, launcher: str | None
) -> list[RunStatus]:
    from saei.studies.display import RunsDisplay
    from saei.studies.scheduler import run_all

    display = RunsDisplay(jobs, outcomes=False)
    with execution.open(runs) as (statuses, hooks), display.open(statuses):
        try:
            run_all(
                statuses,
                jobs=jobs,
                launcher=shlex.split(launcher) if launcher else (sys.executable,),
                devices=devices.split(",") if devices else (),
                hooks=hooks,
                on_change=display.change,
                on_stop=lambda: display.note("Stopping all runs after their step. Interrupt again to stop at once."),
            )
        except KeyboardInterrupt:
            display.note("Stopped at once.")
    return statuses


def open_study(
    name: str, output: Path, keep: Path | None, *, quick: bool = False, assignments: Sequence[str] = ()
) -> Execution:
    """Return a study with the state of its runs.

    Args:
        name: Of a study that comes with saei, or the path of its file.
        output: Folder of the runs and bases of all studies.
        keep: Folder of ledger and records, None for the study's own.
        quick: Whether that of ``--quick`` is meant.
        assignments: ``--set``.

    Raises:
        ConfigError: If there is none, or its file is wrong.
    """
    from saei.studies.catalogue import find
    from saei.studies.execution import Execution, places_of
    from saei.studies.study import read

    study = read(find(name), quick=quick, assignments=assignments)
    return Execution(study, places_of(study, output, keep))


def check_of_a_study(quick: bool, studies: Path, keep: Path | None) -> None:
    """Refuse options of a study where something else is shown.

    Raises:
        ConfigError: If one was given.
    """
    from saei.errors import ConfigError

    if quick or keep or studies != ROOT:
        raise ConfigError(
            "--quick, --studies and --keep say which runs of a study are meant.",
            reason="What is shown is no study.",
            remedy="Leave them out, or name a study.",
        )


def _options(
    quick: bool, output: Path, keep: Path | None, launcher: str | None, assignments: Sequence[str]
) -> list[str]:
    """Return the options that the command of a single run repeats."""
    words = ["--output", str(output)]
    words += ["--quick"] if quick else []
    words += ["--keep", str(keep)] if keep else []
    words += ["--launcher", launcher] if launcher else []
    for assignment in assignments:
        words += ["--set", assignment]
    return words


def _show_plan(execution: Execution) -> None:
    """Print the runs that are left, and about how long they take."""
    from rich.table import Table

    runs, left = execution.runs(), {run.identity for run in execution.left()}
    table = Table("run", "on", "responses", "hash", "", box=None, padding=(0, 2, 0, 0))
    for run in runs:
        state = "to do" if run.identity in left else "recorded"
        table.add_row(run.planned.label, run.base.known_as, str(run.planned.responses), run.identity, state)
    screen(width=max(80, screen().width)).print(table)
    missing = [base for base in execution.bases() if base.accepted is None]
    if missing:
        say(f"{len(missing)} bases are to be built first, a few minutes each; the gate may reject some.")
    hours, budget = execution.cpu_hours(), execution.read.study.budget.cpu_hours
    allowed = f" The budget is {budget:g}." if budget and not execution.read.quick else ""
    if hours is None:
        say(f"{len(left)} runs to do. Their CPU-hours are unknown: no run of this study has been timed.{allowed}")
    else:
        say(f"{len(left)} runs to do, about {hours:.2f} CPU-hours by the runs that were timed.{allowed}")


def _say_failure(status: RunStatus) -> None:
    from saei.studies.runs import LOG, last_words

    say(f"Failed: {status.planned.label}. {status.folder / LOG} ends:\n{last_words(status.folder)}", error=True)


def _leave_stopped() -> None:
    say("Stopped. The same command goes on.", error=True)
    sys.exit(130)
