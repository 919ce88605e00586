"""What several commands share: options, the configuration of a policy, and the examples below a help page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from saei.config import RunConfig

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


def policy_config(model: str, layers: list[dict[str, Any]], assignments: list[str], plugins: list[str]) -> RunConfig:
    """Return the configuration of a policy: that of its run, where it is a run or one of its checkpoints.

    Raises:
        SaeiError: If the run cannot be read or a field is wrong.
    """
    from saei.config import RunConfig, dump, validate
    from saei.layers import load_config, merge, nested, parse_assignment
    from saei.registry import load_plugin

    folder = Path(os.path.expanduser(model))
    run = _run_of(folder)
    if not in_a_run(model):
        return load_config(flags=[*layers, nested("model.path", model)], assignments=assignments, plugins=plugins)
    from saei.engine import checkpoint
    from saei.engine.rundir import RunDir

    for plugin in plugins:
        load_plugin(plugin)
    data = dump(RunDir.open(run)[1])
    path = checkpoint.latest(run / "checkpoints") if run == folder else folder
    for layer in [*layers, nested("model.path", str(path)), *map(parse_assignment, assignments)]:
        data = merge(RunConfig, data, layer)
    return validate(data)


def in_a_run(model: str) -> bool:
    """Return whether a model is a run's, which has a configuration."""
    return os.path.isfile(_run_of(Path(os.path.expanduser(model))) / "config.yaml")


def _run_of(folder: Path) -> Path:
    return folder.absolute().parents[1] if os.path.isfile(folder / "trainer.pt") else folder


def first_process() -> bool:
    """Return whether this is the only process, or of those that a launcher started the one that writes and shows."""
    return os.environ.get("RANK", "0") == "0"


def examples(*commands: str) -> str:
    """Return the text below a help page."""
    return "\n\n".join(["Examples:", *commands])
