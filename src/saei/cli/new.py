"""``saei new``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saei.console import say


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Of the strategy, such as selector or attack.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="package/name, such as lab/sharp; a name alone is in saei-name.")
    ],
    into: Annotated[
        Path | None, typer.Option("--into", metavar="FOLDER", help="New folder; by default that of the package, here.")
    ] = None,
) -> None:
    """Write a package with a strategy of your own: a class that works, its entry point, a test and a README."""
    from saei.scaffold import NewPackage, write

    package = NewPackage.of(kind, name)
    folder = Path(package.package) if into is None else into
    paths = write(package, folder)
    say(f"Wrote the {kind} {package.name}:")
    for path in paths:
        say(f"  {path}")
    place = folder if folder.is_absolute() else f"./{folder}"  # pip takes a bare word for a name on its index
    say(f"Change the class, then:\n  saei check {place}\n  pip install {place}\n  {package.use}")
