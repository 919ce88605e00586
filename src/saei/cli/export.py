"""``saei export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saei.cli.options import FLAG
from saei.console import say


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, whose newest checkpoint it is, or a checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder.")],
    merge: Annotated[
        bool, typer.Option("--merge", metavar=FLAG, help="Add a LoRA adapter to the weights of its model.")
    ] = False,
) -> None:
    """Write a run's policy as a folder that plain transformers loads, with a model card."""
    from saei.report.export import export as write

    exported = write(run, output, merge=merge)
    say(f"Of {exported.checkpoint}" + (", its adapter merged:" if exported.merged else ":"))
    for file in sorted(exported.folder.iterdir()):
        say(f"  {file}")
    say("Read README.md before you publish it, and add what it cannot know: licence, intended use, limits.")
