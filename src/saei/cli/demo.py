"""``saei demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ARMS = (("GRPO", "clean"), ("SaEI", "mixed"))


def demo(
    output: Annotated[Path, typer.Option(help="Folder of the runs and the picture.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 80,
    seed: Annotated[int, typer.Option(help="Seed of both runs.")] = 0,
) -> None:
    """Train plain GRPO and SaEI on the bars task, same budget, and show them side by side.

    A run that is complete is not repeated, one that was interrupted goes on.
    """
    from rich.console import Console
    from rich.table import Table

    from saei.report.compare import PANELS, plot, read_curve, rows

    curves = []
    for label, sampler in ARMS:
        folder = output / f"bars-{sampler}-seed{seed}"
        _train(folder, sampler, steps, seed)
        curves.append(read_curve(label, folder))
    picture = output / f"bars-seed{seed}.png"
    plot(curves, picture, f"bars: plain GRPO and SaEI, 12 responses per prompt, {steps} steps, seed {seed}")
    table = Table("run", "steps", *(name for _, name, _ in PANELS), box=None)
    for row in rows(curves):
        table.add_row(*row)
    console = Console()
    console.print("\nMeasured on the clean view of held-out examples, before → after training:")
    console.print(table)
    console.print(f"Picture: {picture}\nOne pair of runs shows how the parts work, not which method is better.")


def _train(folder: Path, sampler: str, steps: int, seed: int) -> None:
    from saei.cli.train import start
    from saei.engine import checkpoint
    from saei.engine.rundir import RunDir
    from saei.layers import load_config

    if (folder / "config.yaml").is_file() and checkpoint.found(folder / "checkpoints"):
        run, config = RunDir.open(folder)
        if run.metrics()[-1]["step"] < config.training.steps:
            start(config, run)
        return
    config = load_config(
        flags=[
            {
                "sampler": {"type": sampler},
                "training": {"steps": steps},
                "output": {"root": str(folder.parent), "name": folder.name},
                "seed": seed,
            }
        ]
    )
    start(config)
