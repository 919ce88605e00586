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


def task_flags(task: str | None, data: str | None) -> dict[str, str | None]:
    """Return what ``--task`` and ``--data`` set: data alone is of the task ``dataset``.

    Raises:
        ConfigError: If the task reads no data.
    """
    if task is not None and data is not None:
        from saei.errors import ConfigError
        from saei.registry import entries, load

        known = task in [entry.name for entry in entries("task")]  # a plugin's task is registered later
        if known and "path" not in load("task", task).Config.model_fields:
            raise ConfigError(
                "--data is read by the task dataset, or by the task of a known data set.",
                reason=f"--task is '{task}', which makes its examples.",
                remedy="Leave one of the two out.",
            )
    return {"task.type": task or ("dataset" if data else None), "task.path": data}


def first_process() -> bool:
    """Return whether this is the only process, or of those that a launcher started the one that writes and shows."""
    return os.environ.get("RANK", "0") == "0"


def examples(*commands: str) -> str:
    """Return the text below a help page."""
    return "\n\n".join(["Examples:", *commands])
