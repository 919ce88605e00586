"""``saei demo``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from saei.cli.options import Assignments
from saei.console import say, screen


@dataclass(frozen=True, slots=True)
class Scene:
    """A task of the demonstration: one run of plain GRPO, one of SaEI.

    Attributes:
        task: Its name.
        steps: Training steps.
        step: Length of the attack's step.
        settings: What differs from the defaults, in both runs.
        title: What happens, whatever the result.
        caption: What has to be known to read the result.
    """

    task: str
    steps: int
    step: str
    settings: Mapping[str, Any]
    title: str
    caption: str

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
        "variants of the setting were tried before this one. Each step has 2 clear charts with 12 responses "
        "each; SaEI takes one PGD step of 4/255 on the middle third. The model's pixel normalisation makes "
        "2/255 act like 8/255 on an ordinary one. One base and one seed; docs/benchmarks.md has eight fresh "
        "bases and the controls.",
    ),
)


def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs and the picture.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Training steps of each run; by default 80 and 160.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all runs.")] = 0,
    set_: Assignments = None,
) -> None:
    """Train plain GRPO and SaEI on the tasks bars and lock-in, same budget, and show them side by side.

    A run that is complete is not repeated, and one that was interrupted goes on.
    """
    from rich.table import Table

    from saei.report.demo import ACCURACY, ENTROPY, STEPS, ZERO_VARIANCE, Story, draw, rows

    third = {"bars": ZERO_VARIANCE, "lock-in": STEPS}
    stories = []
    for scene in SCENES:
        length = steps or scene.steps
        runs = []
        for label, sampler in scene.arms.items():
            folder = output / f"{scene.task}-{sampler['type']}-steps{length}-seed{seed}"
            say(f"\n{scene.task}, {label}: {length} steps.", error=True)
            _train(folder, scene, sampler, length, seed, set_ or [])
            runs.append((label, folder))
        stories.append(Story(scene.title, scene.caption, (ACCURACY, ENTROPY, third[scene.task]), tuple(runs)))
    picture = output / f"demo-{f'steps{steps}-' if steps else ''}seed{seed}.png"
    try:
        draw(stories, picture)
    except OSError as error:  # the runs are there, and what they show is printed below
        say(f"The picture is not drawn: {picture}: {error.strerror}.", error=True)
    console = screen()
    for story in stories:
        console.print(f"\n{story.title}", style="bold")
        table = Table("run", *(name for _, name, _ in story.panels), box=None, padding=(0, 2, 0, 0))
        for row in rows(story):
            table.add_row(*row)
        console.print(table)
        console.print(story.caption)
    console.print(f"\nPicture: {picture}", soft_wrap=True)
    console.print("One pair of runs shows how the parts work, not which method is better.")


def _train(
    folder: Path, scene: Scene, sampler: Mapping[str, Any], steps: int, seed: int, assignments: list[str]
) -> None:
    from saei.cli.train import start
    from saei.config.overrides import load_config
    from saei.engine import checkpoint
    from saei.runtime.lock import FolderLock
    from saei.runtime.run_dir import RunDir

    command_again = "the same command again (saei demo with the same options, or make demo)"
    checkpoints = checkpoint.complete_in(folder / "checkpoints") if (folder / "config.yaml").is_file() else []
    if checkpoints:
        if checkpoint.step_of(checkpoints[-1]) == steps:
            say(f"Complete already: {folder}", error=True)
            return
        run, config = RunDir.open(folder)
        start(config, run, again=command_again)
        return
    if folder.exists():  # a run that was killed before its first checkpoint, or another demo's that is under way
        with FolderLock(folder):
            shutil.rmtree(folder, ignore_errors=True)
    flags = {
        "task": {"type": scene.task},
        "sampler": dict(sampler),
        "training": {"steps": steps},
        "output": {"root": str(folder.parent), "name": folder.name},
        "seed": seed,
    }
    start(load_config(flags=[dict(scene.settings), flags], assignments=assignments), again=command_again)
