"""``saei show``."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer


def show(
    name: Annotated[str, typer.Argument(help="A strategy, such as pgd.")],
    kind: Annotated[str | None, typer.Option(help="Its kind, where several kinds have the name.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Python file or module with strategies; repeatable.")] = None,
) -> None:
    """Show what a strategy does, its fields and their defaults."""
    from saei.errors import ConfigError, nearest
    from saei.registry import KINDS, entries, load, load_plugin

    for each in plugin or []:
        load_plugin(each)
    known = [entry for each in ([kind] if kind else KINDS) for entry in entries(each)]
    found = [entry for entry in known if entry.name == name]
    if not found:
        raise ConfigError(
            f"'{name}' is not a registered strategy.", remedy=nearest(name, {entry.name for entry in known})
        )
    for entry in found:
        _print(load(entry.kind, entry.name), entry.kind)


def _print(strategy: Any, kind: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from saei.strategy import field_docs

    console = Console(highlight=False)
    console.print(f"[bold]{strategy.name()}[/bold]  {kind}")
    console.print(inspect.getdoc(strategy) or "", markup=False)
    table = Table("field", "default", "meaning", box=None)
    docs = field_docs(strategy.Config)
    for name, field in strategy.Config.model_fields.items():
        if name != "type":
            default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
            table.add_row(name, default, docs.get(name, ""))
    if table.row_count:
        console.print()
        console.print(table)
    console.print()
