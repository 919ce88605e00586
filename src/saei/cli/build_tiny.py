"""``saei build-tiny``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saei.console import say


class RecipeName(StrEnum):
    """What a tiny model can be built for."""

    general = "general"
    lock_in = "lock-in"
    maze = "maze"


class CouplingName(StrEnum):
    """What can tie the strategy to the look of a chart; see ``saei.builtin.COUPLINGS``."""

    faded = "faded"
    reversed = "reversed"
    crisp = "crisp"
    orthogonal = "orthogonal"
    none = "none"


def build_tiny(
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the model.")],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of weights, data and order.")] = 0,
    recipe: Annotated[
        RecipeName, typer.Option(help="general is the built-in model's; lock-in and maze are of the tasks named so.")
    ] = RecipeName.general,
    coupling: Annotated[
        CouplingName | None,
        typer.Option(help="lock-in: the look that makes it go step by step; faded without this option."),
    ] = None,
) -> None:
    """Train a tiny model from scratch (minutes on one CPU core) and report whether it meets its requirements."""
    from saei.errors import ConfigError

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(
            "build-tiny writes a new folder.",
            reason=f"{output} exists and is not an empty folder.",
            remedy="Give another, or remove it.",
        )
    if coupling is not None and recipe is not RecipeName.lock_in:
        raise ConfigError(
            "--coupling belongs to the recipe lock-in.",
            reason=f"--recipe is '{recipe.value}'.",
            remedy="Leave --coupling out, or give --recipe lock-in.",
        )
    from saei.builtin import General, LockIn, Maze
    from saei.builtin import build_tiny as build
    from saei.runtime.lock import FolderLock

    chosen = {
        RecipeName.general: General(),
        RecipeName.lock_in: LockIn((coupling or CouplingName.faded).value),
        RecipeName.maze: Maze(),
    }[recipe]
    with FolderLock(output):
        say(build(output, chosen, seed, progress=lambda text: say(text, error=True)))
    task = "" if recipe is RecipeName.general else f" --task {recipe.value}"
    say(f"Train it with:\n  saei train --model {output}{task}")
