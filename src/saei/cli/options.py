"""Options that several commands share, and the examples below a help page."""

from __future__ import annotations

import os
from typing import Annotated, TypeAlias

import typer

FLAG = " "
"""Metavar of an option that takes no value."""

Plugins: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file or module with strategies of your own; repeatable."),
]
Assignments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any field, such as attack.step=4/255; repeatable."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print JSON.")]


def first_process() -> bool:
    """Return whether this is the only process, or of those that a launcher started the one that writes and shows."""
    return os.environ.get("RANK", "0") == "0"


def examples(*commands: str) -> str:
    """Return the text below a help page."""
    return "\n\n".join(["Examples:", *commands])
