"""``saei view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saei.console import say

Folders = Annotated[
    list[Path],
    typer.Argument(metavar="RUN|EVALUATION [OTHER]", help="The folder of a run or an evaluation; two are compared."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where the page goes; by default view.html in the folder."),
]


def view(folders: Folders, output: Output = None) -> None:
    """Show a run, an evaluation or two of either as one HTML file, which opens from disk and loads nothing."""
    from saei.report.page import write_page

    say(f"Written: {write_page(folders, output)}")
