"""``saei demo``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.options import Assignments
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.report.demo import Story
    from saei.studies.runs import PlannedRun
    from saei.studies.scheduler import RunStatus

AGAIN = "Go on:\n  the same command again (saei demo with the same options, or make demo)"


@dataclass(frozen=True, slots=True)
class Scene:
    """A task of the demonstration: runs of plain GRPO, and as many of SaEI.

    Attributes:
        task: Its name.
        steps: Training steps.
        step: Length of the attack's step.
        settings: What differs from the defaults, in both runs.
        title: What happens, whatever the result.
        caption: What has to be known to read the result.
        seeds: Runs of each arm, from consecutive seeds.
    """

    task: str
    steps: int
    step: str
    settings: Mapping[str, Any]
    title: str
    caption: str
    seeds: int

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The sampler of each run, by label."""
        return {
            "GRPO": {"type": "clean"},
            f"SaEI {self.step}": {"type": "mixed", "intervention": {"attack": {"step": self.step}}},
        }


SCENES = (
    Scene(
        task="bars",
        steps=80,
        step="2/255",
        settings={},
        title="bars: an easy task, on which a policy's entropy collapses while it learns",
        caption="Questions about bar charts, the built-in model, 8 prompts a step, 12 responses to each. "
        "Measured on held-out charts, clean view: fresh responses at temperature 1. The task is too easy for "
        "exploration to decide: over five seeds SaEI ends where plain GRPO does.",
        seeds=1,
    ),
    Scene(
        task="lock-in",
        steps=160,
        step="4/255",
        settings={
            "model": {"path": "builtin:lock-in"},
            "optimizer": {"lr": 1e-4},
            "training": {"prompts_per_step": 2},
            "evaluation": {"every": 20},
        },
        title="lock-in: a policy that knows a good strategy and never uses it",
        caption="Built to show the mechanism, no evidence about large models: the base was taught to answer clear "
        "charts at a glance (mostly wrong) and only faded ones step by step (mostly right); about seven "
        "variants of the setting were tried before this one. A run that takes up the good strategy escapes: its "
        "accuracy jumps, and its entropy FALLS. That is no collapse: who reads the bars step by step is sure of "
        "nearly every token, who guesses is not; what is left is the choice of words. A run that stays locked in "
        "keeps its entropy and learns nothing. Each step has 2 clear charts with 12 responses each; SaEI takes one "
        "PGD step of 4/255 on the middle third. The model's pixel normalisation makes 2/255 act like 8/255 on an "
        "ordinary one. One base; docs/benchmarks.md has eight fresh ones and the controls.",
        seeds=3,
    ),
)


def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs and the picture.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Training steps of each run; by default 80 and 160.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all runs; the first one on lock-in.")] = 0,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs of each arm; by default 1 on bars, 3 on lock-in.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs at a time; by default 2 where there are two cores.")
    ] = None,
    set_: Assignments = None,
) -> None:
    """Train plain GRPO and SaEI on the tasks bars and lock-in, same budget, and show them side by side.

    A run that is complete is not repeated, and one that was interrupted goes on.
    """
    from saei.report.demo import ACCURACY, ENTROPY, STEPS, ZERO_VARIANCE, Story, draw
    from saei.studies.scheduler import plan

    wanted = [
        (scene, label, planned)
        for scene in SCENES
        for number in range(seeds or scene.seeds)
        for label, planned in _planned(scene, steps or scene.steps, seed + number, output, set_ or []).items()
    ]
    statuses = plan([planned for _, _, planned in wanted])
    _train(statuses, jobs or min(2, os.cpu_count() or 1))
    third = {"bars": ZERO_VARIANCE, "lock-in": STEPS}
    stories = []
    for scene in SCENES:
        runs = [(label, status.folder) for (of, label, _), status in zip(wanted, statuses, strict=True) if of is scene]
        runs.sort(key=lambda run: list(scene.arms).index(run[0]))  # the seeds of an arm stand together
        stories.append(Story(scene.title, scene.caption, (ACCURACY, ENTROPY, third[scene.task]), tuple(runs)))
    shortened = "".join(f"{name}{value}-" for name, value in (("steps", steps), ("seeds", seeds)) if value)
    picture = output / f"demo-{shortened}seed{seed}.png"
    drawn = True
    try:
        draw(stories, picture)
    except OSError as error:  # the runs are there, and what they show is printed below
        say(f"The picture is not drawn: {picture}: {error.strerror}.", error=True)
        drawn = False
    _show(stories, picture if drawn else None)


