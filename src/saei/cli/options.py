"""Shared by several commands: options, the configuration of a policy, and the examples below a help page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from saei.cli.reads import Reads
    from saei.config.run import RunConfig

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
Trust: TypeAlias = Annotated[
    bool,
    typer.Option("--trust", metavar=FLAG, help="Use the code and servers that somebody else's run names."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print JSON.")]


NOT_EVALUATED = ("sampler", "objective", "optimizer")
"""Sections of a run that are used in training only."""


def task_flags(task: str | None, data: str | None) -> dict[str, str | None]:
    """Return the settings of ``--task`` and ``--data``; data alone means the task ``dataset``.

    Raises:
        ConfigError: If the task reads no data.
    """
    if task is not None and data is not None:
        from saei.config.registry import entries, load
        from saei.errors import ConfigError

        known = task in [entry.name for entry in entries("task")]  # a plugin's task is registered later
        if known and "path" not in load("task", task).Config.model_fields:
            raise ConfigError(
                "--data is read by the task dataset, or by the task of a known data set.",
                reason=f"--task is '{task}', which makes its examples.",
                remedy="Leave one of the two out.",
            )
    return {"task.type": task or ("dataset" if data else None), "task.path": data}


def policy_config(
    model: str,
    flags: list[dict[str, Any]],
    assignments: list[str],
    plugins: list[str],
    *,
    reads: Reads | None = None,
    leave_out: Sequence[str] = (),
    trust: bool = False,
) -> RunConfig:
    """Return the configuration of a policy: its run's, if the model is a run or one of its checkpoints.

    Only the plugins of a run that are needed are imported, and only if this user trusts them.

    Args:
        model: ``--model``.
        flags: What flags set.
        assignments: ``--set``.
        plugins: ``--plugin``; what is named there, the user trusts.
        reads: What the command reads; assignments of anything else are refused. None for everything.
        leave_out: Sections of a run that the command does not use; they take their defaults.
        trust: ``--trust``.

    Raises:
        SaeiError: If the run cannot be read or a field is wrong.
    """
    from saei.config.overrides import command_line, load_config, nested

    if reads is not None:
        reads.check(assignments)
    folder = Path(os.path.expanduser(model))
    if not belongs_to_run(model):
        return load_config(flags=[*flags, nested("model.path", model)], assignments=assignments, plugins=plugins)
    from saei.config import consent
    from saei.config.overrides import merge
    from saei.config.registry import load_plugin
    from saei.config.run import RunConfig, validate
    from saei.console import say
    from saei.engine import checkpoint
    from saei.runtime.run_dir import RunDir

    run = _run_of(folder)
    path = checkpoint.latest(run / "checkpoints") if run == folder else folder
    weights = {"path": str(path), "revision": None}  # the run's revision belongs to the model that it started from
    above = command_line([*flags, {"model": weights}], assignments)
    for plugin in plugins:
        load_plugin(plugin)
    opened = RunDir(run)
    record, signatures = opened.read()
    for note in opened.notes:
        say(note, error=True)
    data = {
        name: value for name, value in record.items() if name not in leave_out and not _replaced(name, value, above)
    }
    named = [str(plugin) for plugin in data.pop("plugins", ())]
    needed = [plugin for plugin in named if plugin not in plugins] if consent.needs_plugins(data) else []
    consent.check(consent.plugin_names(needed), signatures, folder=run, trust=trust)
    for plugin in needed:
        load_plugin(plugin)
    data = merge(RunConfig, data, above)
    config = validate(data | {"plugins": [*plugins, *needed]})
    consent.check(consent.section_names(config), signatures, folder=run, trust=trust)
    return config


def _replaced(section: str, value: Any, layer: Mapping[str, Any]) -> bool:
    """Return whether a layer replaces a section's strategy by another, of which no field is kept."""
    from saei.config.fields import typed

    before = typed(value, None)
    if before is None or "type" not in before:
        return False
    other = typed(layer.get(section), before["type"])
    return other is not None and other["type"] != before["type"]


def model_path(model: str) -> str:
    """Return the path of a model's weights; for a run that of its newest checkpoint, and nothing else is read."""
    from saei.engine import checkpoint

    folder = Path(os.path.expanduser(model))
    is_run = belongs_to_run(model) and _run_of(folder) == folder
    return str(checkpoint.latest(folder / "checkpoints")) if is_run else model


def belongs_to_run(model: str) -> bool:
    """Return whether a model is a run's, which has a configuration."""
    return os.path.isfile(_run_of(Path(os.path.expanduser(model))) / "config.yaml")


def _run_of(folder: Path) -> Path:
    return folder.absolute().parents[1] if os.path.isfile(folder / "trainer.pt") else folder


def examples(*commands: str) -> str:
    """Return the text below a help page."""
    return "\n\n".join(["Examples:", *commands])
