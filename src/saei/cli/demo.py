"""``saei demo``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from saei.cli.options import Assignments

ARMS = (("GRPO", "clean"), ("SaEI", "mixed"))


def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs and the picture.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Training steps of each run.")] = 80,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of both runs.")] = 0,
    set_: Assignments = None,
) -> None:
    """Train plain GRPO and SaEI on the task bars, same budget, and show them side by side.

    A run that is complete is not repeated, and one that was interrupted goes on.
    """
    from rich.console import Console
    from rich.table import Table

    from saei.report.compare import PANELS, plot, read_curve, rows

    curves = []
    for number, (label, sampler) in enumerate(ARMS, start=1):
        folder = output / f"bars-{sampler}-steps{steps}-seed{seed}"
        print(f"\nRun {number} of {len(ARMS)}: {label}, {steps} steps.", file=sys.stderr, flush=True)
        _train(folder, sampler, steps, seed, set_ or [])
        curves.append(read_curve(label, folder))
    picture = output / f"bars-steps{steps}-seed{seed}.png"
    plot(curves, picture, f"bars, {steps} steps, seed {seed}: measured on held-out examples, clean view")
    table = Table("run", *(name for _, name, _ in PANELS), box=None, padding=(0, 2, 0, 0))
    for row in rows(curves):
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(f"\nHeld-out examples, clean view, before → after {steps} steps:")
    console.print(table)
    console.print(f"\nPicture: {picture}", soft_wrap=True)
    console.print("One pair of runs shows how the parts work, not which method is better.")


def _train(folder: Path, sampler: str, steps: int, seed: int, assignments: list[str]) -> None:
    from saei.cli.train import start
    from saei.engine import checkpoint
    from saei.engine.rundir import RunDir
    from saei.layers import load_config

    again = "the same command again (saei demo with the same options, or make demo)"
    found = checkpoint.found(folder / "checkpoints") if (folder / "config.yaml").is_file() else []
    if found:
        if checkpoint.step_of(found[-1]) == steps:
            print(f"Complete already: {folder}", file=sys.stderr)
            return
        run, config = RunDir.open(folder)
        start(config, run, again=again)
        return
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before its first checkpoint
    flags = {
        "sampler": {"type": sampler},
        "training": {"steps": steps},
        "output": {"root": str(folder.parent), "name": folder.name},
        "seed": seed,
    }
    start(load_config(flags=[flags], assignments=assignments), again=again)