def _planned(scene: Scene, steps: int, seed: int, output: Path, assignments: list[str]) -> dict[str, PlannedRun]:
    """Return the run of each arm with a seed, by the arm's label."""
    from saei.config.overrides import load_config
    from saei.studies.runs import PlannedRun

    runs = {}
    for label, sampler in scene.arms.items():
        flags = {
            "task": {"type": scene.task},
            "sampler": dict(sampler),
            "training": {"steps": steps},
            "output": {"root": str(output), "name": f"{scene.task}-{sampler['type']}-steps{steps}-seed{seed}"},
            "seed": seed,
        }
        config = load_config(flags=[dict(scene.settings), flags], assignments=assignments)
        runs[label] = PlannedRun(f"{scene.task}, {label}, seed {seed}", config)
    return runs


def _train(statuses: Sequence[RunStatus], jobs: int) -> None:
    """Do all runs; what was stopped or failed ends the command.

    Raises:
        TrainingError: If a run failed, with what it printed last.
    """
    from saei.errors import TrainingError
    from saei.studies.display import RunsDisplay
    from saei.studies.runs import LOG, last_words
    from saei.studies.scheduler import State, run_all

    display = RunsDisplay(jobs)
    new = sum(not status.already for status in statuses)
    if new:
        say(
            f"{new} runs of two small policies, {jobs} at a time; together about ten minutes on two cores. Ctrl-C "
            "stops them after their step, and the same command goes on.",
            error=True,
        )
    try:
        with display.open(statuses):
            run_all(
                statuses,
                jobs=jobs,
                on_change=display.change,
                on_stop=lambda: display.note("Stopping all runs after their step. Interrupt again to stop at once."),
            )
    except KeyboardInterrupt:
        say(f"Stopped at once. {AGAIN}", error=True)
        sys.exit(130)
    for status in statuses:
        if status.state is State.failed:
            raise TrainingError(
                "A run of the demonstration has to come to its end.",
                reason=f"{status.planned.label} did not. {status.folder / LOG} ends:\n{last_words(status.folder)}\n",
                remedy="Mend what is named there; the same command then goes on.",
            )
    if any(status.state is not State.complete for status in statuses):
        say(f"Stopped. {AGAIN}", error=True)
        sys.exit(130)


def _show(stories: Sequence[Story], picture: Path | None) -> None:
    """Print a table for each task, the share of runs that escaped, and what may be concluded."""
    from rich.table import Table

    from saei.report.demo import ESCAPED, escapes, rows

    def show(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        table = Table(*headings, box=None, padding=(0, 2, 0, 0))
        for line in lines:
            table.add_row(*line)
        console.print(table)

    console = screen()
    for story in stories:
        console.print(f"\n{story.title}", style="bold")
        show(["run", *(name for _, name, _ in story.panels)], rows(story))
        console.print(story.caption)
    locked_in = stories[-1]
    console.print(f"\nEscaped on lock-in: sampled accuracy above {ESCAPED} at the last step", style="bold")
    show(["arm", "escaped", "exact 95 % interval"], escapes(locked_in))
    console.print(
        "So few runs on one base show how the parts work, not which method is better: another seed may change each of "
        "these counts."
    )
    if picture is not None:
        console.print(f"\nPicture: {picture}", soft_wrap=True)
