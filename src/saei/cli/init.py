"""``saei init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saei.console import say


def init(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Such as geometry3k-7b-saei; without it, the choices are listed."),
    ] = None,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="New YAML file; by default RECIPE.yaml, here.")
    ] = None,
) -> None:
    """Write a recipe: a commented configuration for a known data set, a model and a method."""
    from saei.recipes import choices, find

    if recipe is None:
        say("\n".join(choices()))
        return
    chosen = find(recipe)
    file = Path(f"{chosen.name}.yaml") if file is None else file
    _write(file, chosen.text(str(file)))
    say(f"Wrote {file}: {chosen.title}.\nTrain it with:\n  {chosen.command(str(file))}")


def _write(file: Path, text: str) -> None:
    from saei.errors import ConfigError

    try:
        with file.open("x", encoding="utf-8") as opened:  # never overwrites, even if the file appears meanwhile
            opened.write(text)
    except FileExistsError as error:
        raise ConfigError(
            "init writes a new file.", reason=f"{file} exists.", remedy="Give another name behind the recipe's."
        ) from error
    except OSError as error:
        raise ConfigError(
            "init writes a new file.", reason=f"{file}: {error.strerror}.", remedy="Give another path."
        ) from error
